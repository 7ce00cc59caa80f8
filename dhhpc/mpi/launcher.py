"""Who started this process, and as one of how many: read from the environment, before any MPI is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Set by `dhhpc ... --ranks N` and by the job scripts for the ranks they start.
EXPECTED_RANKS = "DHHPC_EXPECTED_RANKS"


@dataclass(frozen=True)
class Launcher:
    """What started this process.

    Attributes:
        name: "srun", "mpiexec" (Hydra: MPICH, Intel MPI, MVAPICH), "mpirun" (Open MPI), "the job script"
            (only DHHPC_EXPECTED_RANKS tells) or "none".
        ranks: how many ranks it started (1 without a launcher).
        source: the environment variable that says so, "" without a launcher.
    """

    name: str
    ranks: int
    source: str


def detect_launcher(environment: Mapping[str, str]) -> Launcher:
    """The launcher that started this process, by the variables it leaves in the environment.

    An mpiexec inside a SLURM job starts one proxy a node through srun, so the step's task count is then the
    number of nodes: the variables of mpiexec and mpirun go before those of srun. A command of a batch script
    without srun sees SLURM_NTASKS but is no step: it is a world of one.
    """
    name, variable = "none", ""
    if number(environment, "MPI_LOCALNRANKS") and number(environment, "PMI_SIZE"):
        name, variable = "mpiexec", "PMI_SIZE"
    elif number(environment, "OMPI_COMM_WORLD_SIZE"):
        name, variable = "mpirun", "OMPI_COMM_WORLD_SIZE"
    elif in_slurm_step(environment):
        name, variable = "srun", "SLURM_STEP_NUM_TASKS"
    elif number(environment, "PMI_SIZE"):
        name, variable = "mpiexec", "PMI_SIZE"
    expected = number(environment, EXPECTED_RANKS)
    if expected is not None:
        name = name if variable or expected == 1 else "the job script"
        return Launcher(name, expected, EXPECTED_RANKS)
    return Launcher(name, number(environment, variable) or 1, variable)


def in_slurm_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process as a task of a numbered step.

    The batch script and the shell of salloc run in steps too; their ids lie above any that srun gives
    (slurm.h, SLURM_MAX_NORMAL_STEP_ID 0xfffffff0).
    """
    step = number(environment, "SLURM_STEP_ID")
    tasks = number(environment, "SLURM_STEP_NUM_TASKS")
    return tasks is not None and step is not None and step < 0xFFFFFFF0


def allocated_nodes(environment: Mapping[str, str]) -> int | None:
    """The nodes on which mpiexec may start ranks: those of the job whose script this process is of. None
    outside a job, and for a task of a step, from which nothing starts beyond its own machine."""
    if in_slurm_step(environment):
        return None
    nodes = number(environment, "SLURM_JOB_NUM_NODES")
    file = environment.get("PBS_NODEFILE")
    if nodes is None and file and Path(file).is_file():
        return len(set(Path(file).read_text(encoding="utf-8").split()))
    return nodes


def number(environment: Mapping[str, str], name: str) -> int | None:
    """The whole number in a variable, or None."""
    text = environment.get(name, "")
    return int(text) if text.isdigit() else None
