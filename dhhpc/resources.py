"""Where the job templates, site configs and scaling studies that come with dhhpc lie."""

import sys
from pathlib import Path

from dhhpc.errors import DhhpcError


def resource_folder(name: str) -> Path:
    """The folder `jobs`, `site-configs` or `scaling-studies`: beside the package in a checkout (or an
    editable install), under `share/dhhpc` of the environment when installed from a wheel.

    Raises:
        DhhpcError: neither place has the folder.
    """
    candidates = [Path(__file__).parent.parent / name, Path(sys.prefix) / "share" / "dhhpc" / name]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DhhpcError(f"{name}: not found in {' or '.join(map(str, candidates))}; install dhhpc anew")
