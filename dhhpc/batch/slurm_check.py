"""Whether a site config agrees with the SLURM it is read beside: what sinfo, scontrol and sacctmgr say."""

from __future__ import annotations

import difflib
import getpass
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dhhpc.batch.duration import format_duration, parse_duration
from dhhpc.batch.request import JobRequest, fit_request
from dhhpc.batch.script import render_script
from dhhpc.batch.site import REQUIRED, Node, Partition, Site
from dhhpc.errors import DhhpcError
from dhhpc.findings import Finding, ask, fail, last_line, ok, warn

COMMANDS = ("sbatch", "squeue", "scancel", "sinfo", "scontrol")
UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "N/A", "(null)", "")
ANY = ("ALL", *UNLIMITED)
SCHEDULER = "scheduler"


@dataclass(frozen=True)
class RealPartition:
    """A partition as slurmctld has it; None where it sets no limit.

    Attributes:
        state: "UP" where jobs start.
        nodes: how many it has.
        max_nodes, max_time: the limits of one job, in seconds.
        qos: what AllowQos lists; empty for all.
        shapes: the different nodes in it.
    """

    name: str
    state: str
    nodes: int
    max_nodes: int | None
    max_time: int | None
    qos: tuple[str, ...]
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Shape:
    """One kind of node: CPUs as SLURM counts them, physical cores, memory in GiB (None if not told), GPUs."""

    cpus: int
    cores: int
    memory_gb: float | None
    gpus: int


