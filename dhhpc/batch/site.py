"""A machine as dhhpc sees it: its scheduler, what its partitions hold, and how ranks are started there."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from typing import Annotated, Literal

import pydantic

from dhhpc.batch.duration import Duration
from dhhpc.documents import Document
from dhhpc.errors import DhhpcError

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names of partitions, accounts and modules: what no shell, option parser or scheduler stumbles over.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/@:-]*")
# A path on the nodes: absolute, or below the folder that a variable of the job's environment names.
NODE_PATH = re.compile(r"(?:\$\{(?P<variable>[A-Za-z_][A-Za-z0-9_]*)\}(?=/|$))?(?P<rest>/[^\x00-\x1f\x7f]*)?")
# Variables of these names hold what nobody else should read; scripts and logs are read by others.
SECRET_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIALS?|API_?KEY|ACCESS_KEY|PRIVATE_KEY)(?:_|$)",
    re.IGNORECASE,
)
SBATCH_OPTION = re.compile(r"--[a-z][a-z0-9-]*(=[^\x00-\x1f\x7f-\x9f\u2028\u2029]*)?")
QSUB_OPTION = re.compile(r"-[A-Za-z]( [A-Za-z0-9_./:=,@%+-]+)?")
PLACEHOLDERS = ("ranks", "nodes", "ranks_per_node", "threads")
# In place of an account or a QOS: the site needs one, and only its user can tell which.
REQUIRED = "required"


def check_plain(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name; use letters, digits and _ . + / @ : - after the first of them"
        )
    return name


def check_node_path(path: str) -> str:
    if not path or not NODE_PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no path on the nodes; write /folder or ${{VARIABLE}}/folder")
    return path


def check_program(program: str) -> str:
    if not PLAIN_NAME.fullmatch(program) and not (program and NODE_PATH.fullmatch(program)):
        raise ValueError(f"{program!r} is no program; write its name, /folder/name or ${{VARIABLE}}/name")
    return program


def check_option(option: str) -> str:
    if not SBATCH_OPTION.fullmatch(option) and not QSUB_OPTION.fullmatch(option):
        raise ValueError(f"{option!r} is no sbatch option; write --name or --name=value (PBS: -l value)")
    return option


def check_variables(variables: dict[str, str]) -> dict[str, str]:
    for name in variables:
        if not VARIABLE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of an environment variable; use letters, digits and _")
        if SECRET_NAME.search(name):
            raise ValueError(
                f"{name} looks like a secret, which a job script would show to others; export it in your "
                f"shell before you submit, and remove it here"
            )
    return variables


def check_words(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{command!r} is no command: {error}") from None
    if not words:
        raise ValueError("is empty; name a command such as `srun --mpi=pmi2`, or leave the key out")
    unknown = [name for name in re.findall(r"\{(\w*)\}", command) if name not in PLACEHOLDERS]
    if unknown:
        known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"{{{unknown[0]}}} stands for nothing; known: {known}")
    return command


PlainName = Annotated[str, pydantic.AfterValidator(check_plain)]
Program = Annotated[str, pydantic.AfterValidator(check_program)]
NodePath = Annotated[str, pydantic.AfterValidator(check_node_path)]
Option = Annotated[str, pydantic.AfterValidator(check_option)]
Variables = Annotated[dict[str, str], pydantic.AfterValidator(check_variables)]
Words = Annotated[str, pydantic.AfterValidator(check_words)]


class Watts(Document):
    """What a whole node draws: `busy` while it computes, `idle` while it waits."""

    busy: float = pydantic.Field(gt=0, allow_inf_nan=False)
    idle: float = pydantic.Field(ge=0)

    @pydantic.model_validator(mode="after")
    def _check_order(self) -> Watts:
        if self.idle > self.busy:
            raise ValueError(f"idle {self.idle:g} is more than busy {self.busy:g}; is one the other?")
        return self


class Node(Document):
    """What one node gives to jobs.

    Attributes:
        cores: physical cores; they bound what a job may ask for.
        memory_gb: memory in GiB. `dhhpc site check` compares it, and PBS jobs ask for it.
        gpus: graphics processors; a job asks for all of them unless it says `--gpus`.
        watts: by these `dhhpc scale allocate` knows what a job takes.
    """

    cores: int = pydantic.Field(ge=1)
    memory_gb: float | None = pydantic.Field(default=None, gt=0)
    gpus: int = pydantic.Field(default=0, ge=0)
    watts: Watts | None = None


class QosLimits(Document):
    """What a quality of service allows in place of its partition's limits."""

    name: PlainName
    min_nodes: int = pydantic.Field(default=1, ge=1)
    max_nodes: int | None = pydantic.Field(default=None, ge=1)
    max_time: Duration | None = None


