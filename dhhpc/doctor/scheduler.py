"""SLURM: whether it is there, answers, and starts ranks of the MPI at hand."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from dhhpc.findings import Finding

ANSWER_SECONDS = 20.0


def slurm(library: str | None) -> Iterator[Finding]:
    """Findings about SLURM.

    Args:
        library: how the MPI calls itself, if that is known.
    """
    if shutil.which("sbatch") is None:
        pbs = shutil.which("qsub")
        other = f"; {pbs} is there: dhhpc prints scripts for PBS (`--dry-run`)" if pbs else ""
        mend = "jobs run here with --site local; for a cluster log in to it, or `module load slurm`"
        yield Finding("SLURM", "ok" if not pbs else "warn", f"no sbatch on PATH{other}", mend)
        return
    code, said = ask("sinfo", "--noheader", "--format=%P %a %D")
    if code != 0:
        mend = "is SLURM_CONF right? On a login node ask the machine's support"
        yield Finding("SLURM", "fail", f"slurmctld does not answer: {said[-1] if said else 'no word'}", mend)
        return
    _, version = ask("sbatch", "--version")
    up = [line.split() for line in said if len(line.split()) == 3 and line.split()[1] == "up"]
    names = ", ".join(sorted({name.rstrip("*") for name, _, _ in up}))
    text = f"{version[0] if version else 'answers'}; partitions: {names or 'none is up'}"
    yield Finding("SLURM", "ok" if up else "warn", text, "" if up else "wait, or ask the machine's support")
    yield mpi_types(library)


def mpi_types(library: str | None) -> Finding:
    """Whether srun can start ranks of this MPI."""
    _, said = ask("srun", "--mpi=list")
    types = sorted({line.strip().split()[0] for line in said if len(line.split()) == 1})
    text = f"srun knows {', '.join(types) or 'none'}"
    wanted = types_of(library)
    if not wanted:
        return Finding("SLURM and MPI", "ok", text)
    fitting = [name for name in types if name.split("_")[0] in wanted]
    if fitting:
        return Finding("SLURM and MPI", "ok", f"{text}; for this MPI: srun --mpi={fitting[0]}")
    mend = f"this MPI speaks {' or '.join(wanted)}: write `launcher: mpiexec -n {{ranks}}` in the site config"
    return Finding("SLURM and MPI", "warn", text, mend)


def types_of(library: str | None) -> tuple[str, ...]:
    """The kinds of PMI that an MPI library speaks, by the name that it gives itself."""
    name = (library or "").lower()
    if "open mpi" in name:
        return ("pmix",)
    if "cray" in name:
        return ("cray", "pmi2")
    if any(known in name for known in ("mpich", "intel", "mvapich")):
        return ("pmi2",)
    return ()


def ask(*command: str) -> tuple[int, list[str]]:
    """The exit code of a command and the lines that it says; 124 if it does not end."""
    try:
        finished = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return 124, [f"{command[0]} does not answer within {ANSWER_SECONDS:g} s"]
    except FileNotFoundError:
        return 127, [f"{command[0]} is not on PATH"]
    # srun tells its list on either stream, by its version.
    lines = [line for line in (finished.stdout + finished.stderr).splitlines() if line.strip()]
    return finished.returncode, lines
