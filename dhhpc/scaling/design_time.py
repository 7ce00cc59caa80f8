"""The time that a person spends on a preprocessing pipeline, T1 of the KPI toppi, beside the shards."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pydantic

from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json


class DesignTime(Document):
    """What `SHARDS.design-time.json` holds: hours so far, and since when the clock runs, if it does."""

    schema_version: Literal[1] = 1
    hours: float = pydantic.Field(0.0, ge=0, allow_inf_nan=False)
    since: pydantic.AwareDatetime | None = None


def design_file(shards: Path | str) -> Path:
    """Where the time for a folder of shards is kept, also before its pipeline has written it."""
    folder = Path(shards).absolute()
    return folder.with_name(f"{folder.name}.design-time.json")


def read_design_time(shards: Path | str) -> DesignTime | None:
    """What was entered for a folder of shards; None if nothing was.

    Raises:
        DhhpcError: the file is damaged.
    """
    path = design_file(shards)
    if not path.is_file():
        return None
    try:
        return DesignTime.model_validate(read_json(path))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise DhhpcError(
            f"{path}: {where}: {first['msg']}; mend it, or delete it and enter T1 anew"
        ) from None


def design_seconds(shards: Path | str) -> float | None:
    """T1 in seconds, without what a running clock has not added yet; None if nothing was entered."""
    found = read_design_time(shards)
    return None if found is None or (found.since and not found.hours) else found.hours * 3600


def start(shards: Path | str, now: datetime | None = None) -> DesignTime:
    """Start the clock.

    Raises:
        DhhpcError: it runs already.
    """
    found = read_design_time(shards) or DesignTime()
    if found.since is not None:
        raise DhhpcError(f"{design_file(shards)}: the clock runs since {found.since}; stop it first")
    return keep(shards, DesignTime(hours=found.hours, since=now or datetime.now(UTC)))


def stop(shards: Path | str, now: datetime | None = None) -> DesignTime:
    """Stop the clock and add its time.

    Raises:
        DhhpcError: it does not run, or was started in the future.
    """
    found = read_design_time(shards) or DesignTime()
    if found.since is None:
        raise DhhpcError(f"{design_file(shards)}: no clock runs; `dhhpc kpi design-time start {shards}`")
    hours = ((now or datetime.now(UTC)) - found.since).total_seconds() / 3600
    if hours < 0:
        raise DhhpcError(f"{design_file(shards)}: since: {found.since} is in the future; mend it")
    return keep(shards, DesignTime(hours=found.hours + hours))


def add(shards: Path | str, hours: float) -> DesignTime:
    """Add hours that no clock measured; fewer than none take back.

    Raises:
        DhhpcError: no finite number, or it takes back more than there is.
    """
    found = read_design_time(shards) or DesignTime()
    if not math.isfinite(hours) or found.hours + hours < 0:
        raise DhhpcError(
            f"{hours:g} hours: give a number that leaves {found.hours:g} hours or more at 0 or more"
        )
    return keep(shards, DesignTime(hours=found.hours + hours, since=found.since))


def keep(shards: Path | str, value: DesignTime) -> DesignTime:
    write_json(design_file(shards), value.model_dump(mode="json"))
    return value
