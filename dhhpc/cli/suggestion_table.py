"""A suggestion as a table with the command to submit, and as JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dhhpc.batch.duration import format_duration
from dhhpc.cli.allocation_table import counted, duration
from dhhpc.cli.rehearsal import as_text, mib
from dhhpc.scaling.resources.rehearsal import Rehearsal
from dhhpc.scaling.resources.suggestion import MEMORY_MARGIN, TIME_MARGIN, TIME_STEP, Figures, Place, Row
from dhhpc.scaling.resources.traffic import ASSUMED, Network

# How often `dhhpc submit` has a job queued again by itself, for what may fail.
REQUEUES = 3
# Seconds that compiling all kernels may take.
BUILDING = 1800


@dataclass(frozen=True)
class Suggestion:
    """Rows for an experiment on a site, and the number of the one to take.

    Attributes:
        experiment, site, settings: as the user named them.
        deadline: in seconds.
        threads: that a rank will compute with.
    """

    experiment: Path
    site: str
    settings: Sequence[str]
    place: Place
    rehearsal: Rehearsal
    network: Network
    deadline: float | None
    rows: list[Row]
    recommended: int | None
    threads: int

    def command(self, row: Row) -> list[str]:
        """The command that submits the training on a row's nodes."""
        figures, asked = row.figures, self.place.asked
        assert figures is not None
        assert figures.time_seconds is not None
        options = [
            *self.place_options(),
            "--nodes",
            str(row.nodes),
            "--ranks-per-node",
            str(asked.ranks_per_node),
        ]
        options += ["--threads", str(asked.threads)] if asked.threads is not None else []
        options += ["--memory", f"{figures.memory_gb:g}", "--time", format_duration(figures.time_seconds)]
        options += ["--requeue", str(max(REQUEUES, figures.requeues))] if figures.requeues else []
        return ["dhhpc", "submit", "train", str(self.experiment), *options]

    def place_options(self) -> list[str]:
        """The options of a job that tell where it shall run."""
        asked = self.place.asked
        given = {"--partition": asked.partition, "--account": asked.account, "--qos": asked.qos}
        return [
            *("--site", self.site),
            *(word for setting in self.settings for word in ("--set", setting)),
            *(word for option, value in given.items() if value for word in (option, value)),
        ]

    def document(self) -> dict[str, Any]:
        """The same for programs."""
        place = self.place
        return {
            "experiment": str(self.experiment),
            "site": place.site.name,
            "partition": place.partition.name,
            "limits": {
                "fewest_nodes": place.fewest,
                "most_nodes": place.most,
                "seconds": place.longest,
                "memory_gb": self.node_memory,
            },
            "threads": place.threads,
            "deadline": self.deadline,
            "margins": {"time": TIME_MARGIN, "memory": MEMORY_MARGIN},
            "network": asdict(self.network),
            "rehearsal": self.rehearsal.model_dump(exclude={"experiment"}),
            "rows": [
                asdict(row) | {"command": None if row.problem else self.command(row)} for row in self.rows
            ],
            "recommended": self.recommended,
        }

    def show(self) -> None:
        """Print the table, what is behind it, and the command."""
        from rich.console import Console
        from rich.table import Table

        head = (
            "nodes",
            "ranks",
            "cores a rank",
            "batch a rank",
            "memory a node",
            "epoch",
            "run",
            "time limit",
        )
        table = Table("", *head, "core-hours", "fits")
        for number, row in enumerate(self.rows):
            table.add_row(
                "=>" if number == self.recommended else "",
                str(row.nodes),
                str(row.ranks),
                str(self.place.threads),
                *self.cells(row),
                self.verdict(row),
                style=None if row.problem is None else "dim",
            )
        place = self.place
        nodes = f"{place.fewest} to {place.most} nodes" if place.most > 1 else "1 node"
        memory = "" if self.node_memory is None else f", {self.node_memory:g} GiB a node"
        print(
            f"{self.experiment} on {place.site.name}, partition {place.partition.name}: jobs of "
            f"{nodes}{memory}, at most {format_duration(place.longest)}"
        )
        console = Console(width=None if Console().is_terminal else 160, soft_wrap=True)
        console.print(table)
        for row in self.rows:
            if row.problem is not None:
                print(f"{counted(row.nodes, 'node')}: {row.problem}")
        print("\n".join(self.sources()))
        if self.recommended is not None:
            row = self.rows[self.recommended]
            print(f"\n=> {self.reason(row)}\n   {shlex.join(self.command(row))}")

    def cells(self, row: Row) -> list[str]:
        figures = row.figures
        if figures is None:
            return ["-"] * 6
        limit = "-" if figures.time_seconds is None else format_duration(figures.time_seconds)
        again = f" x {figures.requeues + 1}" if figures.requeues else ""
        return [
            str(figures.batch),
            f"{figures.memory_gb:g} GiB",
            duration(figures.epoch_seconds),
            duration(figures.seconds),
            limit + again,
            f"{figures.core_hours:.3g}",
        ]

    def verdict(self, row: Row) -> str:
        if row.problem is not None:
            return "no, see below"
        assert row.figures is not None
        if self.late(row.figures):
            return "after the deadline"
        return f"--requeue {row.figures.requeues}" if row.figures.requeues else "yes"

    def late(self, figures: Figures) -> bool:
        return self.deadline is not None and figures.expected_seconds > self.deadline

    def reason(self, row: Row) -> str:
        """Why this row, and what its job has to go through."""
        figures = row.figures
        assert figures is not None
        what = "the fewest core-hours of all that fit"
        if self.deadline is not None:
            what += f" and meet the deadline of {format_duration(int(self.deadline))}"
        elif not figures.requeues:
            what += " in one job"
        if not figures.requeues:
            return what
        return (
            f"{what}; no job may be long enough, so it is queued again {counted(figures.requeues, 'time')} "
            f"and goes on from its checkpoint"
        )

    def refusal(self) -> str:
        """Why no row will do."""
        fitting = [row for row in self.rows if row.figures is not None and row.problem is None]
        if not fitting:
            return (
                f"nothing fits: {next(row.problem for row in self.rows if row.problem)}; or try other "
                f"--nodes, --ranks-per-node or --partition, a smaller batch_size, or `memory: low`"
            )
        quickest = min(
            (row.figures.expected_seconds, row.nodes) for row in fitting if row.figures is not None
        )
        assert self.deadline is not None
        return (
            f"--deadline {format_duration(int(self.deadline))}: none meets it, and the fastest is "
            f"{counted(quickest[1], 'node')} with {format_duration(math.ceil(quickest[0]))}, margin "
            f"included; allow that, try more --nodes, or train fewer epochs"
        )

    @property
    def node_memory(self) -> float | None:
        """GiB of a node; None where the site does not tell."""
        node = self.place.site.node_of(self.place.partition)
        return None if node is None else node.memory_gb

    def sources(self) -> list[str]:
        """What was measured, counted and modelled, and what is taken for granted."""
        rehearsal, place = self.rehearsal, self.place
        lines = ["measured:", *(f"  {line}" for line in as_text(rehearsal).splitlines())]
        lines.append(
            f"counted by the execution plan of a rank's batch, with the process; a node is asked for "
            f"{MEMORY_MARGIN:g} times its ranks' sum:"
        )
        for row in self.rows:
            if row.figures is not None:
                first = row.figures.first_rank_bytes
                more = f", rank 0 {mib(first)}" if mib(first) != mib(row.figures.rank_bytes) else ""
                lines.append(f"  {counted(row.nodes, 'node')}: {mib(row.figures.rank_bytes)} a rank{more}")
        if self.node_memory is None:
            lines.append(f"  site {place.site.name} does not tell what memory its nodes have to compare with")
        lines.append("modelled, not measured:")
        if any(row.ranks > 1 for row in self.rows):
            lines += [f"  averaging: {self.averaging()}", f"  {self.links()}"]
        lines += [
            "  each rank as fast as the one of the rehearsal, whoever works beside it, and whatever it has "
            "of a batch",
            f"  time limit: {TIME_MARGIN:g} times the run (start-up, validation, checkpoints), in steps of "
            f"{TIME_STEP // 60} minutes; waiting in the queue is not in it",
        ]
        batches = {row.ranks * row.figures.batch for row in self.rows if row.figures is not None}
        if len(batches) > 1:
            lines.append(
                "  more ranks have larger batches (parallel.batch: multiply) and learn something else; "
                "compare the losses, too"
            )
        lines.append(f"  kernels are there; on nodes of another processor, first: {self.building()}")
        if self.threads != place.threads:
            lines.append(
                f"  the experiment's `threads: {self.threads}`: a rank has {place.threads} cores and "
                f"computes on so many; leave it out to use all"
            )
        if rehearsal.threads != self.threads:
            lines.append(
                f"  a rank with {counted(self.threads, 'thread')} is no faster than the rehearsed one with "
                f"{rehearsal.threads}; to know, rehearse on a node: `dhhpc scale rehearse --help`"
            )
        return lines

    def building(self) -> str:
        """The command that compiles kernels, in memory that a rank has not been suggested."""
        limit = format_duration(min(BUILDING, self.place.longest))
        words = [*self.place_options(), "--time", limit, "--", "kernels", "build"]
        return shlex.join(["dhhpc", "submit", "command", *words])

    def averaging(self) -> str:
        found = [
            f"{1000 * row.figures.averaging_seconds:.3g} ms a batch on {row.ranks} ranks"
            for row in self.rows
            if row.figures is not None and row.ranks > 1
        ]
        return ", ".join(found) or "none"

    def links(self) -> str:
        """The network that is assumed."""
        across, memory = self.network.across, self.network.memory
        source = "assumed" if self.network == ASSUMED else "given"
        return (
            f"{source} between nodes {1e6 * across.latency:g} us and {across.bandwidth / 1e9:g} GB/s "
            f"(--network); assumed in a node {1e6 * memory.latency:g} us and {memory.bandwidth / 1e9:g} GB/s"
        )
