"""Python functions as jobs, in the background and on a real SLURM."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dhhpc.batch import submit
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.errors import DhhpcError


def where(word: str) -> tuple[str, str | None, str]:
    return word, os.environ.get("SLURMD_NODENAME"), os.environ["OMP_NUM_THREADS"]


def fails() -> None:
    raise ValueError("no such shard")


def test_a_function_runs_in_the_background(tmp_path: Path) -> None:
    assert submit(where, "here", threads=1, folder=tmp_path).result() == ("here", None, "1")


def test_what_a_function_raises_comes_back(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no such shard"):
        submit(fails, folder=tmp_path).result()


@pytest.mark.slurm
def test_a_function_runs_on_every_rank_of_a_job(
    tmp_path: Path, cluster: VirtualCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    job = submit(where, word="there", site="virtual-cluster", time="5", nodes=2, threads=2, folder=tmp_path)
    results = job.results()
    assert len({node for _, node, _ in results}) == 2
    assert {(word, threads) for word, _, threads in results} == {("there", "2")}


def test_what_a_site_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DhhpcError, match=r"--nodes 5: .* at most 4"):
        submit(where, site="virtual-cluster", time="5", nodes=5, folder=tmp_path)
    with pytest.raises(DhhpcError, match="--time: is missing"):
        submit(where, site="virtual-cluster", partition="short", folder=tmp_path)
    with pytest.raises(DhhpcError, match="not submitted to PBS"):
        submit(where, site="pbs-pro", time="5", folder=tmp_path)
