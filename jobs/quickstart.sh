#!/usr/bin/env bash
# The main job, from nothing: installs dhhpc into .venv if need be, then generates CT studies, trains and reports.
# Takes the options of `dhhpc quickstart`; see ./jobs/quickstart.sh --help.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment ""
exec "$python" -m dhhpc quickstart "$@"
