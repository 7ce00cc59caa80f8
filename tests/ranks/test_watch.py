"""Ranks that hang, die or only take long, on real ranks: who is named, what is left, and how the job ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from dhhpc.mpi import World, watching
from dhhpc.mpi.launch import environment_for, mpiexec

PROGRAM = textwrap.dedent("""
    import json, os, signal, sys, time
    from dhhpc.mpi import connect, watching
    world = connect()

    def report(finding):
        with open(sys.argv[1], "a") as file:
            file.write(json.dumps(finding) + "\\n")

    BEFORE
    with watching(world, TIMEOUT, report, print):
        world.progress.at("epoch 3, batch 17")
        world.barrier()
        os.write(1, f"rank {world.rank} {os.getpid()}\\n".encode())
        ACTION
        world.barrier()
""")
TIMEOUT = 1.0
# What a busy machine may take beyond.
SLACK = 15.0


def start(tmp_path, action: str, before: str = "pass") -> subprocess.Popen[str]:
    """Three ranks that do something before they are watched, and something while they are."""
    program = PROGRAM.replace("ACTION", action).replace("TIMEOUT", str(TIMEOUT)).replace("BEFORE", before)
    return subprocess.Popen(
        [*mpiexec(3), sys.executable, "-c", program, str(tmp_path / "found")],
        env=environment_for(3, os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(process: subprocess.Popen[str], tmp_path) -> tuple[str, dict, dict[int, int]]:
    """The line on stderr, the only finding, and the ranks' processes."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("dhhpc: ")]
    (found,) = (tmp_path / "found").read_text().splitlines()
    pids = dict(map(int, line.split()[1:]) for line in output.splitlines())
    return line, json.loads(found), pids


@pytest.mark.parametrize("action", ["all(iter(lambda: 1, 0))", "time.sleep(1000)"])
def test_a_rank_that_hangs_is_named_and_those_that_wait_for_it_are_not(tmp_path, action):
    """In the interpreter, and in a call of the operating system."""
    started = time.monotonic()
    process = start(tmp_path, f"if world.rank == 1: {action}")
    line, found, pids = end_of(process, tmp_path)
    assert time.monotonic() - started < 1.2 * TIMEOUT + SLACK
    name = f"rank 1 on {socket.gethostname()} (pid {pids[1]})"
    assert found["message"].startswith(f"{name} has shown no progress for 1")
    assert found["message"].endswith(" s: it was in epoch 3, batch 17")
    assert line == f"dhhpc: {found['message']}; all ranks end, go on with --resume"
    assert (found["finding"], found["rank"], found["pid"]) == ("hung", 1, pids[1])
    assert TIMEOUT <= found["seconds"] <= 1.5 * TIMEOUT


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_stopped_is_named(tmp_path, rank):
    process = start(tmp_path, f"if world.rank == {rank}: os.kill(os.getpid(), signal.SIGSTOP)")
    line, found, pids = end_of(process, tmp_path)
    assert (found["finding"], found["rank"], found["pid"]) == ("silent", rank, pids[rank])
    assert " has given no sign of life for 1" in line


def test_ranks_that_all_wait_for_each_other(tmp_path):
    process = start(tmp_path, "if world.rank: world.broadcast_object(None)")
    line, found, _ = end_of(process, tmp_path)
    assert (found["finding"], found["rank"]) == ("waiting", None)
    assert line.startswith("dhhpc: all 3 ranks have waited for each other for 1")
    assert "s, rank 0 in barrier: MPI or the network hangs, in epoch 3, batch 17; all ranks end" in line


def ends_well(process: subprocess.Popen[str], tmp_path) -> None:
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert not (tmp_path / "found").exists()


def test_no_alarm_while_one_rank_goes_on_and_others_wait(tmp_path):
    """For three times the timeout, then for as long where kernels may be compiled."""
    busy = "exec('for turn in range(9): time.sleep(0.33); world.progress.goes_on()')"
    patient = f"exec('world.progress.patience = 60; time.sleep({2 * TIMEOUT})')"
    ends_well(
        start(tmp_path, f"{busy} if world.rank == 2 else {patient} if world.rank == 0 else None"), tmp_path
    )


def test_no_alarm_when_a_long_wait_is_over(tmp_path):
    """Ranks that have waited for long, or have been patient for long, wait anew and pass on no question."""
    again = "[world.barrier() for _ in range(3000)]"
    slow = f"[setattr(world.progress, 'patience', 60), time.sleep({1.5 * TIMEOUT}), {again}]"
    ends_well(start(tmp_path, f"{slow} if world.rank == 1 else {again}"), tmp_path)


def test_no_alarm_where_the_whole_job_was_suspended(tmp_path):
    process = start(tmp_path, "time.sleep(0.5)")
    assert process.stdout is not None
    pids = [int(process.stdout.readline().split()[2]) for _ in range(3)]
    for number, seconds in ((signal.SIGSTOP, 2 * TIMEOUT), (signal.SIGCONT, 0)):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(seconds)
    ends_well(process, tmp_path)


def test_a_rank_that_cannot_be_reached_is_told_before_anything_hangs(tmp_path):
    process = start(tmp_path, "pass", "world.rank == 1 and setattr(world, 'host', 'nowhere.invalid')")
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.count("rank 1 on nowhere.invalid (pid ") == 3
    assert output.count(" cannot be reached at port ") >= 3
    assert output.count("it may hang unnoticed; let ranks connect, or set watch.timeout to 0") >= 3


def test_a_world_of_one_is_not_watched():
    with watching(World(), 600, report=lambda finding: None):
        assert [thread.name for thread in threading.enumerate() if thread.name == "watch"] == []


@pytest.mark.slurm
def test_a_dead_rank_is_named(tmp_path, cluster):
    """srun leaves the others alone for a while, so that they tell; the end comes at once and not with it."""
    program = PROGRAM.replace("ACTION", "if world.rank == 1: os.kill(os.getpid(), signal.SIGKILL)")
    command = ["srun", "--mpi=pmi2", "--nodes=2", "--ntasks=3", "--overcommit", sys.executable, "-c"]
    started = time.monotonic()
    result = subprocess.run(
        [*command, program.replace("TIMEOUT", "600").replace("BEFORE", "pass"), str(tmp_path / "found")],
        env=os.environ | {"SLURM_WAIT": "60"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert time.monotonic() - started < 40
    assert result.returncode == 137  # SLURM kills the others
    (found,) = map(json.loads, (tmp_path / "found").read_text().splitlines())
    assert (found["finding"], found["rank"]) == ("dead", 1)
    told = f"dhhpc: rank 1 on {found['host']} (pid {found['pid']}) has died: it was last heard of in "
    assert result.stderr.count(told) == 1
