"""`dhhpc kernels bench`: our kernels and networks timed beside a peer's, on the same cores, in turn.

A new row is a line of `cases.CASES`; a new kind of row a dataclass there and a `prepare` of it on each side.
"""

from dhhpc.benchmarks.cases import CASES
from dhhpc.benchmarks.explanation import explain
from dhhpc.benchmarks.runner import (
    QUIET_CORES,
    Result,
    busy_cores,
    check_peer,
    geometric_means,
    measured_peak,
    run,
    select,
)

__all__ = [
    "CASES",
    "QUIET_CORES",
    "Result",
    "busy_cores",
    "check_peer",
    "explain",
    "geometric_means",
    "measured_peak",
    "run",
    "select",
]
