"""Job scripts: as a person would write them, and safe whatever stands in their values."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dhhpc.batch import JobRequest
from dhhpc.batch.request import fit_request
from dhhpc.batch.script import quote_directive, quote_file_pattern, quote_shell, render_script
from dhhpc.batch.site import Container, Node, Partition, Site
from dhhpc.errors import DhhpcError

CLUSTER = Site(
    name="cluster",
    scheduler="slurm",
    launcher="srun --mpi=pmix",
    node=Node(cores=48),
    partitions=[Partition(name="standard", max_nodes=8, max_time="1-00:00:00")],
    account="project1",
    options=["--exclusive", "--comment=two words"],
    modules=["gcc/12", "openmpi/4.1"],
    environment={"UCX_TLS": "rc,sm", "NOTE": "it's $HOME"},
    python="/opt/python3/bin/python",
    scratch="/scratch/my files",
)
GOLDEN = r"""#!/bin/bash
#SBATCH --job-name="lung nodules"
#SBATCH --partition=standard
#SBATCH --account=project1
#SBATCH --nodes=4
#SBATCH --ntasks=8
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=24
#SBATCH --time=02:00:00
#SBATCH --output=/home/me/100%%/job.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --exclusive
#SBATCH "--comment=two words"
# 120 seconds before the limit the ranks hear of it, and the run ends with a checkpoint.
#SBATCH --signal=USR1@120
# Written by `dhhpc submit` for the site cluster.
set -euo pipefail

# Environment modules are shell functions that login shells define; they do not stand strict mode.
set +eu
type module > /dev/null 2>&1 || source /etc/profile
set -e
module load gcc/12
module load openmpi/4.1
set -u

export UCX_TLS=rc,sm
export NOTE='it'"'"'s $HOME'
mkdir -p '/scratch/my files'
export TMPDIR='/scratch/my files'

