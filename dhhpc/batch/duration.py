"""Time limits as SLURM writes them."""

from __future__ import annotations

import re
from typing import Annotated

import pydantic

# sbatch(1), --time: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes"
# and "days-hours:minutes:seconds".
FORMAT = re.compile(r"(?:(?P<days>\d+)-(?P<after_days>\d+(?::\d+){0,2})|(?P<plain>\d+(?::\d+){0,2}))")
UNITS_AFTER_DAYS: tuple[int, ...] = (3600, 60, 1)
UNITS_PLAIN: dict[int, tuple[int, ...]] = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}


def parse_duration(text: str) -> int:
    """The seconds in a SLURM time such as `90` (minutes), `1:30:00` or `2-12`.

    Raises:
        ValueError: not such a time, or zero.
    """
    match = FORMAT.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is no time; write minutes, hours:minutes:seconds or days-hours:minutes:seconds"
        )
    if match["days"] is not None:
        parts, units = match["after_days"].split(":"), UNITS_AFTER_DAYS
        seconds = int(match["days"]) * 86400
    else:
        parts = match["plain"].split(":")
        units, seconds = UNITS_PLAIN[len(parts)], 0
    seconds += sum(int(part) * unit for part, unit in zip(parts, units, strict=False))
    if seconds == 0:
        raise ValueError(f"{text!r} is no time at all; a job needs at least a second")
    return seconds


def format_duration(seconds: int) -> str:
    """`hours:minutes:seconds`, with `days-` before it from a day on."""
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def coerce_duration(value: object) -> object:
    # YAML 1.1 reads an unquoted 1:30:00 as the base-60 number 5400 (seconds); a plain 90 would mean minutes.
    # Both come here as numbers, so only text is unambiguous.
    if isinstance(value, int | float):
        raise ValueError(f'write the time between quotes, e.g. "{format_duration(max(int(value), 1))}"')
    return parse_duration(value) if isinstance(value, str) else value


Duration = Annotated[
    int,
    pydantic.BeforeValidator(coerce_duration),
    pydantic.PlainSerializer(format_duration, return_type=str),
]
