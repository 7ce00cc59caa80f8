"""The run folder: what was run, where, and how it went."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_error, write_json
from dhhpc.mpi import World, cores_here, processor_name

RECORD, EVENTS, METRICS = "run.json", "events.jsonl", "metrics.json"
# In the folder above the run folders of a series; see `dhhpc.training.series`.
SERIES = "series.json"
SCHEMA_VERSION = 1
PACKAGES = ("numpy", "numba", "mpi4py", "h5py", "onnx", "pydantic")


class RunRecord:
    """The files of one run folder; only rank 0 writes.

    Args:
        folder: made on the first write.
        writes: whether this rank writes.

    Attributes:
        content: what run.json holds: schema_version, name, status ("running", "finished", "stopped",
            "failed"), experiment, versions, commit, command, hosts, processes, ranks, threads (of rank 0),
            threads_of_ranks, nodes_of_ranks (by name), binding (the cores of each rank), cores (that the
            ranks of rank 0's machine may use), memory_gib (of that machine), load (of each host, before its
            ranks began), slurm_job_id, staging (see `Staging.document`; None where shards were read from
            where they lie), started, finished, kpis, history (a record of every epoch).
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.folder, self.writes = Path(folder), writes
        self.content: dict[str, Any] = {}

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model.npz"

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    def trace(self, resumed: int) -> Path:
        """Where the timelines of a run lie that has been resumed so many times."""
        return self.folder / ("trace" if not resumed else f"trace-resumed-{resumed}")

    def earlier(self, resume: bool) -> tuple[bool, str | None]:
        """Whether an earlier run has left its record or checkpoints here, and why none can begin here."""
        found = (self.folder / RECORD).exists() or self.checkpoints.exists()
        if (self.folder / SERIES).exists():
            return found, (
                f"{self.folder}: holds a series; go on with its --seeds or --folds, or choose another folder "
                f"with --output"
            )
        if found and not resume:
            return found, (
                f"{self.folder}: holds an earlier run; continue it with --resume, or choose another folder "
                f"with --output"
            )
        return found, None

    def update(self, **changes: Any) -> None:
        """Change `content` and write run.json."""
        self.content.update(changes)
        if self.writes:
            write_json(self.folder / RECORD, self.content)

    def event(self, name: str, **values: Any) -> None:
        """Append one line to events.jsonl: the time in UTC, the event's name and its values.

        A line is written by one call, so a killed run leaves whole lines.
        """
        if not self.writes:
            return
        line = json.dumps({"time": now(), "event": name} | values, allow_nan=False) + "\n"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / EVENTS, "a", encoding="utf-8", buffering=1) as file:
                file.write(line)
        except OSError as error:
            raise write_error(self.folder / EVENTS, error) from error

    def write_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Put the metrics of `split` into metrics.json, beside those of other splits."""
        if self.writes:
            write_json(self.folder / METRICS, self.metrics() | {split: metrics})

    def metrics(self) -> dict[str, Any]:
        """metrics.json: the metrics by split; empty before the first evaluation."""
        path = self.folder / METRICS
        return dict(read_json(path)) if path.exists() else {}


def read_run(folder: Path | str) -> RunRecord:
    """The record of an existing run folder.

    Raises:
        DhhpcError: it is none.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise DhhpcError(f"{folder}: no run folder (no {RECORD}); give the folder that `dhhpc train` wrote")
    record = RunRecord(folder)
    content = read_json(folder / RECORD)
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise DhhpcError(f"{folder / RECORD}: no run record of schema version {SCHEMA_VERSION}; train anew")
    record.content = content
    return record


def find_runs(folder: Path | str) -> list[RunRecord]:
    """All run folders below `folder` (itself included), by the time they started.

    Raises:
        DhhpcError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise DhhpcError(f"{folder}: no such folder; give the one that holds the runs")
    found = []
    for path in sorted(Path(folder).rglob(RECORD)):
        with contextlib.suppress(DhhpcError):
            found.append(read_run(path.parent))
    return sorted(found, key=lambda record: str(record.content.get("started", "")))


def kpis(history: list[dict[str, Any]], totm: float, warmup_seconds: float) -> dict[str, Any]:
    """totm: seconds of the training procedure so far (DeepHealth D1.1), without the compilation of kernels,
    which warmup_seconds tells; throughput while training."""
    seconds = sum(record["seconds"] for record in history)
    samples = sum(record["seconds"] * record["samples_per_second"] for record in history)
    return {
        "totm": round(totm, 4),
        "warmup_seconds": round(warmup_seconds, 4),
        "samples_per_second": round(samples / seconds, 3) if seconds else None,
    }


def record_lost(folder: Path, finding: dict[str, Any]) -> None:
    """Note in a run folder, from any rank, that one was lost (see `dhhpc.mpi.watching`): the run stopped."""
    record = RunRecord(folder)
    record.event("lost", **finding)
    if (folder / RECORD).is_file():
        record.content = read_run(folder).content
        if record.content["status"] == "running":
            record.update(status="stopped", finished=now())


def provenance(world: World, threads: int, load: Sequence[float]) -> dict[str, Any]:
    """Where and with what this run runs; each rank's process as host:pid. All ranks must call this.

    Args:
        load: of this rank's machine before the run put any on it: processes that ran or waited for a core, as
            means over the last 1, 5 and 15 minutes (getloadavg(3)).
    """
    mine = (
        world.host,
        os.getpid(),
        threads,
        os.environ.get("SLURMD_NODENAME"),
        sorted(os.sched_getaffinity(0)),
        list(load),
    )
    ranks = world.allgather_object(mine)
    loads: dict[str, list[float]] = {}
    for host, *_, seen in ranks:
        loads.setdefault(host, seen)
    return {
        "ranks": world.size,
        "threads": threads,
        "threads_of_ranks": [count for _, _, count, *_ in ranks],
        "nodes_of_ranks": nodes_of([(host, name) for host, _, _, name, _, _ in ranks]),
        "binding": [cores for *_, cores, _ in ranks],
        "cores": cores_here(world),
        "memory_gib": memory_gib(),
        "load": dict(sorted(loads.items())),
        "hosts": sorted(loads),
        "processes": [f"{host}:{pid}" for host, pid, *_ in ranks],
        "launcher": world.launcher.name,
        "versions": versions(),
        "commit": commit(),
        "command": ["dhhpc", *sys.argv[1:]],
        "processor": processor_name(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
    }


def memory_gib() -> float:
    """Of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def nodes_of(ranks: Sequence[tuple[str, str | None]]) -> list[str]:
    """The node of each rank by name: as SLURM calls it, since several nodes may be one machine there; else,
    and where a launcher has handed one name to all machines, the machine's own.

    Args:
        ranks: host and SLURMD_NODENAME of each.
    """
    hosts: dict[str | None, set[str]] = {}
    for host, name in ranks:
        hosts.setdefault(name, set()).add(host)
    return [name if name and len(hosts[name]) == 1 else host for host, name in ranks]


def versions() -> dict[str, str]:
    """Versions of dhhpc, Python and the packages that numbers depend on."""
    found = {"dhhpc": package_version("dhhpc"), "python": platform.python_version()}
    found |= {name: package_version(name) for name in PACKAGES}
    return {name: number for name, number in found.items() if number}


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def commit() -> str | None:
    """The commit of the checkout that dhhpc runs from; None for an installed wheel or without git."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None


def now() -> str:
    """The time in UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
