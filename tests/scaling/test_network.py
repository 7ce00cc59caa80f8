"""Described machines: the ready ones, and seconds worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder
from dhhpc.scaling.forecasts.network import Machine, read_machine

READY = sorted((resource_folder("scaling-studies") / "machines").glob("*.yml"))


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_machines_are_whole(path: Path) -> None:
    machine = read_machine(path)
    assert machine.name == path.stem
    # Ranks of a full node take its cores and no more.
    assert machine.ranks_per_node * machine.cores_per_rank <= machine.cores_per_node
    assert machine.within.latency < machine.across.latency


def test_ready_machines_go_by_their_names() -> None:
    assert len(READY) >= 2
    assert read_machine("leonardo-dcgp").nodes == 1536
    with pytest.raises(DhhpcError, match="--machine leonard: no such file or ready machine; there is"):
        read_machine("leonard")


def described(**changes) -> Machine:
    document = {
        "name": "two by two",
        "nodes": 2,
        "cores_per_node": 2,
        "ranks_per_node": 4,
        "within": {"latency": 1e-6, "bandwidth": 1e9},
        "across": {"latency": 1e-5, "bandwidth": 1e8},
        "memory": {"gigabytes": 1, "bandwidth": 1e10},
        "storage": {"bandwidth": 3e8, "node_bandwidth": 2e8, "latency": 0.5},
    }
    return Machine.model_validate(document | changes)


def test_ranks_fill_nodes_and_share_cores() -> None:
    machine = described(node_mtbf_hours=10)
    assert [machine.nodes_of(ranks) for ranks in (1, 4, 5, 8)] == [1, 1, 2, 2]
    assert [machine.oversubscription(ranks) for ranks in (1, 2, 3, 8)] == [1, 1, 1.5, 2]
    assert [machine.busy(ranks) for ranks in (1, 2, 3)] == [0.5, 1, 1]
    # Either of two nodes fails once in five hours.
    assert machine.mtbf(8) == 5 * 3600
    assert described().mtbf(8) == math.inf


def test_sums_go_on_within_nodes_and_then_across() -> None:
    machine = described()
    # 1 kB in two steps of doubling within a node, then one across.
    assert machine.sum_seconds(1000, 8) == pytest.approx(2 * (1e-6 + 1e-6) + (1e-5 + 1e-5))
    # Through memory: three passes of four ranks.
    assert machine.sum_seconds(1000, 8, by_nodes=True) == pytest.approx(3 * (1e-6 + 4e-7) + 2e-5)
    assert machine.sum_seconds(1000, 1) == 0


def test_checkpoints_share_the_file_system() -> None:
    machine = described()
    assert machine.write_seconds(6e8, 1, 8) == pytest.approx(0.5 + 3)
    assert machine.write_seconds(6e8, 8, 8) == pytest.approx(0.5 + 2)
    # Two ranks of a full node read and write 1 MB each.
    assert machine.copy_seconds(1e6, 2) == pytest.approx(4e6 / 1e10)


def test_a_wrong_machine_is_refused(tmp_path: Path) -> None:
    text = READY[0].read_text()
    path = tmp_path / "machine.yml"
    path.write_text(text.replace("cores_per_rank: 1", "cores_per_rank: 1000"))
    with pytest.raises(DhhpcError, match=r"machine.yml: cores_per_rank 1000 is above cores_per_node"):
        read_machine(path)
    path.write_text(text.replace("overlap:", "overlaps:"))
    with pytest.raises(DhhpcError, match=r"machine.yml:\d+: overlaps: unknown key; did you mean `overlap`"):
        read_machine(path)
