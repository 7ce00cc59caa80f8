"""Results as lines of text, printed one by one as they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dhhpc.benchmarks.runner import Result

HEADINGS = ("ms", "peer ms", "ratio", "min", "max", "GFLOP/s", "of peak", "MB", "GB/s", "peak MB", "peer MB")
WIDTH = 9


def heading(names: Sequence[str]) -> str:
    return "benchmark".ljust(name_width(names)) + "".join(text.rjust(WIDTH) for text in HEADINGS)


def line(result: Result, names: Sequence[str]) -> str:
    """One result under `heading(names)`."""
    ratio, peer = result.ratio, result.peer_seconds
    ratios = (ratio.median, ratio.min, ratio.max) if ratio else (None, None, None)
    cells = (
        milliseconds(result.seconds.median),
        milliseconds(peer.median) if peer else "",
        *(number(value, 2) for value in ratios),
        number(result.gflops, 1),
        number(result.peak_share and result.peak_share * 100, 0, "%"),
        number(result.bytes / 1e6, 1),
        number(result.gigabytes_per_second, 1),
        number(result.peak_memory and result.peak_memory / 1e6, 0),
        number(result.peer_peak_memory and result.peer_peak_memory / 1e6, 0),
    )
    return result.name.ljust(name_width(names)) + "".join(cell.rjust(WIDTH) for cell in cells).rstrip()


def columns(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows of equal keys as aligned lines, the keys first."""
    keys = list(rows[0]) if rows else []
    widths = [max(len(key), *(len(row[key]) for row in rows)) for key in keys]
    lines = [keys, *(list(row.values()) for row in rows)]
    return ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in lines]


def name_width(names: Sequence[str]) -> int:
    return max(map(len, names)) + 1


def milliseconds(seconds: float) -> str:
    return number(seconds * 1e3, 3 if seconds < 1 else 0)


def number(value: float | None, digits: int, unit: str = "") -> str:
    return "" if value is None else f"{value:.{digits}f}{unit}"
