"""Runs that sum by nodes against runs that do not: `mpiexec -n 4 python trainings_by_nodes.py FOLDER`."""

import sys
from pathlib import Path

from dhhpc.mpi import World, connect
from tests import synthetic
from tests.training.runs import assert_close, assert_identical, parameters, run

METHODS = {
    "gradient": {"method": "gradient", "bucket_megabytes": 0.005},
    "fixed": {"method": "fixed", "period": 2, "optimizer_state": "keep"},
}


def check(world: World, folder: Path, name: str) -> None:
    """As two nodes of two ranks, the largest arrays sent by rank 0 and rank 2 alone."""
    records = {}
    for how, options in {
        "flat": {},
        "nodes": {"hierarchy": "nodes", "ranks_per_node": 2},
        **({"again": {"hierarchy": "nodes", "ranks_per_node": 2}} if name == "gradient" else {}),
    }.items():
        changes = {"parallel": METHODS[name] | options, "network": {"name": "unet", "channels": [4, 16]}}
        records[how] = run(folder / "shards", folder / f"{name} {how}", world, **changes)
        assert world.hierarchy is None
    flat, nodes, *again = (parameters(record) for record in records.values())
    assert_close(nodes, flat)
    for each in again:
        assert_identical(nodes, each)
    size = 4 * records["nodes"].content["parameters"]
    assert size > 2**12
    for one, other in zip(*(records[how].content["history"] for how in ("flat", "nodes")), strict=True):
        sums = one["averagings"] * size  # by which the bytes of ranks differ
        for rank, (before, after) in enumerate(zip(one["ranks"], other["ranks"], strict=True)):
            assert before["bytes_in_node"] == 0
            assert after["bytes_in_node"] == sums
            assert after["bytes_sent"] == before["bytes_sent"] - (sums if rank % 2 else 0)


if __name__ == "__main__":
    world, folder = connect(), Path(sys.argv[1])
    if world.rank == 0:
        synthetic.write_discs(folder / "shards", {"training": 35, "validation": 5})
    world.barrier()
    for name in METHODS:
        check(world, folder, name)
    print("as expected")
