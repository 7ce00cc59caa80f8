"""A scaling study as jobs: one for each point, and one for the report."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from dhhpc.batch import find_job, scheduler_for
from dhhpc.scaling.studies.kinds import kinds_of
from dhhpc.scaling.studies.results import read_results
from tests import synthetic

SLURM = scheduler_for("slurm")


def dhhpc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dhhpc", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """On one, four and eight ranks."""
    shards = synthetic.write_discs(tmp_path / "shards", {"training": 8, "test": 2})
    synthetic.write_experiment(tmp_path / "e.yml", shards, tmp_path / "run", epochs=1, threads=1)
    document = {"name": "discs", "experiment": "e.yml", "ranks": [1, 4, 8], "order": "listed"}
    (tmp_path / "study.yml").write_text(yaml.safe_dump(document))
    return tmp_path / "study.yml"


def test_points_wait_for_each_other_unless_they_run_together(study: Path) -> None:
    options = (study, "--site", "virtual-cluster", "--time", 5, "--dry-run", "--json", "--ranks-per-node", 2)
    shown = json.loads(dhhpc("submit", "scale", *options).stdout)
    nodes = [job["script"].split("--nodes=")[1].split()[0] for job in shown]
    assert nodes == ["1", "2", "4", "1"]
    assert ["--dependency=afterany:JOB" in job["command"] for job in shown] == [False, True, True, True]
    for job in shown[:-1]:
        assert "\n#SBATCH --no-requeue\n" in job["script"]
    assert "--gather" in shown[-1]["script"]
    whole = json.loads(dhhpc("submit", "scale", *options, "--one-job", "--nodes", 4).stdout)
    assert "scale run" in whole["script"]
    refused = dhhpc("submit", "scale", *options, "--nodes", 4)
    assert refused.returncode == 1
    assert refused.stderr.startswith("dhhpc: --nodes 4: each point has the nodes that its ranks fill")


@pytest.mark.slurm
@pytest.mark.usefixtures("cluster")
def test_a_study_is_measured_by_jobs_on_the_nodes_that_it_says(study: Path, tmp_path: Path) -> None:
    options = ["--site", "virtual-cluster", "--time", 5, "--json"]
    study.write_text(study.read_text().replace("- 8\n", "") + "nodes: [1, 2]\n")
    submitted = dhhpc("submit", "scale", study, *options, "--output", tmp_path / "scaling")
    assert submitted.returncode == 0, submitted.stderr
    # Four ranks of one thread are too many for a node of two cores.
    assert submitted.stderr == (
        "left out: 1 rank on 2 nodes (not equally many on each node); 4 ranks on 1 node "
        "(a node of partition main of site virtual-cluster has 2 cores)\n"
    )
    records = [find_job(job["id"]) for job in json.loads(submitted.stdout)]
    ended = SLURM.wait(records[-1], timeout=240)
    logs = [Path(record.log).read_text() for record in records]
    assert ended.state == "COMPLETED", logs
    results = read_results(tmp_path / "scaling")
    assert [(point.ranks, point.nodes, point.error) for point in results.points] == [
        (1, 1, None), (4, 2, None)
    ]  # fmt: skip
    assert results.left_out == ["1 rank on 2 nodes", "4 ranks on 1 node"]
    for point, record in zip(results.points, records, strict=False):
        run = json.loads((tmp_path / "scaling" / point.run / "run.json").read_text())
        assert run["slurm_job_id"] == record.id
        assert run["launcher"] == ("srun" if point.ranks > 1 else run["launcher"])
        assert (point.joules, point.energy is None) == (None, False)
    # Of the four ranks: two on each of two virtual nodes, which are one machine.
    held = Counter(run["nodes_of_ranks"])
    assert (len(held), set(held.values()), len(run["hosts"])) == (2, {2}, 1)
    assert [len(cores) for cores in run["binding"]] == [len(run["binding"][0])] * 4
    assert run["load"].keys() == set(run["hosts"])
    page = (tmp_path / "scaling" / "report.html").read_text()
    assert "The energy of runs is unknown" in page
    assert "could not be placed so: 1 rank on 2 nodes, 4 ranks on 1 node" in page
    # One rank on one node is the base of the others alone: its line is theirs.
    assert list(kinds_of(results.rows)) == ["2 nodes"]
    # Nothing is left to measure: the report alone is made again.
    again = dhhpc("submit", "scale", study, *options, "--output", tmp_path / "scaling", "--dry-run")
    assert "--gather" in json.loads(again.stdout)["script"]
