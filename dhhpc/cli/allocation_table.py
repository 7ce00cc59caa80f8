"""Choices of ranks as a table, with what was measured and what is modelled in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dhhpc.batch.duration import format_duration
from dhhpc.scaling.resources.allocation import HOUR, Choice, Policy, Work
from dhhpc.scaling.resources.calibration import MeasuredKind, MeasuredRun

# So many choices are shown with those that others are better than; of more, the front and the chosen one.
FEW_CHOICES = 24
# A longer split is left to --json.
FEW_RANKS = 32


@dataclass(frozen=True)
class Allocation:
    """What was found: runs, their kinds of ranks, the policy, the choices, and the number of the chosen."""

    runs: Sequence[MeasuredRun]
    kinds: Sequence[MeasuredKind]
    work: Work
    policy: Policy
    by_node: bool
    choices: Sequence[Choice]
    chosen: int | None

    def document(self) -> dict[str, Any]:
        """All of it for JSON: times in seconds, energy in joules; None for no limit and what is unknown."""
        ranks = sorted({sum(choice.ranks) for choice in self.choices})
        limits = {name: None if value == math.inf else value for name, value in asdict(self.policy).items()}
        return {
            "policy": limits,
            "by": self.unit,
            "runs": [
                {
                    "name": run.name,
                    "run": str(run.folder),
                    "epochs": run.epochs,
                    "epoch_seconds": {"measured": run.measured, "modelled": run.modelled},
                }
                for run in self.runs
            ],
            "kinds": [
                asdict(each.kind) | {"measured_ranks": [f"{rank.run}:{rank.number}" for rank in each.ranks]}
                for each in self.kinds
            ],
            "work": {key: value for key, value in vars(self.work).items() if key != "meeting"}
            | {"averaging_seconds": {count: self.work.meeting(count) for count in ranks}},
            "choices": [asdict(choice) for choice in self.choices],
            "chosen": self.chosen,
        }

    def show(self, everything: bool) -> None:
        """Print the table and what it means."""
        from rich.console import Console
        from rich.table import Table

        names = [each.kind.name for each in self.kinds]
        table = Table("", *names, *("epoch", "run (totm)", "core-hours", "energy", "efficiency"))
        left_out = 0
        for number, choice in enumerate(self.choices):
            is_chosen = number == self.chosen
            if not (everything or choice.on_front or is_chosen or len(self.choices) <= FEW_CHOICES):
                left_out += 1
                continue
            mark = ("=>" if is_chosen else "") + ("*" if choice.on_front else "")
            table.add_row(
                mark,
                *self.shares(choice),
                duration(choice.epoch_seconds),
                duration(choice.seconds),
                f"{choice.core_hours:.3g}",
                "unknown" if choice.joules is None else watt_hours(choice.joules),
                f"{choice.efficiency:.0%}",
                style=None if choice.on_front or is_chosen else "dim",
            )
        console = Console(width=None if Console().is_terminal else 160, soft_wrap=True)
        console.print(table)
        if left_out:
            print(f"{left_out} choices that others are better than are left out; --all shows them")
        print("\n".join([*self.legend(), "", *self.sources()]))

    @property
    def unit(self) -> str:
        return "node" if self.by_node else "rank"

    def shares(self, choice: Choice) -> list[str]:
        """Of each kind: how many, the samples of a batch that each takes, and the part of all samples."""
        cells, first = [], 0
        for each, count, samples in zip(self.kinds, choice.ranks, choice.samples, strict=True):
            taken = choice.split[first : first + count]
            first += count
            if not count:
                cells.append("-")
                continue
            number = counted(count // each.kind.together, self.unit)
            ranks = f" of {each.kind.together}" if self.by_node else ""
            cells.append(f"{number}{ranks} x {span(taken)} ({samples / self.work.samples:.0%})")
        return cells

    def legend(self) -> list[str]:
        known = all(choice.joules is not None for choice in self.choices)
        aims = "time, core-hours or energy" if known else "time or core-hours"
        ranks = "nodes of so many ranks" if self.by_node else "ranks"
        lines = [
            f"{counted(self.work.epochs, 'epoch')} of {counted(self.work.samples, 'sample')}; of each kind: "
            f"{ranks} x samples that a rank takes of a batch (share of all samples)",
            f"* on the front: no choice is better in {aims} and as good in the rest",
        ]
        if self.chosen is not None:
            lines.append(f"=> {self.advice(self.choices[self.chosen])}")
        if not self.work.divided and len({sum(choice.ranks) for choice in self.choices}) > 1:
            lines.append(
                "more ranks have larger batches (parallel.batch: multiply) and learn something else; compare "
                "the losses, too"
            )
        return lines

    def advice(self, choice: Choice) -> str:
        """What the policy takes, and how to ask for it."""
        limits = [
            *([duration(self.policy.deadline)] if self.policy.deadline < math.inf else []),
            *([f"{self.policy.core_hours:g} core-hours"] if self.policy.core_hours < math.inf else []),
        ]
        within = f" within {' and '.join(limits)}" if limits else ""
        what = f"the least {self.policy.objective}{within}"
        ranks = ", ".join(
            f"{counted(count, 'rank')} of {each.kind.name}"
            for each, count in zip(self.kinds, choice.ranks, strict=True)
            if count
        )
        weights = list(choice.split)
        split = str(weights) if len(weights) <= FEW_RANKS else "the `split` that --json tells"
        if choice.fastest:
            split = "equal" if len(set(weights)) == 1 else f"measured, or {split}"
        start = f"parallel.split: {split}" if len(weights) > 1 else "one rank has it all"
        order = ", in this order" if choice.ranks.count(0) < len(choice.ranks) - 1 else ""
        return f"{what}: {ranks}{order}; {start}"

    def sources(self) -> list[str]:
        """What was measured, and what is taken for granted."""
        lines = ["measured:"]
        for each in self.kinds:
            numbers = ", ".join(
                f"{counted(len(of_run), 'rank')} of {run.folder}, {counted(run.epochs, 'epoch')}"
                for run in self.runs
                if (of_run := [rank for rank in each.ranks if rank.run == run.folder])
            )
            lines.append(
                f"  {each.kind.name}: {1 / each.kind.pace:.4g} samples/s a rank of "
                f"{counted(each.kind.cores, 'core')} ({numbers}; medians)"
            )
        together = sorted({len(run.ranks) for run in self.runs if len(run.ranks) > 1})
        for count in together:
            lines.append(
                f"  averaging over {count} ranks: {1000 * self.work.meeting(count):.3g} ms for each batch"
            )
        lines += [
            f"  rank {rank.number} of {rank.run} took no sample: its pace is that of the calibration"
            for each in self.kinds
            for rank in each.ranks
            if rank.calibrated
        ]
        lines.append("modelled:")
        for run in self.runs:
            lines.append(
                f"  the batches of an epoch of {run.folder} in {duration(run.modelled)}; they took "
                f"{duration(run.measured)}"
            )
        lines.append(
            "  each rank as fast as in its run, whoever works beside it, and whatever it has of a batch"
        )
        others = sorted({sum(choice.ranks) for choice in self.choices} - {1, *together})
        if others and together:
            lines.append(
                f"  averaging over other numbers of ranks than {' and '.join(map(str, together))}: by the "
                f"bytes that each sends, as if no network slowed them down"
            )
        elif others:
            lines.append(
                "  averaging: in no time, as no run had several ranks; more ranks look better than they are"
            )
        unknown = [each.kind.name for each in self.kinds if each.kind.joules is None]
        if unknown:
            lines.append(
                f"  energy: unknown, as the watts of {', '.join(unknown)} are; give --watts or --site"
            )
        if len(unknown) < len(self.kinds):
            lines.append("  energy: from the watts that were given, not from a meter")
        return lines


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def span(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(most) if least == most else f"{least}-{most}"


def duration(seconds: float) -> str:
    """Seconds as such, or from two minutes on as SLURM writes them."""
    return f"{seconds:.3g} s" if seconds < 120 else format_duration(round(seconds))


def watt_hours(joules: float) -> str:
    hours = joules / HOUR
    return f"{hours:.3g} Wh" if hours < 1000 else f"{hours / 1000:.3g} kWh"
