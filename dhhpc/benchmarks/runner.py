"""Times the sides in turn, so that whatever else the machine does meanwhile hits both alike."""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from dhhpc.benchmarks.cases import CASES, Case
from dhhpc.benchmarks.sides import Side
from dhhpc.errors import DhhpcError

PEERS = ("torch",)
# A sample of a short call repeats it for so long, in seconds.
SAMPLE_SECONDS = 0.1
# Before the sides change over: an OpenMP library's threads spin for some milliseconds after their work.
PAUSE_SECONDS = 0.02
# Other processes that use more of the cores than this distort the figures.
QUIET_CORES = 0.2


@dataclass(frozen=True)
class Spread:
    """Median, least and largest of the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Result:
    """What was measured of one case.

    Attributes:
        name: the case's.
        kind: the class of the case, "Convolution" and so on.
        seconds, peer_seconds: of one call.
        ratio: peer time over our time, of pairs measured one right after the other.
        gflops: 10^9 operations a second by the definition of the case (a faster algorithm does fewer, so it
            may exceed the peak); None where memory is the limit.
        peak_share: `gflops` over the machine's measured peak.
        bytes: that a call must read or write.
        gigabytes_per_second: those bytes over our time.
        peak_memory, peer_peak_memory: bytes resident in the process at most; of networks only.
    """

    name: str
    kind: str
    seconds: Spread
    peer_seconds: Spread | None
    ratio: Spread | None
    gflops: float | None
    peak_share: float | None
    bytes: int
    gigabytes_per_second: float
    peak_memory: int | None
    peer_peak_memory: int | None

    def document(self) -> dict[str, object]:
        return asdict(self)


def select(parts: Sequence[str]) -> list[Case]:
    """The cases whose names hold one of `parts`; all without any.

    Raises:
        DhhpcError: a part is in no name.
    """
    for part in parts:
        if not any(part in case.name for case in CASES):
            names = ", ".join(case.name for case in CASES)
            raise DhhpcError(f"--only {part!r}: no such benchmark; give a part of one of: {names}")
    return [case for case in CASES if not parts or any(part in case.name for part in parts)]


def check_peer(peer: str) -> None:
    """Raises DhhpcError where the peer is unknown or not installed."""
    if peer not in PEERS:
        raise DhhpcError(f"--peer {peer!r}: unknown; choose one of {', '.join(PEERS)}")
    if importlib.util.find_spec(peer) is None:
        raise DhhpcError(f'--peer {peer}: it is not installed; run `pip install "dhhpc[bench]"`')


def busy_cores(seconds: float = 0.5) -> float:
    """How many cores other processes keep busy, or the host takes away, seen over so many seconds."""

    def busy_ticks() -> int:
        # user, nice, system, idle, iowait, irq, softirq, steal: proc(5)
        counts = [int(count) for count in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(counts) - counts[3] - counts[4]

    before, started = busy_ticks(), time.perf_counter()
    time.sleep(seconds)
    ticks = busy_ticks() - before
    return ticks / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - started)


def measured_peak(threads: int) -> float:
    """10^9 float32 operations a second of a multiply-add loop on so many threads."""
    with Side("dhhpc", threads) as side:
        return float(side.ask("peak_gflops"))


def run(
    cases: Sequence[Case], peer: str | None, rounds: int, threads: int, peak_gflops: float
) -> Iterator[Result]:
    """Measure the cases in order, each over so many rounds."""
    names = ["dhhpc", peer] if peer else ["dhhpc"]
    with ExitStack() as stack:
        shared: list[Side] = []
        for case in cases:
            if case.own_processes:
                with ExitStack() as own:
                    sides = [own.enter_context(Side(name, threads)) for name in names]
                    yield measure(case, sides, rounds, peak_gflops)
            else:
                shared = shared or [stack.enter_context(Side(name, threads)) for name in names]
                yield measure(case, shared, rounds, peak_gflops)


def measure(case: Case, sides: Sequence[Side], rounds: int, peak_gflops: float) -> Result:
    """One case on our side and, if given, on the peer's."""
    repetitions = [
        max(1, math.ceil(SAMPLE_SECONDS / max(side.ask("prepare", case.name), 1e-6))) for side in sides
    ]
    samples: list[list[float]] = [[] for _ in sides]
    for turn in range(rounds):
        # Now this side is first, now that one.
        for i in range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides))):
            time.sleep(PAUSE_SECONDS)
            samples[i].append(sides[i].ask("run", repetitions[i]))
    seconds = Spread.of(samples[0])
    peer_samples = samples[1] if len(sides) > 1 else None
    memory = [side.ask("peak_memory") if case.own_processes else None for side in sides]
    operations, size = case.operations(), case.bytes()
    gflops = operations / seconds.median / 1e9 if operations else None
    return Result(
        case.name,
        type(case).__name__,
        seconds,
        Spread.of(peer_samples) if peer_samples else None,
        Spread.of([peer / own for own, peer in zip(samples[0], peer_samples, strict=True)])
        if peer_samples
        else None,
        gflops,
        gflops / peak_gflops if gflops else None,
        size,
        size / seconds.median / 1e9,
        memory[0],
        memory[1] if len(memory) > 1 else None,
    )


def geometric_means(results: Sequence[Result]) -> dict[str, float]:
    """By kind of case, the geometric mean of the median ratios."""
    ratios: dict[str, list[float]] = {}
    for result in results:
        if result.ratio is not None:
            ratios.setdefault(result.kind, []).append(result.ratio.median)
    return {kind: statistics.geometric_mean(values) for kind, values in ratios.items()}
