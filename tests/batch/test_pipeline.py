"""Jobs that wait for others or are queued again, and pipelines, on a real SLURM and in the background."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from dhhpc.batch import JobRecord, JobStatus, find_job, read_site, scheduler_for, submit_job
from dhhpc.batch.processes import wait_until
from dhhpc.batch.site import Site
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.errors import DhhpcError
from dhhpc.usecases.quickstart import Settings, generate, open_folder, write_documents

LOCAL = scheduler_for("local")
SLURM = scheduler_for("slurm")


@pytest.fixture
def start(tmp_path: Path, request_of) -> Callable[..., JobRecord]:
    """Submits `program`, a shell script that stands for the Python of the site."""

    def submit_program(program: str, scheduler: str = "local", **changes: object) -> JobRecord:
        path = tmp_path / f"program-{len(list(tmp_path.iterdir()))}"
        path.write_text(f"#!/bin/bash\n{program}\n")
        path.chmod(0o755)
        if scheduler == "local":
            return submit_job(request_of(**changes), Site(name="here", scheduler="local", python=str(path)))
        site = read_site("virtual-cluster").model_copy(update={"python": str(path)})
        return submit_job(request_of(**changes), site)

    return submit_program


def log_of(job: JobRecord) -> str:
    return Path(job.log).read_text()


def dhhpc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dhhpc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_a_local_job_waits_for_the_one_before(start, tmp_path: Path) -> None:
    first = start(f"sleep 1; touch {tmp_path}/made")
    second = start(f"test -e {tmp_path}/made && echo there", after=(first.id,))
    assert LOCAL.status(second) == JobStatus("PENDING")
    assert LOCAL.wait(second, timeout=20) == JobStatus("COMPLETED", 0)
    assert log_of(second) == "there\n"
    assert find_job(second.id).after == [first.id]


def test_a_local_job_is_not_started_after_a_failure(start) -> None:
    first = start("sleep 1; exit 3")
    second = start("echo started", after=(first.id,))
    third = start("echo started", after=(second.id,))
    assert LOCAL.wait(third, timeout=20).state == LOCAL.status(second).state == "CANCELLED"
    assert log_of(second) == "job: not started, as 1 has not completed\n"
    with pytest.raises(DhhpcError, match=f"--after {first.id}: has ended \\(FAILED\\)"):
        start("true", after=(first.id,))
    with pytest.raises(DhhpcError, match="--after local-99: no such job"):
        start("true", after=("local-99",))


def test_a_local_job_that_waits_is_cancelled(start) -> None:
    first = start("sleep 30")
    second = start("echo started", after=(first.id,))
    LOCAL.cancel(second)
    assert LOCAL.wait(second, timeout=10).state == "CANCELLED"
    LOCAL.cancel(first)


@pytest.mark.slurm
@pytest.mark.usefixtures("cluster")
def test_jobs_of_slurm_keep_their_order(start, tmp_path: Path) -> None:
    wait = f"until [[ -e {tmp_path}/go ]]; do sleep 0.1; done"
    first = start(f"{wait}; touch {tmp_path}/made", "slurm")
    second = start(f"test -e {tmp_path}/made && exit 4", "slurm", after=(first.id,))
    third = start("echo started", "slurm", after=(second.id,))
    assert wait_until(lambda: SLURM.status(second).reason == "Dependency", 30)
    assert SLURM.status(second).state == "PENDING"
    (tmp_path / "go").touch()
    # One that fails takes with it all that wait for it, with the reason.
    assert SLURM.wait(third, timeout=60).state == "CANCELLED"
    assert SLURM.status(first).state == "COMPLETED"
    assert SLURM.status(second) == JobStatus("FAILED", 4)
    assert not Path(third.log).exists()
    why = dhhpc("jobs", "why", third.id).stdout
    assert f"cancelled since what it waited for did not end well; job {second.id} job" in why
    assert f"dhhpc jobs why {second.id}\n" in why


@pytest.mark.slurm
@pytest.mark.usefixtures("cluster")
def test_training_that_was_stopped_is_queued_again_by_its_script(start) -> None:
    """A job that succeeds the second time, both tasks of an array that do, and a job that gives up."""
    wish = {"kind": "train", "requeues": 1, "arguments": ("train", "/e.yml")}
    program = 'echo "$@"; [[ ${SLURM_RESTART_COUNT:-0} == 1 ]] || exit 75'
    job = start(program, "slurm", **wish)
    # One of its tasks has the same number as the array, and must not queue all of them again.
    array = start(program, "slurm", tasks=2, **wish)
    gives_up = start("exit 75", "slurm", **wish)
    assert SLURM.wait(job, timeout=60) == JobStatus("COMPLETED", 0)
    lines = log_of(job).splitlines()
    assert [line for line in lines if "dhhpc train" in line] == [
        "-m dhhpc train /e.yml",
        "-m dhhpc train /e.yml --resume",
    ]
    assert "job: the ranks ended with exit code 75, queued again: 1 of 1" in lines
    assert SLURM.wait(gives_up, timeout=60) == JobStatus("FAILED", 75)
    captured = (Path(job.log).parent / "environment.txt").read_text()
    assert f"SLURM_JOB_ID={job.id}\n" in captured
    assert SLURM.wait(array, timeout=60) == JobStatus("COMPLETED", 0, (JobStatus("COMPLETED", 0),) * 2)
    assert [task.restarts for task in SLURM.status(array).tasks] == [1, 1]
    for log in array.logs:
        assert log.read_text().count("dhhpc train") == 2


@pytest.mark.slurm
def test_the_quickstarts_chain_is_one_command(tmp_path: Path, cluster: VirtualCluster, accounts) -> None:
    folder, settings = tmp_path / "quick start", Settings(patients=6, epochs=2)
    folder.mkdir()
    open_folder(folder, settings)
    generate(folder, settings)
    write_documents(folder, settings)
    options = ["--site", "virtual-cluster", "--nodes", 2, "--time", 10, "--json", "--pipeline"]
    submitted = dhhpc("submit", "train", folder / "experiment.yml", *options)
    assert submitted.returncode == 0, submitted.stderr
    jobs = json.loads(submitted.stdout)
    assert [job["name"].split(": ")[1] for job in jobs] == ["preprocess", "train", "evaluate", "report"]
    assert [job["after"] for job in jobs] == [[], *([job["id"]] for job in jobs[:-1])]
    records = [find_job(job["id"]) for job in jobs]
    assert SLURM.wait(records[-1], timeout=240).state == "COMPLETED", [log_of(record) for record in records]
    ids = [record.id for record in records]
    rows = accounts(ids, "State,NNodes,Start,End", 4)
    assert [rows[job][:2] for job in ids] == [["COMPLETED", nodes] for nodes in ("2", "2", "2", "1")]
    # Each began when the one before it was over.
    assert all(rows[job][2] >= rows[before][3] for before, job in pairwise(ids))
    run = folder / "runs" / "quickstart"
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["ranks"]) == ("finished", 2)
    assert "test" in json.loads((run / "metrics.json").read_text())
    assert "Training report: quickstart" in (run / "report.html").read_text()


def test_a_pipeline_is_shown_before_it_is_submitted(tmp_path: Path) -> None:
    write_documents(tmp_path, Settings())
    options = ["--site", "virtual-cluster", "--time", 10, "--dry-run", "--json", "--pipeline"]
    options += ["--set", "node_local=/disk"]
    shown = json.loads(dhhpc("submit", "train", tmp_path / "experiment.yml", *options).stdout)
    words = [job["script"].split(" -m dhhpc ")[-1].split()[0] for job in shown]
    assert words == ["preprocess", "train", "evaluate", "runs"]
    assert ["--dependency=afterok:JOB" in job["command"] for job in shown] == [False, True, True, True]
    assert ["--stage" in job["script"] for job in shown] == [False, True, True, False]
    without = dhhpc("submit", "train", tmp_path / "experiment.yml", *options, "--no-stage").stdout
    assert len(json.loads(without)) == 4
    assert "--stage" not in without
    moved = dhhpc("submit", "train", tmp_path / "experiment.yml", *options, "--", "--output", "elsewhere")
    assert (moved.returncode, moved.stderr[:18]) == (1, "dhhpc: --output: l")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("preprocess", "no.yml"), "dhhpc: no.yml: no such preprocessing document; check the path"),
        (
            ("evaluate", "runs/no"),
            "dhhpc: runs/no/run.json: no such run; check the path (or give the job that trains it: "
            "--after JOB)",
        ),
        (("scale", "no.yml"), "dhhpc: no.yml: no such study; check the path"),
        (
            ("train", __file__, "--requeue", "-1"),
            "dhhpc: --requeue -1: must be at least 0",
        ),
        (
            ("train", __file__, "--stage"),
            "dhhpc: --stage: site local has no node_local, a folder on a disk of each node's own; drop "
            "--stage, or give one with --set node_local=FOLDER",
        ),
    ],
)
def test_mistakes_are_told_before_anything_waits(arguments: tuple[str, ...], line: str) -> None:
    done = dhhpc("submit", *arguments, "--dry-run")
    assert (done.returncode, done.stderr.strip()) == (1, line)


def test_a_dry_run_loads_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "e.yml").write_text("name: x\n")
    code = (
        "import sys; sys.argv = ['dhhpc', 'submit', 'train', sys.argv[1], '--site', 'lumi-c', "
        "'--account', 'p', '--time', '10', '--dry-run']\n"
        "from dhhpc.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'numba', 'numpy', 'mpi4py', 'h5py', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "e.yml"], check=True, stdout=subprocess.DEVNULL)
