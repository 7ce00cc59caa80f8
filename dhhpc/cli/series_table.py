"""The summary of a series as text."""

from __future__ import annotations

from typing import Any

COLUMN = 11


def as_text(summary: dict[str, Any], folder: object) -> str:
    """Members with status and time, then a table a split: members, mean, deviation and interval."""
    members, missing = summary["members"], summary["missing"]
    width = max(len("deviation"), *(len(row["name"]) for row in members)) + 2
    count = len(members) - len(missing)
    lines = [f"{folder}: {count} of {len(members)} members finished"]
    lines.append(f"  {'':{width}}{'totm (s)':>{COLUMN}}")
    for row in members:
        time = row["status"] if row["totm"] is None else f"{row['totm']:.1f}"
        lines.append(f"  {row['name']:{width}}{time:>{COLUMN}}")
    lines.append(f"  {'sum':{width}}{summary['totm']['sum']:{COLUMN}.1f}")
    for split, metrics in summary["metrics"].items():
        evaluated = {name for metric in metrics.values() for name in metric["values"]}
        without = [row["name"] for row in members if row["name"] not in evaluated]
        lines.append(f"{split} split, {len(evaluated)} of {len(members)} members")
        lines.append(f"  {'':{width}}" + "".join(f"{name:>{COLUMN}}" for name in metrics))
        rows = [
            (row["name"], [metric["values"].get(row["name"]) for metric in metrics.values()])
            for row in members
            if row["name"] in evaluated
        ]
        rows.append(("mean", [metric["mean"] for metric in metrics.values()]))
        rows.append(("deviation", [metric["deviation"] for metric in metrics.values()]))
        for name, values in rows:
            lines.append(f"  {name:{width}}" + "".join(cell(value) for value in values))
        intervals = [metric["interval"] for metric in metrics.values()]
        if any(intervals):
            for name, end in (("95 % from", 0), ("95 % to", 1)):
                cells = (cell(interval[end] if interval else None) for interval in intervals)
                lines.append(f"  {name:{width}}" + "".join(cells))
        together = [metric["ensemble"] for metric in metrics.values()]
        if any(value is not None for value in together):
            lines.append(f"  {'ensemble':{width}}" + "".join(cell(value) for value in together))
        if without:
            lines.append(f"  without {', '.join(without)}")
    ranks = sorted({row["ranks"] for row in members if row["ranks"] is not None})
    if len(ranks) > 1:
        lines.append(f"members were trained on {' and '.join(map(str, ranks))} ranks, and may differ by that")
    if missing:
        statuses = {row["name"]: row["status"] for row in members}
        lines.append("missing: " + ", ".join(f"{name} ({statuses[name]})" for name in missing))
    return "\n".join(lines)


def cell(value: float | None) -> str:
    return f"{'-':>{COLUMN}}" if value is None else f"{value:{COLUMN}.4f}"