class Partition(Document):
    """A partition (SLURM) or queue (PBS) and what it allows a job.

    Attributes:
        name: as the scheduler calls it.
        max_nodes, max_time: the limits of one job.
        default_time: the time limit of a job whose user gives none; without it a job needs one.
        node: stands in for the site's where nodes differ.
        qos: stands in for the site's.
        qos_limits: the qualities of service with limits of their own; one that is not listed has the
            partition's.
        options: more options for jobs of this partition, after the site's.
    """

    name: PlainName
    max_nodes: int = pydantic.Field(ge=1)
    max_time: Duration
    default_time: Duration | None = None
    node: Node | None = None
    qos: PlainName | None = None
    qos_limits: list[QosLimits] = []
    options: list[Option] = []

    def limits(self, qos: str | None) -> tuple[int, int, int]:
        """The fewest and the most nodes, and the most seconds, of a job in this partition under `qos`."""
        for each in self.qos_limits:
            if each.name == qos:
                return each.min_nodes, each.max_nodes or self.max_nodes, each.max_time or self.max_time
        return 1, self.max_nodes, self.max_time


class Container(Document):
    """An image that holds Python and dhhpc; its MPI must fit the launcher.

    Attributes:
        image: the image's file on the nodes.
        program: what runs it.
        binds: folders that jobs see inside, at the same path; the job's own is always among them.
        gpus: `nv` or `rocm` to show the node's NVIDIA or AMD processors inside.
    """

    image: NodePath
    program: Literal["apptainer", "singularity"] = "apptainer"
    binds: list[NodePath] = []
    gpus: Literal["nv", "rocm"] | None = None

    @pydantic.field_validator("binds")
    @classmethod
    def _check_binds(cls, binds: list[str]) -> list[str]:
        for folder in binds:
            if re.search(r"[:,]", folder):
                raise ValueError(f"{folder!r}: --bind takes no path with : or ,; choose another folder")
        return binds