# As many threads a rank as the allocation has cores for it. srun does not take the number over from sbatch.
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-24}
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS
# A rank that dies ends the job, seconds later: the others would wait for it until the time limit.
export SLURM_WAIT=${SLURM_WAIT:-60}
# The ranks compare their world with this number: an MPI that does not fit the launcher makes worlds of one.
export DHHPC_EXPECTED_RANKS=8
# What the job finds, but for what may be secret.
compgen -e | grep -Eiv 'token|secret|passw|key|credential|auth|cookie' | sort | while read -r name; do
    [[ ${!name} == *://*@* ]] || printf '%s=%q\n' "$name" "${!name}"
done > /home/me/100%/environment.txt || true

cd -- '/home/me/my data'
# Once, on this node: all ranks find the kernels compiled.
/opt/python3/bin/python -m dhhpc kernels build
code=0
# SLURM signals the ranks by itself; this script outlives them, to see how they ended.
trap : TERM
srun --mpi=pmix /opt/python3/bin/python -m dhhpc train '/home/me/my data/experiment.yml' ${SLURM_RESTART_COUNT:+--resume} || code=$?
# 75: stopped by a signal, or without one of its ranks, with a checkpoint. 137: srun's for a killed rank.
restarts=${SLURM_RESTART_COUNT:-0}
job=$SLURM_JOB_ID
# What a user has cancelled is not running any more, and stays so.
read -r state preempted < <(squeue --noheader --jobs="$job" --Format=State:20,PreemptTime:30) || true
if [[ ${preempted:-N/A} != N/A ]]; then echo "job: a job of higher priority takes its nodes" >&2; fi
if [[ ($code == 75 || $code == 137) && ${state:-} == RUNNING && $restarts -lt 3 ]]; then
    echo "job: the ranks ended with exit code $code, queued again: $((restarts + 1)) of 3" >&2
    # SLURM ends this script while it sleeps.
    scontrol requeue "$job" && sleep 60
fi
exit "$code"
"""  # noqa: E501


def test_a_slurm_script(request_of) -> None:
    wish = request_of(
        arguments=("train", "/home/me/my data/experiment.yml"),
        name="lung nodules",
        folder="/home/me/my data",
        nodes=4,
        ranks_per_node=2,
        seconds=7200,
        kind="train",
        requeues=3,
    )
    assert render_script(fit_request(wish, CLUSTER), CLUSTER, Path("/home/me/100%/job.log")) == GOLDEN


def test_a_local_script(request_of) -> None:
    site = Site(name="here", scheduler="local", node=Node(cores=4), python="/opt/python")
    wish = request_of(arguments=("train", "/a/e.yml"), folder="/a", ranks_per_node=2, seconds=90)
    text = render_script(fit_request(wish, site), site, Path("/log"))
    assert "SBATCH" not in text
    assert "SLURM" not in text
    assert "export OMP_NUM_THREADS=2\n" in text
    assert text.endswith("exec /opt/python -m dhhpc train /a/e.yml --ranks 2\n")


def test_memory_is_asked_for_in_whole_megabytes(request_of) -> None:
    wish = request_of(memory_gb=1.5)
    assert "#SBATCH --mem=1536M\n" in render_script(fit_request(wish, CLUSTER), CLUSTER, Path("/log"))


def test_the_launcher_learns_its_numbers(request_of) -> None:
    site = CLUSTER.model_copy(update={"launcher": "mpiexec -n {ranks} -ppn {ranks_per_node}"})
    wish = request_of(nodes=3, ranks_per_node=4, kind="train")
    text = render_script(fit_request(wish, site), site, Path("/log"))
    assert "\nmpiexec -n 12 -ppn 4 /opt/python3/bin/python -m dhhpc" in text


def test_training_and_evaluation_read_copies_on_a_disk_of_each_node(request_of) -> None:
    disk = CLUSTER.model_copy(update={"node_local": "${LOCAL}/me", "scratch": None})
    container = Container(image="/images/dhhpc.sif")

    def command(site: Site = disk, **changes: object) -> str:
        text = render_script(fit_request(request_of(**changes), site), site, Path("/log"))
        return next(line for line in text.splitlines() if "-m dhhpc" in line and "build" not in line)

    assert command(kind="train").count(' --stage "$TMPDIR"') == 1
    assert command(kind="evaluate").endswith(' -m dhhpc site list --stage "$TMPDIR"')
    assert command(kind="train", tasks=2).count(' --stage "$TMPDIR" --member "$SLURM_ARRAY_TASK_ID"') == 1
    local = Site(name="here", scheduler="local", node=Node(cores=4), node_local="/disk")
    assert command(local, kind="train", ranks_per_node=2).endswith(' --stage "$TMPDIR" --ranks 2')
    inside = command(disk.model_copy(update={"container": container}), kind="train", stage=True)
    assert ' --bind "$TMPDIR" --bind ' in inside
    without = [
        command(kind="train", stage=False),
        command(kind="preprocess"),
        command(kind="scale"),
        command(CLUSTER, kind="train"),
        command(disk.model_copy(update={"container": container}), kind="train", stage=False),
    ]
    assert not any("--stage" in line or "TMPDIR" in line for line in without)
    said = command(kind="train", arguments=("train", "/a/e.yml", "--stage=/mine"))
    assert "TMPDIR" not in said
    with pytest.raises(
        DhhpcError, match=r"--stage: site cluster has no node_local, .*--set node_local=FOLDER"
    ):
        fit_request(request_of(kind="train", stage=True), CLUSTER)


@pytest.mark.shellcheck
def test_scripts_pass_bash_and_shellcheck(request_of, tmp_path: Path) -> None:
    wish = request_of(name='a\'b "c" $(d)', folder="/a b/'c'")
    path = tmp_path / "job.sh"
    path.write_text(render_script(fit_request(wish, CLUSTER), CLUSTER, tmp_path / "job.log"))
    subprocess.run(["bash", "-n", path], check=True)
    checked = subprocess.run(
        ["shellcheck", "--severity=warning", path], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_a_pbs_script(request_of) -> None:
    site = Site(
        name="pbs",
        scheduler="pbs",
        launcher="mpiexec -n {ranks} --ppn {ranks_per_node}",
        binding="--depth {threads} --cpu-bind depth",
        node=Node(cores=64, memory_gb=250.5, gpus=4),
        partitions=[Partition(name="workq", max_nodes=8, max_time="4-00:00:00", options=["-l place=excl"])],
        options=["-l filesystems=home:data"],
        python="/opt/python",
    )
    wish = request_of(
        nodes=2, ranks_per_node=4, seconds=90000, account="p1", tasks=3, at_once=2, name="- my: job"
    )
    lines = render_script(fit_request(wish, site), site, Path("/a/job.log")).splitlines()
    assert lines[:12] == [
        "#!/bin/bash",
        "#PBS -S /bin/bash",
        "#PBS -N my_job",
        "#PBS -q workq",
        "#PBS -A p1",
        "#PBS -l select=2:ncpus=64:mpiprocs=4:ompthreads=16:ngpus=4:mem=256512mb",
        "#PBS -l walltime=25:00:00",
        "#PBS -J 0-2%2",
        "#PBS -j oe",
        "#PBS -o /a/job-^array_index^.pbs",
        "#PBS -l filesystems=home:data",
        "#PBS -l place=excl",
    ]
    assert lines[-1] == (
        "exec mpiexec -n 8 --ppn 4 --depth 16 --cpu-bind depth /opt/python -m dhhpc site list "
        '--member "$PBS_ARRAY_INDEX"'
    )
    # PBS refuses arrays of a single part.
    single = render_script(fit_request(request_of(tasks=1), site), site, Path("/a/job.log"))
    assert "-J" not in single
    assert "#PBS -o /a/job-0.pbs\n" in single
    assert "\nexec >> /a/job-0.log 2>&1\n" in single
    assert single.endswith("--member 0\n")
    with pytest.raises(DhhpcError, match=r"/a b/job\.pbs: PBS takes a log's path of letters"):
        render_script(fit_request(request_of(), site), site, Path("/a b/job.log"))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@example("$(touch hacked)", "a\nb", "`x`")
@example("-rf", "'\"'", "\\")
@example("", "!", "a b\tc")
@given(TEXT, TEXT, TEXT)
def test_every_shell_value_comes_back_literally(argument: str, other: str, variable: str) -> None:
    site = Site(
        name="x", scheduler="local", node=Node(cores=1), python="printf", environment={"VALUE": variable}
    )
    request = fit_request(JobRequest(("%s\\0", argument, other), "x", "/"), site)
    # The script ends with the command `printf -m dhhpc ...`: make printf a function that shows its words.
    show = (
        "printf() { [[ $1 == -m ]] || return 0; shift 3; "
        'for word in "$@" "$VALUE"; do builtin printf "%s\\0" "$word"; done; }\n'
    )
    with tempfile.TemporaryDirectory() as folder:
        script = render_script(request, site, Path(folder) / "job.log").replace("exec printf", "printf")
        shown = subprocess.run(["bash", "-c", show + script], capture_output=True, check=True).stdout
    assert shown.decode().split("\0")[:-1] == [argument, other, variable]


@given(st.text(max_size=30))
def test_shell_words_of_any_text_come_back_or_are_refused(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return
    if "\0" in value:
        with pytest.raises(DhhpcError, match="NUL"):
            quote_shell(value)
        return
    shown = subprocess.run(
        ["bash", "-c", f"builtin printf %s {quote_shell(value)}"], capture_output=True, check=True
    )
    assert shown.stdout.decode() == value


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "a\x1bb", "a\u2028b", "a\x85b"])
def test_directives_take_no_line_breaks(value: str) -> None:
    with pytest.raises(DhhpcError, match="line break or control character"):
        quote_directive(value)


def test_a_logs_path_takes_no_backslash() -> None:
    assert quote_file_pattern("/a b/%j") == '"/a b/%%j"'
    with pytest.raises(DhhpcError, match="backslash"):
        quote_file_pattern("/a\\b")
