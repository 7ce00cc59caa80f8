"""The kinds of training in a study, by variant and threads: a line of a plot each, and a part of a table."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc.scaling.studies.results import Point, Row, base_of

AS_IT_IS = "as it is"


def kinds_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each kind by its name, those of its base first.

    The experiment as it is has no line of its own where it was measured as the base of others alone.
    """
    found: dict[str, list[Row]] = {}
    keys = dict.fromkeys((row.variant, row.threads) for row in rows)
    for variant, threads in keys:
        own = [row for row in rows if (row.variant, row.threads) == (variant, threads)]
        only_base = variant == "" and len(own) == 1 and own[0].ranks == 1
        if only_base and any(other[0] != "" and other[1] == threads for other in keys):
            continue
        base = base_of(rows, variant, threads, own[0].ranks)
        shared = [base] if base is not None and base.variant != variant else []
        found[kind_of(own[0], rows)] = shared + own
    return found


def kind_of(measured: Row | Point, rows: Sequence[Row]) -> str:
    """The name of the kind of a row or point; empty where the study has one kind alone."""
    parts = []
    if any(row.variant for row in rows):
        parts.append(measured.variant or AS_IT_IS)
    if len({row.threads for row in rows}) > 1:
        parts.append(f"{measured.threads} thread{'s' if measured.threads != 1 else ''}")
    return ", ".join(parts)
