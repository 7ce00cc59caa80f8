"""Which module holds the kernels of a device."""

import importlib
from types import ModuleType

_BACKENDS = {"cpu": "dhhpc_kernels.cpu"}


def check_device(device: str) -> None:
    """Raise ValueError for a device this release has no kernels for."""
    if device not in _BACKENDS:
        raise ValueError(f"device {device!r} has no kernels in this release; use device 'cpu'")


def backend(device: str) -> ModuleType:
    """Return the kernel module of `device` ("cpu").

    Raises ValueError for a device this release has no kernels for. The module is imported on the first call
    only, because it brings in Numba.
    """
    check_device(device)
    return importlib.import_module(_BACKENDS[device])
