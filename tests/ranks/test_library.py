"""What is done before MPI starts: the network that SLURM can tell of, and what killed ranks left."""

import mmap
import os

import pytest

from dhhpc.mpi.launcher import Launcher
from dhhpc.mpi.library import NETWORK, network_for, remove_left_segments


@pytest.mark.parametrize(
    ("library", "launcher", "environment", "network"),
    [
        ("MPICH Version: 5.0.2\nMPICH Device:       ch4:ucx ofi\n", "srun", {}, {NETWORK: "ofi"}),
        ("MPICH Version: 5.0.2\nMPICH Device:       ch4:ucx ofi\n", "mpiexec", {}, {}),
        ("MPICH Version: 5.0.2\nMPICH Device:       ch4:ucx ofi\n", "srun", {NETWORK: "ucx"}, {}),
        ("MPICH Version: 4.0.3\nMPICH Device:    ch4:ucx\n", "srun", {}, {}),
        ("MPICH Version: 4.0.3\nMPICH Device:    ch4:ofi\n", "srun", {}, {}),
        ("Open MPI v4.1.4, package: Debian OpenMPI", "srun", {}, {}),
    ],
)
def test_the_network_that_slurm_can_tell_of(library, launcher, environment, network):
    assert network_for(library, Launcher(launcher, 2, "SLURM_NTASKS"), environment) == network


def test_only_what_nobody_uses_is_removed(tmp_path):
    for name in ("mpich_shm_left_0", "mpich_shm_mapped_0", "mpich_shm_young_0", "other_shm"):
        path = tmp_path / name
        path.write_bytes(bytes(mmap.PAGESIZE))
        if "young" not in name:
            os.utime(path, (0, 0))
    with open(tmp_path / "mpich_shm_mapped_0", "r+b") as file, mmap.mmap(file.fileno(), 0):
        remove_left_segments(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["mpich_shm_mapped_0", "mpich_shm_young_0", "other_shm"]
    remove_left_segments(tmp_path, settled=0)
    assert os.listdir(tmp_path) == ["other_shm"]