class Site(Document):
    """A site config.

    Paths on the nodes may begin with a variable of the job's environment: `${SCRATCH}/dhhpc`. Nothing else in
    a config is expanded.

    Attributes:
        name, description: for people; `name` is also the name of the file.
        extends: in a file, the site whose keys it starts from; it then needs only those that differ.
        scheduler: "slurm", "pbs" (PBS Pro and OpenPBS), or "local" for jobs in the background of this
            machine.
        node: what one node has.
        partitions: the queues. With none, jobs go to the scheduler's own default and are not checked.
        default_partition: where jobs go unless the user names another; the first of `partitions`.
        account: charged unless the user names another. `required`: the site needs one and cannot know it.
        qos: the quality of service (SLURM) unless the user names another; may be `required` too.
        gpu_option: how sbatch is asked for a node's {gpus}; `--gpus-per-node={gpus}` unless given.
        options: more options for every job, e.g. `--exclusive` (SLURM), `-l place=scatter` (PBS).
        modules: environment modules to load, in order.
        network: variables that choose and tune the network of MPI, e.g. UCX_TLS or FI_PROVIDER.
        environment: other variables to set.
        launcher: the command that starts the ranks inside a job, e.g. `srun --mpi=pmi2`, which learns their
            number from SLURM, or `mpiexec -n {ranks}` (also {nodes}, {ranks_per_node}, {threads}). A local
            site has none: dhhpc starts the ranks there by the mpiexec of its Python.
        binding: options of the launcher that tie ranks to cores, e.g. `--cpu-bind=cores`.
        container: the image that jobs run in.
        python: the Python that runs dhhpc on the nodes; the submitting one unless given, `python3` in a
            container.
        scratch: a folder on the file system that all nodes share. Unless there is node_local, temporary files
            go there (TMPDIR), and a job makes it if it is missing.
        node_local: a folder on a disk of each node's own, which must exist. Temporary files go there, and
            copies of the shards that training and evaluation read.
    """

    name: PlainName
    description: str = ""
    extends: str | None = None
    scheduler: Literal["slurm", "pbs", "local"]
    node: Node | None = None
    partitions: list[Partition] = []
    default_partition: PlainName | None = None
    account: PlainName | None = None
    qos: PlainName | None = None
    gpu_option: str | None = None
    options: list[Option] = []
    modules: list[PlainName] = []
    network: Variables = {}
    environment: Variables = {}
    launcher: Words | None = None
    binding: Words | None = None
    container: Container | None = None
    python: Program | None = None
    scratch: NodePath | None = None
    node_local: NodePath | None = None

    @pydantic.field_validator("gpu_option")
    @classmethod
    def _check_gpu_option(cls, option: str | None) -> str | None:
        if option is not None and "{gpus}" not in check_option(option):
            raise ValueError(f"{option!r} says no number; write {{gpus}} where it goes")
        return option

    @pydantic.field_validator("partitions")
    @classmethod
    def _check_names(cls, partitions: list[Partition]) -> list[Partition]:
        names = [partition.name for partition in partitions]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise ValueError(f"{double} is there twice; keep one of them")
        return partitions

    @pydantic.model_validator(mode="after")
    def _check_whole(self) -> Site:
        cluster_keys = ("partitions", "default_partition", "options", "account", "launcher", "binding")
        if self.scheduler == "local":
            self._refuse((*cluster_keys, "qos", "gpu_option"), "remove them or use `scheduler: slurm`")
            return self
        if self.launcher is None:
            example = "srun --mpi=pmi2" if self.scheduler == "slurm" else "mpiexec -n {ranks}"
            raise ValueError(f"a {self.scheduler} site needs a `launcher`, such as `{example}`")
        if self.scheduler == "pbs":
            self._refuse(("qos", "gpu_option"), "remove them")
            if any(each.qos or each.qos_limits for each in self.partitions):
                raise ValueError("the partitions of a pbs site have no qos and qos_limits; remove them")
        kind, example = (QSUB_OPTION, "-l place=scatter")
        if self.scheduler == "slurm":
            kind, example = (SBATCH_OPTION, "--exclusive")
        for option in [*self.options, *(option for each in self.partitions for option in each.options)]:
            if not kind.fullmatch(option):
                raise ValueError(f"{option!r} is no option of {self.scheduler}; write it like `{example}`")
        if self.node is None and any(partition.node is None for partition in self.partitions):
            raise ValueError(f"a {self.scheduler} site needs `node`, or one in each of its partitions")
        if self.default_partition is not None:
            try:
                self.partition(None)
            except DhhpcError as error:
                raise ValueError(str(error)) from None
        return self

    def _refuse(self, keys: tuple[str, ...], mend: str) -> None:
        stray = [key for key in keys if getattr(self, key)]
        if stray:
            raise ValueError(f"a {self.scheduler} site has no {', '.join(stray)}; {mend}")

    def partition(self, name: str | None) -> Partition | None:
        """The partition of that name, or the default one; None where the site lists no partitions.

        Raises:
            DhhpcError: no such partition; names the nearest.
        """
        if not self.partitions:
            return None
        wanted = name or self.default_partition or self.partitions[0].name
        for partition in self.partitions:
            if partition.name == wanted:
                return partition
        known = [partition.name for partition in self.partitions]
        near = difflib.get_close_matches(wanted, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"its partitions: {', '.join(known)}"
        source = f"--partition {wanted}" if name else f"default_partition: {wanted}"
        raise DhhpcError(f"{source}: site {self.name} has no such partition; {mend}")

    def node_of(self, partition: Partition | None) -> Node | None:
        """The nodes of `partition`; for a local site without `node`, this machine. None if nothing tells."""
        node = (partition.node if partition is not None else None) or self.node
        if node is None and self.scheduler == "local":
            return Node(cores=len(os.sched_getaffinity(0)))
        return node
