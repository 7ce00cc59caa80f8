"""What a site cannot hold is refused with the nearest choice that it can."""

from __future__ import annotations

import pytest

from dhhpc.batch.request import fit_request
from dhhpc.batch.site import Node, Partition, Site
from dhhpc.errors import DhhpcError

SITE = Site(
    name="cluster",
    scheduler="slurm",
    launcher="srun --mpi=pmi2",
    node=Node(cores=48),
    account="project1",
    partitions=[
        Partition(name="debug", max_nodes=2, max_time="30"),
        Partition(name="standard", max_nodes=8, max_time="1-00:00:00"),
        Partition(name="fat", max_nodes=1, max_time="1-00:00:00", node=Node(cores=96)),
    ],
)
LOCAL = Site(name="here", scheduler="local", node=Node(cores=4))


def test_the_sites_own_values_fill_in(request_of) -> None:
    fitted = fit_request(request_of(nodes=2, ranks_per_node=5), SITE)
    assert (fitted.partition, fitted.account, fitted.threads, fitted.ranks) == ("debug", "project1", 9, 10)


def test_the_users_values_go_before(request_of) -> None:
    wish = request_of(partition="fat", account="other", threads=20, ranks_per_node=4)
    fitted = fit_request(wish, SITE)
    assert (fitted.partition, fitted.account, fitted.threads) == ("fat", "other", 20)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"seconds": None}, "--time: is missing; .* give for instance --time 00:30:00"),
        (
            {"seconds": 3600},
            "--time 01:00:00: .* at most 00:30:00; use --time 00:30:00 or --partition standard",
        ),
        ({"seconds": 10**6}, "at most 00:30:00; use --time 00:30:00$"),
        ({"nodes": 3}, "--nodes 3: .* at most 2; use --nodes 2 or --partition standard"),
        ({"nodes": 9}, "--nodes 9: .* at most 2; use --nodes 2$"),
        ({"nodes": 0}, "--nodes 0: must be at least 1"),
        ({"ranks_per_node": 0}, "--ranks-per-node 0: must be at least 1"),
        ({"ranks_per_node": 49}, "--ranks-per-node 49: .* 48 cores; use --ranks-per-node 48"),
        ({"ranks_per_node": 2, "threads": 25}, "--threads 25: .* 48 cores for 2 ranks; use --threads 24"),
        ({"threads": 0}, "--threads 0: must be at least 1"),
        ({"partition": "standrad"}, "--partition standrad: .* did you mean standard"),
        ({"partition": "x"}, "--partition x: .* its partitions: debug, standard, fat"),
        ({"account": "a b"}, "--account 'a b' is no name"),
        ({"name": "a\nb"}, r"--name 'a\\nb': must be one line"),
        ({"name": " "}, "--name ' ': must be one line of printable text"),
        ({"name": "x" * 101}, "at most 100 bytes"),
    ],
)
def test_what_the_site_cannot_hold_is_refused(request_of, wish: dict[str, object], message: str) -> None:
    with pytest.raises(DhhpcError, match=message) as caught:
        fit_request(request_of(**wish), SITE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"nodes": 2}, "--nodes 2: site here is this one machine; use --nodes 1 --ranks-per-node 2"),
        ({"ranks_per_node": 5}, "--ranks-per-node 5: site here has 4 cores; use --ranks-per-node 4"),
        ({"partition": "main"}, "--partition main: site here runs jobs on this machine and has none"),
        ({"account": "a"}, "--account a: "),
    ],
)
def test_what_this_machine_cannot_hold_is_refused(request_of, wish: dict[str, object], message: str) -> None:
    with pytest.raises(DhhpcError, match=message):
        fit_request(request_of(**wish), LOCAL)
