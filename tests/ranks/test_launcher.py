"""Detection of the launcher, and refusal of a world of another size, on environments seen on machines."""

import os
import subprocess
import sys

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.mpi.launch import environment_for, mpiexec, without_option
from dhhpc.mpi.launcher import Launcher, detect_launcher
from dhhpc.mpi.world import check_world

BATCH_SCRIPT = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
STEP = BATCH_SCRIPT | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
PMI2 = {"PMI_RANK": "0", "PMI_SIZE": "2", "PMI_FD": "11"}
HYDRA = {"PMI_RANK": "0", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "0"}


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, Launcher("none", 1, "")),
        (BATCH_SCRIPT, Launcher("none", 1, "")),
        (
            BATCH_SCRIPT | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
            Launcher("none", 1, ""),
        ),
        (STEP, Launcher("srun", 2, "SLURM_STEP_NUM_TASKS")),
        (STEP | PMI2, Launcher("srun", 2, "SLURM_STEP_NUM_TASKS")),
        (STEP | HYDRA, Launcher("mpiexec", 4, "PMI_SIZE")),
        (HYDRA, Launcher("mpiexec", 4, "PMI_SIZE")),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, Launcher("mpirun", 3, "OMPI_COMM_WORLD_SIZE")),
        (HYDRA | {"DHHPC_EXPECTED_RANKS": "8"}, Launcher("mpiexec", 8, "DHHPC_EXPECTED_RANKS")),
        ({"DHHPC_EXPECTED_RANKS": "2"}, Launcher("the job script", 2, "DHHPC_EXPECTED_RANKS")),
    ],
)
def test_detects_the_launcher(environment, launcher):
    assert detect_launcher(environment) == launcher


def test_a_world_of_the_launchers_size_is_accepted():
    check_world(2, detect_launcher(STEP))


@pytest.mark.parametrize(
    ("environment", "parts"),
    [
        (STEP, ["world has 1 rank", "SLURM started 2 tasks (SLURM_NTASKS=2)", "srun --mpi=pmi2"]),
        (HYDRA, ["world has 1 rank", "mpiexec started 4 processes (PMI_SIZE=4)", "mpi4py was built for"]),
        ({"DHHPC_EXPECTED_RANKS": "8"}, ["world has 1 rank", "8 were asked for (DHHPC_EXPECTED_RANKS=8)"]),
    ],
)
def test_another_size_is_refused_with_both_numbers_and_the_mend(environment, parts):
    with pytest.raises(DhhpcError) as caught:
        check_world(1, detect_launcher(environment))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def run_python(code: str, environment: dict[str, str], prefix: tuple[str, ...] = ()):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "SLURM", "MPI_"))}
    return subprocess.run(
        [*prefix, sys.executable, "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_srun_tasks_without_a_common_world_are_refused():
    """What `srun --mpi=none -n 2` gives every task: a step of two, and an MPI that finds itself alone."""
    result = run_python("from dhhpc.mpi import connect; connect()", STEP)
    assert result.returncode == 1
    assert "the MPI world has 1 rank but SLURM started 2 tasks (SLURM_NTASKS=2)" in result.stderr


def test_a_single_process_loads_no_mpi():
    code = "import sys; from dhhpc.mpi import connect; print(connect().size, 'mpi4py' in sys.modules)"
    assert run_python(code, BATCH_SCRIPT).stdout.split() == ["1", "False"]


def test_ranks_option_is_dropped_in_both_spellings():
    arguments = ["train", "a.yml", "--ranks", "2", "--epochs=3", "--ranks=4"]
    assert without_option(arguments, "--ranks") == ["train", "a.yml", "--epochs=3"]


def test_ranks_on_each_node_are_told_to_mpiexec():
    told = mpiexec(4, 2)[1:]
    assert told[-2:] == ["-n", "4"]
    assert ("-ppn 2" in " ".join(told)) != ("--map-by ppr:2:node" in " ".join(told))  # Hydra's, or Open MPI's
    code = "import sys; sys.argv[1:] = ['train', 'e.yml', '--ranks-per-node', '2']\n"
    refused = run_python(code + "from dhhpc.cli.app import main; main()", {})
    assert refused.stderr == "dhhpc: --ranks-per-node 2: give a divisor of --ranks, and that, too\n"


def test_inner_ranks_do_not_see_the_outer_step():
    inner = environment_for(4, STEP | PMI2 | {"HOME": "/root"})
    assert inner["HOME"] == "/root"
    assert inner["DHHPC_EXPECTED_RANKS"] == "4"
    assert not [name for name in inner if name.startswith(("PMI_", "SLURM_STEP"))]


def test_a_rank_refuses_to_start_ranks_itself():
    result = run_python("from dhhpc.mpi import launch; launch(2, ['train'])", HYDRA)
    assert result.returncode == 1
    assert "already one of 4 ranks that mpiexec started (PMI_SIZE=4); drop --ranks" in result.stderr


def test_no_mpiexec_says_how_to_install_one(tmp_path):
    code = (
        f"import sys; sys.executable = {str(tmp_path / 'python')!r}\n"
        "from dhhpc.mpi import launch\nlaunch(2, ['train'])"
    )
    result = run_python(code, {"PATH": str(tmp_path)})
    assert result.returncode == 1
    assert 'pip install "dhhpc[mpi]"' in result.stderr
