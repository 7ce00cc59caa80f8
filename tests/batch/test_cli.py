"""The verbs submit, jobs and site, as a shell sees them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dhhpc.batch import find_job, scheduler_for

LOCAL = scheduler_for("local")


def dhhpc(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dhhpc", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    path = tmp_path / "my lungs.yml"
    path.write_text("nme: lungs\n")
    return path


def test_dry_run_prints_script_and_command_and_writes_nothing(
    tmp_path: Path, experiment: Path, home: Path
) -> None:
    arguments = [
        "submit",
        "train",
        experiment.name,
        "--site",
        "virtual-cluster",
        "--nodes",
        "2",
        "--time",
        "30",
    ]
    done = dhhpc(*arguments, "--resume", "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '#SBATCH --job-name="my lungs"\n' in done.stdout
    assert f"\nsrun --mpi=pmi2 {sys.executable} -m dhhpc train '{experiment}' --resume || " in done.stdout
    assert "# submitted by: sbatch --parsable " in done.stdout
    assert not home.exists()
    as_json = json.loads(dhhpc(*arguments, "--dry-run", "--json", folder=tmp_path).stdout)
    assert as_json["command"][:2] == ["sbatch", "--parsable"]
    assert "#SBATCH --nodes=2\n" in as_json["script"]


def test_a_local_job_from_submit_to_logs(tmp_path: Path, experiment: Path) -> None:
    submitted = json.loads(dhhpc("submit", "train", experiment.name, "--json", folder=tmp_path).stdout)
    assert submitted["id"] == "local-1"
    LOCAL.wait(find_job("local-1"), timeout=60)
    (row,) = json.loads(dhhpc("jobs", "list", "--json", folder=tmp_path).stdout)
    # The experiment misspells its name: the job fails with that one line in its log.
    assert (row["state"], row["exit_code"], row["name"]) == ("FAILED", 1, "my lungs")
    assert "local-1  FAILED (1)" in dhhpc("jobs", "list", folder=tmp_path).stdout
    logs = dhhpc("jobs", "logs", "local-1", folder=tmp_path)
    assert logs.returncode == 0
    assert f"dhhpc: {experiment}:1: nme: unknown key; did you mean `name`?" in logs.stdout
    cancelled = dhhpc("jobs", "cancel", "local-1", folder=tmp_path)
    assert (cancelled.returncode, cancelled.stderr) == (
        1,
        "dhhpc: job local-1: is over already (FAILED); nothing to cancel\n",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--site", "virtual-cluster", "--time", "5", "--nodes", "5"], "--nodes 5: .* use --nodes 4"),
        (["--site", "virtual-cluster", "--time", "soon"], "--time 'soon' is no time"),
        (["--site", "virtual-cluster", "--time", "5"], "this machine has no SLURM .* or use --site local"),
        (["--site", "lumi-c", "--time", "5"], "--account: is missing, and site lumi-c needs one; give --acc"),
        (
            ["--site", "marenostrum5-gpp", "--time", "5", "--account", "a"],
            "--qos: is missing, and site maren",
        ),
        (
            ["--site", "pbs-pro", "--time", "5", "--threads", "2"],
            r"this machine has no PBS \(no qsub on PATH\); log in to the cluster, or use --site local",
        ),
        (["--site", "slurm-mpich", "--time", "5"], "--threads: is missing, .* --set node.cores=N"),
        (["--site", "nowhere"], "--site nowhere: no such site; known sites: .*, local, "),
        (["--site", "missing.yml"], "missing.yml: no such file"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, experiment: Path, home: Path, arguments: list[str], message: str
) -> None:
    done = dhhpc("submit", "train", experiment.name, *arguments, folder=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("dhhpc: ")
    assert re.search(message, done.stderr), done.stderr
    assert not home.exists()


def test_a_missing_experiment_is_told(tmp_path: Path) -> None:
    done = dhhpc("submit", "train", "none.yml", folder=tmp_path)
    assert (done.returncode, done.stderr) == (
        1,
        "dhhpc: none.yml: no such experiment file; check the path\n",
    )


def test_sites_are_listed_and_shown(tmp_path: Path, home: Path) -> None:
    rows = json.loads(dhhpc("site", "list", "--json", folder=tmp_path).stdout)
    schedulers = {row["name"]: row["scheduler"] for row in rows}
    assert (schedulers["local"], schedulers["lumi-c"], schedulers["pbs-pro"]) == ("local", "slurm", "pbs")
    listed = dhhpc("site", "list", folder=tmp_path).stdout.splitlines()
    assert [line.split()[:2] for line in listed] == [list(pair) for pair in sorted(schedulers.items())]
    shown = json.loads(dhhpc("site", "show", "virtual-cluster", "--json", folder=tmp_path).stdout)
    assert shown["launcher"] == "srun --mpi=pmi2"
    assert "launcher: srun --mpi=pmi2" in dhhpc("site", "show", "virtual-cluster", folder=tmp_path).stdout
