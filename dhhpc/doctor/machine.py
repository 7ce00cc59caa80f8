"""Processor, threads and memory."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

from dhhpc.findings import Finding, ok, warn
from dhhpc.mpi import processor_name

CGROUP = Path("/sys/fs/cgroup")
# Under this a small U-Net does not fit beside Python and its libraries, in bytes.
LEAST_MEMORY = 2e9


def processor() -> Finding:
    """The CPU, and the vectors that kernels are compiled for."""
    from dhhpc_kernels.target import target, vector_registers

    triple, cpu, features = target()
    lanes, _ = vector_registers()
    known = [name for name in ("avx512f", "avx2", "fma", "neon", "sve") if f"+{name}" in features.split(",")]
    text = f"{processor_name()}; kernels for {cpu}, {lanes} floats a vector ({', '.join(known) or triple})"
    given = os.environ.get("NUMBA_CPU_NAME")
    if given:
        return warn("processor", text, f"NUMBA_CPU_NAME={given} is set; unset it for this CPU's own")
    if lanes == 4 and platform.machine() in ("x86_64", "AMD64"):
        return warn("processor", text, "no AVX: kernels take twice as long; use newer nodes")
    return ok("processor", text)


def threads() -> Finding:
    """The cores that this process may use, and what it is told to."""
    from dhhpc_kernels.parallel import default_threads

    cores = len(os.sched_getaffinity(0))
    used = default_threads(cores)
    quota = core_quota()
    load = os.getloadavg()[0]
    text = f"{cores} of {os.cpu_count()} cores may be used; kernels take {used}; load {load:.1f}"
    if quota is not None and quota < cores:
        mend = f"this container gets the time of {quota:g} cores: set OMP_NUM_THREADS={max(1, int(quota))}"
        return Finding("warn" if used > quota else "ok", "threads", text, mend if used > quota else "")
    asked = asked_threads(os.environ)
    if asked is not None and asked > cores:
        mend = (
            f"OMP_NUM_THREADS={asked} is more than the cores, so {cores} are used; ask for more or lower it"
        )
        return warn("threads", text, mend)
    if load > cores:
        return warn("threads", text, "others are busy here: timings will not hold")
    return ok("threads", text)


def asked_threads(environment: Mapping[str, str]) -> int | None:
    """OMP_NUM_THREADS, of the outermost level."""
    first = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    return int(first) if first.isdigit() else None


def core_quota(cgroup: Path = CGROUP) -> float | None:
    """How many cores' time the kernel gives this container (cgroup v2, cpu.max); None for no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def memory() -> Finding:
    """The memory that is free, for this machine and for its container or job."""
    free = available_memory()
    limit = memory_limit()
    if free is None:
        return warn("memory", "the system does not tell how much is free", "look with `free -h`")
    usable = free if limit is None else min(free, limit)
    text = f"{usable / 1e9:.1f} GB free" + (f", limited to {limit / 1e9:.1f} GB" if limit is not None else "")
    if usable < LEAST_MEMORY:
        return warn("memory", text, "little for training; end other programs or ask for more")
    return ok("memory", text)


def available_memory(source: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that can be had without swapping (proc(5), MemAvailable)."""
    try:
        for line in source.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def memory_limit(cgroup: Path = CGROUP) -> int | None:
    """What a container may take in bytes (cgroup v2, memory.max); None for no limit."""
    try:
        text = (cgroup / "memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
