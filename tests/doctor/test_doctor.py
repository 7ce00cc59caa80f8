"""`dhhpc doctor` on this very machine, and each finding where something is made to be wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dhhpc.doctor import accelerator, examine, kernels, machine, ranks, scheduler, storage

SUBJECTS = {
    "processor", "threads", "memory", "kernel cache", "GPU", "MPI", "SLURM", "disk space", "files",
    "HDF5 locks", "clock",
}  # fmt: skip


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dhhpc", "doctor", *arguments]
    environment = os.environ | environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_the_whole_page(tmp_path):
    tools = tmp_path / "bin"  # a PATH without SLURM
    tools.mkdir()
    finished = doctor("--path", str(tmp_path), "--json", PATH=str(tools))
    findings = {finding["subject"]: finding for finding in json.loads(finished.stdout)}
    assert findings.keys() == SUBJECTS
    assert findings["MPI"]["level"] == "ok", findings["MPI"]
    assert "2 ranks add up" in findings["MPI"]["text"]
    assert findings["SLURM"]["level"] == "ok"
    assert "--site local" in findings["SLURM"]["mend"]
    assert f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores" in findings["threads"]["text"]
    failed = [finding for finding in findings.values() if finding["level"] == "fail"]
    assert finished.returncode == (1 if failed else 0), finished.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]  # it leaves nothing


def test_a_folder_that_is_missing():
    finished = doctor("--path", "/no/such", "--no-ranks")
    assert finished.returncode == 1
    assert finished.stderr.strip() == "dhhpc: --path /no/such: no such folder; give one that exists"


@pytest.mark.slurm
def test_a_cluster_is_found(cluster, tmp_path):
    finished = doctor("--path", str(tmp_path), "--json", **cluster.environment)
    findings = {finding["subject"]: finding for finding in json.loads(finished.stdout)}
    assert findings["SLURM"]["level"] == "ok"
    assert "partitions: main, short" in findings["SLURM"]["text"]
    assert "for this MPI: srun --mpi=pm" in findings["SLURM and MPI"]["text"]


def test_a_cluster_that_does_not_answer(tmp_path, monkeypatch):
    """A SLURM of one command: it cannot reach its controller."""
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text(
            "#!/bin/sh\necho 'slurm_load_partitions: Unable to contact' >&2; exit 1\n"
        )
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (finding,) = scheduler.slurm(None)
    assert (finding.level, finding.text[-17:]) == ("fail", "Unable to contact")


def test_a_full_disk_and_a_folder_that_takes_no_files():
    assert storage.space(Path("/proc")).level == "fail"  # has no room, and says so
    assert storage.inodes(Path("/proc")).level == "ok"
    assert storage.file_locks(Path("/proc")).level == "fail"
    assert storage.clock(Path("/proc")).level == "warn"


def test_ranks_that_do_not_meet(monkeypatch):
    monkeypatch.setattr(ranks, "mpiexec", lambda count: ["env"])  # starts one, which was promised two
    tested = ranks.two_ranks()
    finding = ranks.mpi(tested)
    assert finding.level == "fail"
    assert "two ranks under env fail: the MPI world has 1 rank but 2 were asked for" in finding.text
    assert "pip install --no-binary mpi4py" in finding.mend
    monkeypatch.setattr(ranks, "mpiexec", lambda count: ["sleep", "60", "#"])
    assert "fail" in ranks.two_ranks().problem  # sleep takes no words
    monkeypatch.setattr(ranks, "mpiexec", lambda count: ["sh", "-c", "sleep 60"])
    monkeypatch.setattr(ranks, "TIMEOUT", 0.5)
    assert "do not meet within 0.5 s" in ranks.two_ranks().problem


def test_inside_ranks_no_others_are_started(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setenv("MPI_LOCALNRANKS", "4")
    assert ranks.mpi(ranks.two_ranks()).text == "this is one of 4 ranks of mpiexec"


@pytest.mark.parametrize(
    ("library", "types"),
    [
        ("MPICH Version: 5.0.2", ("pmi2",)),
        ("Intel(R) MPI Library 2021.11 for Linux* OS", ("pmi2",)),
        ("Open MPI v5.0.6, package: Open MPI", ("pmix",)),
        ("MPI VERSION    : CRAY MPICH version 8.1.29", ("cray", "pmi2")),
        ("Fujitsu MPI", ()),
        (None, ()),
    ],
)
def test_what_srun_must_speak(library, types):
    assert scheduler.types_of(library) == types


def test_limits_of_a_container(tmp_path):
    assert machine.core_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert machine.core_quota(tmp_path) == 1.5
    assert machine.memory_limit(tmp_path) == 1_000_000_000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.core_quota(tmp_path) is None
    assert machine.memory_limit(tmp_path) is None


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    finding = machine.threads()
    assert finding.level == "warn"
    assert "OMP_NUM_THREADS=4096" in finding.mend


def test_an_empty_cache_and_one_that_cannot_be_made(tmp_path, monkeypatch):
    import dhhpc_kernels.cache

    monkeypatch.setattr(dhhpc_kernels.cache, "cache_folder", lambda: tmp_path / "kernels")
    assert kernels.kernel_cache().mend == kernels.BUILD
    monkeypatch.setattr(dhhpc_kernels.cache, "cache_folder", lambda: Path("/proc/kernels"))
    monkeypatch.setattr(kernels, "can_be_written", lambda folder: False)  # root may write everywhere
    assert kernels.kernel_cache().level == "fail"


def test_a_gpu_is_told_with_what_it_costs(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559 MiB'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    first, *libraries = accelerator.accelerators()
    assert (first.level, first.text[:31]) == ("warn", "1 (NVIDIA H100 80GB HBM3, 81559")
    assert [finding.subject for finding in libraries] == ["CuPy", "cuDNN", "NCCL"]


def test_no_ranks_when_not_wanted(tmp_path):
    (finding,) = (each for each in examine(tmp_path, start_ranks=False) if each.subject == "MPI")
    assert finding.text == "mpi4py is installed; no ranks were started"
