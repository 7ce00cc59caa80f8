"""What a site cannot hold is refused with the nearest choice that it can."""

from __future__ import annotations

import pytest

from dhhpc.batch.request import fit_request
from dhhpc.batch.site import Node, Partition, QosLimits, Site
from dhhpc.errors import DhhpcError

SITE = Site(
    name="cluster",
    scheduler="slurm",
    launcher="srun --mpi=pmi2",
    node=Node(cores=48, memory_gb=192),
    account="project1",
    partitions=[
        Partition(name="debug", max_nodes=2, max_time="30"),
        Partition(name="standard", max_nodes=8, max_time="1-00:00:00", default_time="12:00:00"),
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


def test_a_partition_may_have_a_time_limit_for_those_who_give_none(request_of) -> None:
    assert fit_request(request_of(partition="standard", seconds=None), SITE).seconds == 12 * 3600
    assert fit_request(request_of(partition="standard", seconds=60), SITE).seconds == 60


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
        ({"memory_gb": 200}, "--memory 200: .* has 192 GiB; use --memory 192"),
        ({"memory_gb": 0}, "--memory 0: must be above 0"),
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


MACHINE = Site(
    name="machine",
    scheduler="slurm",
    launcher="srun",
    account="required",
    partitions=[
        Partition(
            name="cpu",
            max_nodes=16,
            max_time="1-00:00:00",
            node=Node(cores=8),
            qos_limits=[
                QosLimits(name="debug", max_nodes=2, max_time="30"),
                QosLimits(name="big", min_nodes=17, max_nodes=64),
            ],
        ),
        Partition(name="gpu", max_nodes=4, max_time="1-00:00:00", node=Node(cores=8, gpus=4), qos="gpus"),
    ],
)


def test_a_qos_has_limits_of_its_own(request_of) -> None:
    fitted = fit_request(request_of(account="a", nodes=64, qos="big", seconds=86400), MACHINE)
    assert (fitted.account, fitted.qos, fitted.gpus) == ("a", "big", 0)
    assert fit_request(request_of(account="a", qos="unlisted", nodes=16), MACHINE).qos == "unlisted"


def test_a_job_has_the_graphics_processors_and_the_qos_of_its_partition(request_of) -> None:
    fitted = fit_request(request_of(account="a", partition="gpu"), MACHINE)
    assert (fitted.qos, fitted.gpus) == ("gpus", 4)
    assert fit_request(request_of(account="a", partition="gpu", gpus=0), MACHINE).gpus == 0


def test_without_partitions_the_scheduler_decides(request_of) -> None:
    anything = Site(name="any", scheduler="slurm", launcher="srun")
    fitted = fit_request(request_of(threads=3, nodes=500, seconds=10**7, gpus=2), anything)
    assert (fitted.partition, fitted.threads, fitted.gpus) == (None, 3, 2)
    assert fit_request(request_of(threads=3, partition="mine"), anything).partition == "mine"


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (
            {"account": None},
            "--account: is missing, and site machine needs one; .* into .*/sites/machine.yml",
        ),
        ({"nodes": 17}, "cpu of site machine gives a job at most 16; use --nodes 16 or --qos big"),
        (
            {"nodes": 4, "qos": "debug"},
            "under QOS debug gives a job at most 2; use --nodes 2 or --partition gpu",
        ),
        (
            {"nodes": 4, "qos": "big"},
            "under QOS big takes jobs of at least 17; use --nodes 17 or --partition",
        ),
        ({"seconds": 3600, "qos": "debug"}, "under QOS debug takes at most 00:30:00"),
        ({"qos": "a b"}, "--qos 'a b' is no name"),
        ({"account": ""}, "--account '' is no name"),
        ({"gpus": 1}, "--gpus 1: a node of partition cpu of site machine has 0; use --gpus 0"),
        ({"gpus": -1}, "--gpus -1: must be at least 0"),
    ],
)
def test_what_a_machine_of_projects_cannot_hold_is_refused(
    request_of, wish: dict[str, object], message: str
) -> None:
    with pytest.raises(DhhpcError, match=message) as caught:
        fit_request(request_of(**({"account": "a"} | wish)), MACHINE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"nodes": 2}, "--nodes 2: site here is this one machine; use --nodes 1 --ranks-per-node 2"),
        ({"ranks_per_node": 5}, "--ranks-per-node 5: site here has 4 cores; use --ranks-per-node 4"),
        ({"partition": "main"}, "--partition main: site here runs jobs on this machine and has none"),
        ({"account": "a"}, "--account a: "),
        ({"qos": "q"}, "--qos q: "),
        ({"gpus": 1}, "--gpus 1: "),
    ],
)
def test_what_this_machine_cannot_hold_is_refused(request_of, wish: dict[str, object], message: str) -> None:
    with pytest.raises(DhhpcError, match=message):
        fit_request(request_of(**wish), LOCAL)
