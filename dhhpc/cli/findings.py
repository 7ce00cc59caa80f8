"""What a look at a machine found, for people or programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from dhhpc.findings import Finding

COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}


def show(findings: Iterable[Finding], as_json: bool) -> bool:
    """Print each finding as it comes, with the mend below it, or all as JSON; whether nothing fails."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if not as_json:
            typer.secho(f"{finding.level:4}  ", fg=COLOURS[finding.level], bold=True, nl=False)
            print(f"{finding.subject:14}  {finding.text}", flush=True)
            if finding.mend:
                print(f"{'':22}-> {finding.mend}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in seen], indent=2))
    return all(finding.level != "fail" for finding in seen)