def check_slurm(site: Site, account: str | None, qos: str | None) -> Iterator[Finding]:
    """The site's partitions, launcher, account and QOS against this machine's SLURM."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        yield fail(
            SCHEDULER,
            f"this machine has no SLURM (no {', '.join(missing)} on PATH)",
            f"run this on a login node of {site.name}",
        )
        return
    code, said = ask(["scontrol", "show", "partition", "--oneliner"])
    if code != 0:
        yield fail(SCHEDULER, f"SLURM does not answer: {last_line(said)}", "try later, or ask the support")
        return
    shapes = read_shapes()
    found = [read_partition(line, shapes) for line in said.splitlines() if "PartitionName=" in line]
    partitions = {each.name: each for each in found}
    yield ok(SCHEDULER, f"SLURM answers, with {len(partitions)} partitions")
    if not site.partitions:
        known = "; ".join(describe(each) for each in partitions.values())
        yield warn(
            "partitions",
            "the config lists none, so jobs go to the scheduler's default and are not checked",
            f"this machine has {known}: write those that you use into the config",
        )
    for partition in site.partitions:
        real = partitions.get(partition.name)
        if real is None:
            near = difflib.get_close_matches(partition.name, partitions, n=1)
            mend = f"did you mean {near[0]}?" if near else f"this machine has {', '.join(partitions)}"
            yield fail(f"partition {partition.name}", "is not on this machine", mend)
        else:
            yield from compare(partition, site.node_of(partition), real)
    yield from check_mpi(site)
    yield from check_associations(site, account, qos)
    yield from check_submission(site, list(partitions), account, qos)


def read_partition(line: str, shapes: dict[str, list[Shape]]) -> RealPartition:
    """A line of `scontrol show partition --oneliner`, with the nodes of each partition."""
    fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
    name = fields["PartitionName"]
    limits = (fields.get("MaxNodes", ""), fields.get("MaxTime", ""))
    allowed = fields.get("AllowQos", "ALL")
    return RealPartition(
        name=name,
        state=fields.get("State", "UP"),
        nodes=int(fields.get("TotalNodes", "0")),
        max_nodes=None if limits[0] in UNLIMITED else int(limits[0]),
        max_time=None if limits[1] in UNLIMITED else parse_duration(limits[1]),
        qos=() if allowed in ANY else tuple(allowed.split(",")),
        shapes=tuple(dict.fromkeys(shapes.get(name, []))),
    )


def read_shapes() -> dict[str, list[Shape]]:
    """The nodes of each partition by sinfo: CPUs, sockets, cores of each, memory in MiB, resources."""
    code, said = ask(["sinfo", "--noheader", "--format=%R %c %X %Y %m %G"])
    shapes: dict[str, list[Shape]] = {}
    for line in said.splitlines() if code == 0 else []:
        partition, *numbers = line.split()[:5]
        # SLURM writes 48+ where the nodes of one line have unlike numbers.
        fields = [re.match(r"\d+", field) for field in numbers]
        if len(fields) < 4 or None in fields:
            continue
        cpus, sockets, cores, mebibytes = (int(field[0]) for field in fields if field)
        gpus = re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", line)
        # A node of 1 MiB is one whose memory nobody has told SLURM.
        memory = mebibytes / 1024 if mebibytes > 1 else None
        shape = Shape(cpus, sockets * cores, memory, sum(map(int, gpus)))
        shapes.setdefault(partition, []).append(shape)
    return shapes


def describe(real: RealPartition) -> str:
    longest = format_duration(real.max_time) if real.max_time else "any time"
    cores = " or ".join(sorted({str(shape.cpus) for shape in real.shapes})) or "?"
    return f"{real.name} ({real.nodes} nodes of {cores} cores, {longest})"


def compare(partition: Partition, node: Node | None, real: RealPartition) -> Iterator[Finding]:
    """What the config promises of a partition against what it has."""
    subject = f"partition {partition.name}"
    good = True
    if real.state != "UP":
        yield warn(subject, f"is {real.state}", "jobs wait until it is up again")
    rooms = {"nodes": real.nodes, "MaxNodes": real.max_nodes}
    for word, most in rooms.items():
        if most is not None and partition.max_nodes > most:
            good = False
            yield fail(subject, f"max_nodes {partition.max_nodes}, but {word} is {most}", f"set it to {most}")
            break
    if real.max_time is not None and partition.max_time > real.max_time:
        good = False
        config, machine = format_duration(partition.max_time), format_duration(real.max_time)
        yield fail(subject, f"max_time {config}, but MaxTime is {machine}", f'set it to "{machine}"')
    unknown = [each.name for each in partition.qos_limits if real.qos and each.name not in real.qos]
    if unknown:
        yield warn(subject, f"does not take QOS {', '.join(unknown)}", f"it takes {', '.join(real.qos)}")
    if good:
        room = min(filter(None, (real.nodes, real.max_nodes)))
        longest = format_duration(real.max_time) if real.max_time else "any time"
        yield ok(subject, f"is there, for at most {room} nodes and {longest}")
    if node is not None and real.shapes:
        yield from compare_nodes(subject, node, real.shapes)


def compare_nodes(subject: str, node: Node, shapes: tuple[Shape, ...]) -> Iterator[Finding]:
    """A node of the config against the kinds of nodes that the partition has."""
    largest = max(shape.cpus for shape in shapes)
    cores = sorted({shape.cores for shape in shapes} | {shape.cpus for shape in shapes})
    listed = " or ".join(map(str, cores))
    good = True
    if node.cores > largest:
        good = False
        yield fail(subject, f"cores {node.cores}, but its nodes have {listed}", f"set them to {largest}")
    elif node.cores not in cores:
        good = False
        yield warn(
            subject,
            f"cores {node.cores}, and its nodes have {listed}",
            "right where the system keeps some for itself; else set them",
        )
    told = [shape.memory_gb for shape in shapes if shape.memory_gb is not None]
    # Nodes keep some of their memory for themselves, and vendors and SLURM differ in what a GB is.
    if node.memory_gb and told and node.memory_gb > 1.05 * max(told):
        good = False
        yield fail(
            subject,
            f"memory_gb {node.memory_gb:g}, but its nodes have {max(told):.0f}",
            f"set it to {int(max(told))}",
        )
    gpus = sorted({shape.gpus for shape in shapes})
    if node.gpus not in gpus:
        good = False
        say = fail if node.gpus > gpus[-1] else warn
        listed = " or ".join(map(str, gpus))
        yield say(subject, f"gpus {node.gpus}, but its nodes have {listed}", f"set them to {gpus[-1]}")
    if good:
        processors = f" and {node.gpus} gpus" if node.gpus else ""
        yield ok(subject, f"its nodes have the {node.cores} cores{processors}")


def check_mpi(site: Site) -> Iterator[Finding]:
    """Whether srun knows the process manager that the launcher names."""
    words = shlex.split(site.launcher or "")
    if words[0].rsplit("/", 1)[-1] != "srun":
        return
    wanted = next((word.removeprefix("--mpi=") for word in words if word.startswith("--mpi=")), None)
    code, said = ask(["srun", "--mpi=list"])
    known = re.findall(r"^\s*(?:srun: )?([a-z]\w*)$", said, re.MULTILINE)
    known += re.findall(r"\bpmix_v\d+\b", said)
    if code != 0:
        yield warn("mpi", f"srun --mpi=list: {last_line(said)}", "try later")
    elif wanted is None:
        yield ok("mpi", f"srun's own choice, of {', '.join(known)}")
    elif wanted in known:
        yield ok("mpi", f"srun knows {wanted}")
    else:
        near = difflib.get_close_matches(wanted, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}: set launcher"
        yield fail("mpi", f"srun does not know {wanted}", mend)


def check_associations(site: Site, account: str | None, qos: str | None) -> Iterator[Finding]:
    """Whether the accounting database lets this user charge the account and use the QOS."""
    user = getpass.getuser()
    command = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}"]
    code, said = ask([*command, "format=Account,QOS"])
    accounts, qualities = read_associations(said if code == 0 else "")
    for key, wish, default, known in (
        ("account", account, site.account, accounts),
        ("qos", qos, site.qos, qualities),
    ):
        name = wish or default
        listed = f"yours: {', '.join(known)}" if known else "ask your project for it"
        if name is None:
            continue
        if name == REQUIRED:
            yield warn(key, "the site needs one, and none is chosen", f"give --{key} NAME ({listed})")
        elif not known:
            yield warn(key, f"{name}: this machine does not tell yours", "sbatch will")
        elif name.lower() in (each.lower() for each in known):
            yield ok(key, f"{name} is yours")
        else:
            yield fail(key, f"{name} is not yours", listed)


def read_associations(text: str) -> tuple[list[str], list[str]]:
    """The accounts and the QOS in lines of `sacctmgr --parsable2 show associations format=Account,QOS`."""
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    accounts = {row[0] for row in rows if row[0]}
    return sorted(accounts), sorted({name for row in rows for name in row[1].split(",") if name})


def check_submission(site: Site, known: list[str], account: str | None, qos: str | None) -> Iterator[Finding]:
    """Whether sbatch would take a job of one rank for each partition, as dhhpc writes it."""
    partitions = [each.name for each in site.partitions if each.name in known] if site.partitions else [None]
    for name in partitions:
        subject = f"a job in {name}" if name else "a job"
        wish = JobRequest(
            arguments=("--version",),
            name="check",
            folder="/",
            threads=1,
            seconds=60,
            partition=name,
            account=account,
            qos=qos,
        )
        with tempfile.TemporaryDirectory(prefix="dhhpc-") as folder:
            script = Path(folder) / "job.sh"
            try:
                fitted = fit_request(wish, site)
                script.write_text(render_script(fitted, site, Path(folder) / "job.log"), encoding="utf-8")
            except DhhpcError as error:
                yield warn(subject, "was not tried", str(error))
                continue
            code, said = ask(["sbatch", "--test-only", str(script)])
        if code == 0:
            yield ok(subject, "sbatch --test-only takes one of one rank")
        else:
            yield fail(subject, last_line(said).removeprefix("sbatch: error: "), "see `man sbatch`")
