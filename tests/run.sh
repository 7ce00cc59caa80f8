#!/usr/bin/env bash
# Runs every check and test, after installing what they need: ./tests/run.sh [--no-skips] [pytest arguments]
#
#   --no-skips   tests of MPI, SLURM, shellcheck and the real images may not be skipped: a skip is a failure
#
# The tests of real images run when DHHPC_REAL_DATA names their folder.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../jobs/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../jobs/environment.sh"

if [[ ${1:-} == --no-skips ]]; then
    export DHHPC_NO_SKIPS=1
    shift
fi

# install_programs TITLE "PACKAGE..." PROGRAM...: installs the packages where a program is missing.
install_programs() {
    local title=$1 packages missing=() name
    read -ra packages <<< "$2"
    # The daemons of Debian's packages lie in sbin, which a user's PATH may lack.
    for name in "${@:3}"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$name" > /dev/null || missing+=("$name")
    done
    if ((${#missing[@]} == 0)); then return; fi
    if can_use_apt; then
        say "installing $title with apt (missing: ${missing[*]})"
        apt_install "${packages[@]}" && return
        say "apt could not install ${packages[*]}; the tests of $title are skipped"
    else
        say "missing ${missing[*]}: the tests of $title are skipped; install ${packages[*]} to run them"
    fi
}

failures=()
check() {
    local title=$1 code=0
    shift
    printf '\n== %s\n' "$title"
    "$@" < /dev/null || code=$?
    # pytest ends with 5 when no test was selected, which only arguments of the caller may bring about.
    if ((code == 5 && narrowed)); then code=0; fi
    if ((code != 0)); then failures+=("$title (exit code $code)"); fi
}

narrowed=$(($# > 0))
prepare_environment test
# With accounting (slurmdbd), whose database the tests start themselves: no service of MariaDB is installed.
install_programs SLURM "slurm-wlm munge slurmdbd mariadb-server-core mariadb-client-core" \
    sinfo srun slurmctld slurmd munged slurmdbd mariadbd mariadb-install-db my_print_defaults
install_programs shellcheck shellcheck shellcheck
cd -- "$checkout"

# Two processes at a time, tests or ranks, share the cores: with more threads each they wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
check "ruff check" "$python" -m ruff check .
check "ruff format" "$python" -m ruff format --check .
check "mypy" "$python" -m mypy
# Two at a time: much of a test is waiting for processes that start. A file stays with one worker, and files begin in
# their order: xdist would leave to the end those of few tests, which take longest.
check "tests" "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 -m "not mpi and not slurm" "$@"
check "tests on 2 MPI ranks" "$mpiexec" -n 2 "$python" -m pytest -p no:cacheprovider --with-mpi -m mpi "$@"
check "tests on SLURM" "$python" -m pytest --durations=5 -m slurm "$@"

printf '\n'
if ((${#failures[@]})); then
    for failure in "${failures[@]}"; do say "failed: $failure"; done
    exit 1
fi
say "all checks and tests passed"
