"""A machine as dhhpc sees it: its scheduler, what its partitions hold, and how ranks are started there."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from pathlib import Path
from typing import Literal

import pydantic

from dhhpc.batch.duration import Duration
from dhhpc.documents import Document, read_document
from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder

VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Names of partitions, accounts and modules: what no shell, option parser or SLURM stumbles over.
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/@:-]*")


def check_plain(name: str) -> str:
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name; use letters, digits and _ . + / @ : - after the first of them"
        )
    return name


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
    """What one node has; `gpus` and `memory_gb` are for the reader, `cores` bounds what a job may ask for.
    By `watts`, `dhhpc scale allocate` knows what a job takes."""

    cores: int = pydantic.Field(ge=1)
    memory_gb: float | None = pydantic.Field(default=None, gt=0)
    gpus: int = pydantic.Field(default=0, ge=0)
    watts: Watts | None = None


class Partition(Document):
    """A queue of the scheduler and its limits; `node` stands in for the site's where its nodes differ."""

    name: str
    max_nodes: int = pydantic.Field(ge=1)
    max_time: Duration
    node: Node | None = None

    _plain = pydantic.field_validator("name")(check_plain)


class Site(Document):
    """A site config.

    Attributes:
        name, description: for people; `name` is also the name of the file.
        scheduler: "slurm", or "local" for jobs in the background of this very machine.
        node: what one node has.
        partitions: the queues, the default one first. Empty for "local".
        account: charged unless the user names another.
        launcher: the command that starts the ranks inside a job, e.g. `srun --mpi=pmi2`, which learns their
            number from SLURM, or `mpiexec -n {ranks}` (also {nodes}, {ranks_per_node}). A local site has
            none: dhhpc starts the ranks there by the mpiexec of its Python.
        options: more sbatch options for every job, e.g. `--exclusive`.
        modules: environment modules to load, in order.
        environment: variables to set.
        python: the Python that runs dhhpc on the nodes; the submitting one unless given.
        scratch: a folder for temporary files (TMPDIR).
    """

    name: str
    description: str = ""
    scheduler: Literal["slurm", "local"]
    node: Node | None = None
    partitions: list[Partition] = []
    account: str | None = None
    launcher: str | None = None
    options: list[str] = []
    modules: list[str] = []
    environment: dict[str, str] = {}
    python: str | None = None
    scratch: str | None = None

    @pydantic.field_validator("account")
    @classmethod
    def _check_account(cls, account: str | None) -> str | None:
        return account if account is None else check_plain(account)

    @pydantic.field_validator("modules")
    @classmethod
    def _check_modules(cls, modules: list[str]) -> list[str]:
        return [check_plain(name) for name in modules]

    @pydantic.field_validator("options")
    @classmethod
    def _check_options(cls, options: list[str]) -> list[str]:
        for option in options:
            if not re.fullmatch(r"--[a-z][a-z0-9-]*(=[^\x00-\x1f\x7f]*)?", option):
                raise ValueError(f"{option!r} is no sbatch option; write --name or --name=value")
        return options

    @pydantic.field_validator("environment")
    @classmethod
    def _check_environment(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not VARIABLE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable; use letters, digits and _")
        return environment

    @pydantic.field_validator("launcher")
    @classmethod
    def _check_launcher(cls, launcher: str | None) -> str | None:
        if launcher is None:
            return None
        try:
            words = shlex.split(launcher)
        except ValueError as error:
            raise ValueError(f"{launcher!r} is no command: {error}") from None
        if not words:
            raise ValueError("is empty; name a command such as `srun --mpi=pmi2`, or leave the key out")
        return launcher

    @pydantic.model_validator(mode="after")
    def _check_whole(self) -> Site:
        if self.scheduler == "slurm":
            if not self.partitions:
                raise ValueError("a slurm site needs at least one entry under `partitions`")
            if self.launcher is None:
                raise ValueError("a slurm site needs a `launcher`, such as `srun --mpi=pmi2`")
            if self.node is None and any(partition.node is None for partition in self.partitions):
                raise ValueError("a slurm site needs `node`, or one in each of its partitions")
        else:
            stray = [key for key in ("partitions", "options", "account", "launcher") if getattr(self, key)]
            if stray:
                raise ValueError(
                    f"a local site has no {', '.join(stray)}; remove them or use `scheduler: slurm`"
                )
        return self

    def partition(self, name: str | None) -> Partition:
        """The partition of that name, or the default one.

        Raises:
            DhhpcError: no such partition; names the nearest.
        """
        if name is None:
            return self.partitions[0]
        for partition in self.partitions:
            if partition.name == name:
                return partition
        known = [partition.name for partition in self.partitions]
        near = difflib.get_close_matches(name, known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"its partitions: {', '.join(known) or 'none'}"
        raise DhhpcError(f"--partition {name}: site {self.name} has no such partition; {mend}")

    def node_of(self, partition: Partition | None) -> Node:
        """The nodes of `partition`; for a local site without `node`, this machine."""
        node = (partition.node if partition is not None else None) or self.node
        return node or Node(cores=len(os.sched_getaffinity(0)))


def user_folder() -> Path:
    """Where users keep site configs of their own; these go before those that come with dhhpc."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "dhhpc" / "sites"


def site_files() -> dict[str, Path]:
    """Every known site's file by the site's name, in alphabetical order."""
    files: dict[str, Path] = {}
    for folder in (resource_folder("site-configs"), user_folder()):
        files |= {path.stem: path for path in folder.glob("*.yml")}
    return dict(sorted(files.items()))


def read_site(name: str) -> Site:
    """The site config `name`: a site's name, or the path of a `.yml` file.

    Raises:
        DhhpcError: there is none, or it is wrong; names the file and line, or the nearest known site.
    """
    if name.endswith((".yml", ".yaml")):
        return read_document(name, Site)
    files = site_files()
    if name in files:
        site = read_document(files[name], Site)
        if site.name != name:
            raise DhhpcError(
                f"{files[name]}: name: is {site.name!r} but the file is called {name}; rename one"
            )
        return site
    near = difflib.get_close_matches(name, files, n=1)
    mend = f"did you mean {near[0]}?" if near else f"known sites: {', '.join(files)}"
    raise DhhpcError(f"--site {name}: no such site; {mend} (your own go in {user_folder()})")
