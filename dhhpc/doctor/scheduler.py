"""SLURM: whether it is there, answers, and starts ranks of the MPI at hand; else whether a PBS answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from dhhpc.batch.schedulers.pbs import pbs_version
from dhhpc.findings import Finding, ask, fail, last_line, ok, warn


def slurm(library: str | None) -> Iterator[Finding]:
    """Findings about SLURM, or about PBS where that is in its place.

    Args:
        library: how the MPI calls itself, if that is known.
    """
    if shutil.which("sbatch") is None:
        if shutil.which("qsub") is not None:
            yield pbs()
            return
        mend = "jobs run here with --site local; for a cluster log in to it, or `module load slurm`"
        yield Finding("ok", "SLURM", "no sbatch on PATH", mend)
        return
    code, text = ask(["sinfo", "--noheader", "--format=%P %a %D"])
    if code != 0:
        mend = "is SLURM_CONF right? On a login node ask the machine's support"
        yield fail("SLURM", f"slurmctld does not answer: {last_line(text)}", mend)
        return
    _, version = ask(["sbatch", "--version"])
    up = [line.split() for line in text.splitlines() if len(line.split()) == 3 and line.split()[1] == "up"]
    names = ", ".join(sorted({name.rstrip("*") for name, _, _ in up}))
    text = f"{last_line(version)}; partitions: {names or 'none is up'}"
    yield Finding("ok" if up else "warn", "SLURM", text, "" if up else "wait, or ask the machine's support")
    yield mpi_types(library)


def pbs() -> Finding:
    """Whether the PBS of this machine answers, and which it is."""
    code, text = ask(["qstat", "-B"])
    if code != 0:
        return fail("PBS", f"its server does not answer: {last_line(text)}", "ask the machine's support")
    known = f"PBS {pbs_version() or 'of unknown version'} answers"
    mend = "compare its first jobs with what `qstat -xf` says: dhhpc has been tried without a real PBS only"
    return warn("PBS", known, mend)


def mpi_types(library: str | None) -> Finding:
    """Whether srun can start ranks of this MPI."""
    _, said = ask(["srun", "--mpi=list"])
    types = sorted({line.strip() for line in said.splitlines() if len(line.split()) == 1})
    text = f"srun knows {', '.join(types) or 'none'}"
    wanted = types_of(library)
    if not wanted:
        return ok("SLURM and MPI", text)
    fitting = [name for name in types if name.split("_")[0] in wanted]
    if fitting:
        return ok("SLURM and MPI", f"{text}; for this MPI: srun --mpi={fitting[0]}")
    mend = f"this MPI speaks {' or '.join(wanted)}: write `launcher: mpiexec -n {{ranks}}` in the site config"
    return warn("SLURM and MPI", text, mend)


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
