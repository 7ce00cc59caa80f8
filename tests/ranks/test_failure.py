"""A failure on some ranks, on real ranks: one line, exit code 1, no hang."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from dhhpc.mpi.launch import environment_for, mpiexec

PROGRAM = textwrap.dedent("""
    import os, sys
    from dhhpc.errors import DhhpcError
    from dhhpc.mpi import connect, failing_together
    world = connect()
    try:
        with failing_together(world):
            FAIL
            world.barrier()
    except DhhpcError as error:
        print(f"dhhpc: {error}", file=sys.stderr)
        sys.exit(1)
""")


def run_ranks(fail: str):
    return subprocess.run(
        [*mpiexec(2), sys.executable, "-c", PROGRAM.replace("FAIL", fail)],
        env=environment_for(2, os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_same_failure_everywhere_is_told_once():
    result = run_ranks("raise DhhpcError('x.yml: no such file; check the path')")
    assert result.returncode == 1
    assert result.stderr.splitlines() == ["dhhpc: x.yml: no such file; check the path"]


def test_different_failures_are_told_by_rank():
    result = run_ranks("raise DhhpcError(f'part {world.rank} is broken')")
    assert result.returncode == 1
    lines = sorted(result.stderr.splitlines())
    assert lines == [f"dhhpc: rank {rank} on {line_host(lines[0])}: part {rank} is broken" for rank in (0, 1)]


@pytest.mark.parametrize("rank", [0, 1])
def test_one_failing_rank_ends_the_others_that_wait(rank):
    started = time.monotonic()
    result = run_ranks(f"if world.rank == {rank}: raise DhhpcError('loss is nan')")
    assert time.monotonic() - started < 30
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"dhhpc: rank {rank} on ")
    assert lines[0].endswith(": loss is nan")


# The first rank stops its launcher, which then finds the line and the abort at the same time.
STOP_THE_LAUNCHER = textwrap.dedent("""
    import signal, subprocess, time
    import dhhpc.mpi.failure
    dhhpc.mpi.failure.GRACE = 0.2
    if world.rank == 0:
        os.kill(os.getppid(), signal.SIGSTOP)
        subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {os.getppid()}"])
        raise DhhpcError("loss is nan")
""")


def test_a_launcher_that_reads_late_still_tells_the_cause():
    for _ in range(5):
        result = run_ranks(textwrap.indent(STOP_THE_LAUNCHER, 8 * " ").strip())
        assert result.returncode == 1
        assert [line.split(": ")[-1] for line in result.stderr.splitlines()] == ["loss is nan"]


def line_host(line: str) -> str:
    return line.split(" on ")[1].split(":")[0]
