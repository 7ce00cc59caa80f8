"""Reading and writing image files.

The format is found by the registry, one module a format family does the work.
"""

from dhhpc.ecvl.io.registry import read, write

__all__ = ["read", "write"]
