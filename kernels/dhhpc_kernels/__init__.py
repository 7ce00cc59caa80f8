"""Tensor kernels of dhhpc: arrays in, arrays out, no idea of layers.

`backend("cpu")` gives the module whose functions a model calls. Every backend holds the same function names
with the same meaning, so the floor above never asks which device it runs on.
"""

from dhhpc_kernels.parallel import default_threads, set_threads, threads
from dhhpc_kernels.registry import backend, check_device

__all__ = ["backend", "check_device", "default_threads", "set_threads", "threads"]
