"""Sums by nodes on four ranks, as two nodes, three and one, one node, and four; what experiments learn so."""

import os
import subprocess
import sys

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.mpi.launch import mpiexec
from dhhpc.training import read_experiment
from tests import synthetic
from tests.ranks import sums_by_nodes, trainings_by_nodes


@pytest.mark.parametrize("program", [sums_by_nodes, trainings_by_nodes])
def test_on_four_ranks(tmp_path, program):
    done = subprocess.run(
        [*mpiexec(4), sys.executable, str(program.__file__), str(tmp_path)],
        env=synthetic.clean_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as expected") == 4


@pytest.mark.parametrize(
    ("parallel", "told"),
    [
        (
            {"method": "two-level", "hierarchy": "nodes"},
            "parallel.hierarchy: method two-level has one of its own; leave hierarchy out",
        ),
        (
            {"method": "fixed", "ranks_per_node": 2},
            "parallel.ranks_per_node: is of parallel.hierarchy: nodes; set that too, or leave this out",
        ),
        (
            {"method": "gradient", "hierarchy": "nodes", "compression": {"method": "fp16"}},
            "parallel.hierarchy: does not go with parallel.compression; leave one of them out",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, parallel, told):
    file = synthetic.write_experiment(tmp_path / "e.yml", tmp_path, tmp_path / "run", parallel=parallel)
    with pytest.raises(DhhpcError) as caught:
        read_experiment(file)
    assert told in str(caught.value)
