"""What a probe measures, on real ranks (`mpiexec -n 2 python -m pytest --with-mpi -m mpi`), and its lines."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dhhpc.cli.app import command_line
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World, connect
from dhhpc.scaling.forecasts.network import read_machine
from dhhpc.scaling.forecasts.probe import Disk, Probe, fit, probe
from dhhpc.scaling.forecasts.probe_machine import machine_of
from tests import synthetic

SMALL = {"sizes": (8, 4096, 262144), "copied": 2**20, "file_bytes": 2**20}


@pytest.mark.mpi
def test_two_ranks_measure_their_machine(tmp_path: Path) -> None:
    world = connect()
    found = probe(world, Path(world.broadcast_object(str(tmp_path))), **SMALL)
    assert (found.ranks, found.ranks_per_node, found.hosts) == (world.size, world.size, (world.host,))
    assert found.across is None
    for line in (found.within, found.sums):
        assert line is not None
        assert line.sizes == SMALL["sizes"]
        assert min(line.seconds) > 0
        assert line.latency >= 0
        assert 0 < line.bandwidth < math.inf
        assert len(line.residuals) == 3
        assert all(math.isfinite(each) for each in line.residuals)
    assert min(found.copy, found.disk.write, found.disk.read, found.disk.latency) > 0
    world.barrier()
    assert list(tmp_path.iterdir()) == []
    # All ranks find the same sums, by the slowest of them.
    assert len(set(world.allgather_object(found.sums))) == 1


@pytest.mark.mpi
def test_a_disk_that_cannot_be_written_fails_on_all_ranks_alike(tmp_path: Path) -> None:
    world = connect()
    with pytest.raises(DhhpcError, match="cannot be written"):
        probe(world, Path(world.broadcast_object(str(tmp_path))) / "missing", **SMALL)


def test_the_command_starts_ranks_and_writes_a_machine(tmp_path: Path) -> None:
    arguments = ["--path", tmp_path, "--output", tmp_path / "p.json", "--machine", tmp_path / "m.yml"]
    done = synthetic.run_dhhpc("scale", "probe", "--ranks", 2, *arguments)
    assert done.returncode == 0, done.stderr
    assert "2 ranks, 2 a node" in done.stdout
    assert "sum of 2" in done.stdout
    found = json.loads((tmp_path / "p.json").read_text())
    machine = read_machine(tmp_path / "m.yml")
    assert machine.cores_per_node == found["cores"]
    # The sums of the machine are those that were measured, as far as a line goes through them.
    line = found["sums"]
    for size in (8.0, 1e8):
        measured = line["latency"] + size / line["bandwidth"]
        assert machine.sum_seconds(size, 2) == pytest.approx(measured)


def test_a_rank_alone_measures_memory_and_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = probe(World(), tmp_path, **SMALL)
    assert (found.within, found.across, found.sums) == (None, None, None)
    assert min(found.copy, found.disk.write) > 0
    with pytest.raises(DhhpcError, match="--machine: one rank has nobody to send to"):
        machine_of(found)
    arguments = ["scale", "probe", "--path", str(tmp_path / "missing")]
    with pytest.raises(DhhpcError, match="missing: no such folder"):
        command_line()(arguments, standalone_mode=False)


def test_lines_by_hand() -> None:
    sizes = (8, 1000, 10**6)
    exact = fit(sizes, [2e-6 + size / 1e9 for size in sizes])
    assert (exact.latency, exact.bandwidth) == pytest.approx((2e-6, 1e9))
    assert exact.residuals == pytest.approx((0, 0, 0), abs=1e-9)
    # Sizes that cost nothing: the latency alone, which is the least off in proportion to 1 and 2.
    flat = fit((8, 16), (2e-6, 1e-6))
    assert flat.latency == pytest.approx((1 / 2 + 1) / (1 / 4 + 1) * 1e-6)
    assert flat.residuals == pytest.approx((0.6 - 1, 1.2 - 1))
    # A negative latency is none.
    assert fit((1000, 2000), (1e-6, 3e-6)).latency == 0


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_links_agree_with_the_sums_they_are_from(ranks: int) -> None:
    line = fit((8, 10**6), (5e-6, 2e-3))
    disk = Disk("here", 1e8, 1e8, 0.01)
    found = Probe(ranks, ("a",), ranks, ranks, "", line, None, line, 1e10, 2**34, disk)
    machine = machine_of(found)
    assert machine.sum_seconds(1e9, ranks) == pytest.approx(1e9 / line.bandwidth, rel=1e-3)
    assert machine.sum_seconds(0.0, ranks) == pytest.approx(line.latency)
    # Of two nodes, messages tell.
    two = machine_of(replace(found, hosts=("a", "b"), across=fit((8, 10**6), (1e-5, 1e-2))))
    assert (two.nodes, two.within.latency) == (2, line.latency)
    assert two.across.latency > two.within.latency
    assert two.storage.node_bandwidth == 5e7
