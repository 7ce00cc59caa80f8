"""Which module holds the kernels of a device."""

import importlib
from types import ModuleType

_BACKENDS = {"cpu": "dhhpc_kernels.cpu"}


def backend(device: str) -> ModuleType:
    """Return the kernel module of `device` ("cpu").

    Raises ValueError for a device this release has no kernels for. The module is imported on the first call
    only, because it brings in Numba.
    """
    if device not in _BACKENDS:
        raise ValueError(f"device {device!r} has no kernels in this release; use device 'cpu'")
    return importlib.import_module(_BACKENDS[device])
