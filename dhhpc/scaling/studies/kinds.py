"""The kinds of training in a study, by variant, threads and nodes: a line of a plot each, part of a table."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc.scaling.studies.results import Point, Row, base_of

AS_IT_IS = "as it is"


def kinds_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each kind by its name, those of its base first.

    One rank has no line of its own where it was measured as the base of others alone.
    """
    kinds: dict[tuple[str, int, int | None], list[Row]] = {}
    for row in rows:
        kinds.setdefault((row.variant, row.threads, row.nodes), []).append(row)
    bases = {key: base_of(rows, key[0], key[1], own[0].ranks) for key, own in kinds.items()}
    found: dict[str, list[Row]] = {}
    for key, own in kinds.items():
        base_alone = len(own) == 1 and own[0].ranks == 1
        if base_alone and any(base is own[0] for other, base in bases.items() if other != key):
            continue
        base = bases[key]
        shared = [base] if base is not None and base not in own else []
        found[kind_of(own[0], rows)] = shared + own
    return found


def kind_of(measured: Row | Point, rows: Sequence[Row]) -> str:
    """The name of the kind of a row or point; empty where the study has one kind alone."""
    parts = []
    if any(row.variant for row in rows):
        parts.append(measured.variant or AS_IT_IS)
    if len({row.threads for row in rows}) > 1:
        parts.append(f"{measured.threads} thread{'s' if measured.threads != 1 else ''}")
    if len({row.nodes for row in rows}) > 1:
        parts.append(f"{measured.nodes} node{'s' if measured.nodes != 1 else ''}")
    return ", ".join(parts)
