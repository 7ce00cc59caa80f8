"""Ranks on several numbers of nodes: which points a study has, where they have room, how they compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dhhpc.batch import read_site
from dhhpc.cli.scale import as_text
from dhhpc.errors import DhhpcError
from dhhpc.mpi import allocated_nodes, core_list
from dhhpc.scaling.reports.exports import mllog, prometheus
from dhhpc.scaling.reports.report import report
from dhhpc.scaling.studies.comparison import compare, named
from dhhpc.scaling.studies.fitting import fit_points
from dhhpc.scaling.studies.jobs import StudyJobs, gathering, study_jobs
from dhhpc.scaling.studies.kinds import kinds_of
from dhhpc.scaling.studies.placement import Room, room_at
from dhhpc.scaling.studies.results import (
    Machine,
    Point,
    Preprocessing,
    Results,
    TimeSplit,
    read_results,
    table,
    write_results,
)
from dhhpc.scaling.studies.runner import run_study, summary_of
from dhhpc.scaling.studies.runs import read_point
from dhhpc.scaling.studies.study import Study, read_study
from dhhpc.scaling.studies.tasks import Task, tasks_of, undivided
from dhhpc.training.run_record import RunRecord, nodes_of
from tests import synthetic


def write(folder: Path, **changes: object) -> Path:
    synthetic.write_experiment(folder / "e.yml", folder / "shards", folder / "run", epochs=3, threads=None)
    values = {"name": "s", "experiment": "e.yml", "order": "listed"} | changes
    (folder / "study.yml").write_text(yaml.safe_dump(values))
    return folder / "study.yml"


def jobs_of(file: Path, room: Room, threads: int | None = None) -> StudyJobs:
    return study_jobs(file, file.parent / "out", 1, room, threads)


def test_ranks_are_measured_on_every_number_of_nodes_that_divides_them() -> None:
    study = Study(name="s", experiment="e.yml", ranks=[1, 2, 6], nodes=[3, 1, 2], threads=[1, 2], repeats=2)
    tasks = tasks_of(study, epochs=1)
    grid = [(1, 1), (1, 2), (1, 6), (2, 2), (2, 6), (3, 6)]
    assert [(task.threads, task.nodes, task.ranks) for task in tasks[::2]] == [
        (threads, *place) for threads in (1, 2) for place in grid
    ]
    assert [task.repeat for task in tasks] == [1, 2] * 12
    assert undivided(study) == ["1 rank on 2 nodes", "1 rank on 3 nodes", "2 ranks on 3 nodes"]
    last = tasks[-1]
    assert (last.run, last.ranks_per_node) == ("runs/ranks-6-nodes-3-threads-2-repeat-2", 2)
    assert last.title == "train on 6 ranks x 2 threads on 3 nodes, run 2"


def test_points_as_jobs_have_the_nodes_that_the_study_says(tmp_path: Path) -> None:
    file = write(tmp_path, ranks=[1, 4, 8], nodes=[1, 2, 8], threads=[1, 2])
    found = jobs_of(file, Room("the site", most=4, cores=4))
    assert [(job.task.ranks, job.task.threads, job.nodes, job.ranks_per_node) for job in found.points] == [
        (1, 1, 1, 1), (4, 1, 1, 4), (4, 1, 2, 2), (8, 1, 2, 4), (1, 2, 1, 1), (4, 2, 2, 2),
    ]  # fmt: skip
    assert found.told == (
        "left out: 1 rank on 2 nodes, 1 rank on 8 nodes, 4 ranks on 8 nodes (not equally many on each node); "
        "8 ranks x 1 thread on 1 node, 4 ranks x 2 threads on 1 node, 8 ranks x 2 threads on 1 node, "
        "8 ranks x 2 threads on 2 nodes (a node of the site has 4 cores); "
        "8 ranks x 1 thread on 8 nodes, 8 ranks x 2 threads on 8 nodes (the site gives at most 4 nodes)"
    )
    assert found.left_out[0] == "ranks-8-nodes-1-threads-1"
    assert gathering(file, tmp_path, found.left_out[:1])[-2:] == ("--leave-out", found.left_out[0])
    # Jobs that ask for more cores a rank have room for fewer ranks.
    assert len(jobs_of(file, Room("the site", most=4, cores=4), threads=4).points) == 2
    with pytest.raises(DhhpcError, match=r"room for no point; .*the site takes jobs of at least 9 nodes\)$"):
        jobs_of(file, Room("the site", fewest=9))
    with pytest.raises(DhhpcError, match=r"--ranks-per-node 2: .*study\.yml says by `nodes`"):
        study_jobs(file, tmp_path, 2, Room("the site"))
    # A study that does not say how ranks are spread is not checked.
    assert jobs_of(write(tmp_path, ranks=[1, 8]), Room("the site", most=2, cores=1)).told is None
    with pytest.raises(DhhpcError, match=r"none of nodes \[2, 4\] divides any of ranks \[1, 3\]"):
        read_study(write(tmp_path, ranks=[1, 3], nodes=[2, 4]))


def test_the_room_of_sites_and_allocations(tmp_path: Path) -> None:
    found = room_at(read_site("virtual-cluster"), "short", None)
    assert found == Room("partition short of site virtual-cluster", 1, 4, 2)
    assert room_at(read_site("local", ["node.cores=3"]), None, None) == Room("site local", 1, 1, 3)
    (tmp_path / "hosts").write_text("a\na\nb\n")
    script = {"SLURM_JOB_NUM_NODES": "3", "SLURM_STEP_ID": "4294967291", "SLURM_STEP_NUM_TASKS": "1"}
    assert allocated_nodes(script) == 3
    assert allocated_nodes(script | {"SLURM_STEP_ID": "0"}) is None
    assert allocated_nodes({"PBS_NODEFILE": str(tmp_path / "hosts")}) == 2
    assert allocated_nodes({}) is None


def test_several_nodes_need_an_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_NUM_NODES", "PBS_NODEFILE"):
        monkeypatch.delenv(name, raising=False)
    synthetic.write_discs(tmp_path / "shards", {"training": 4})
    file = write(tmp_path, ranks=[1, 2], nodes=[1, 2])
    with pytest.raises(DhhpcError, match=r"nodes 2: this is one machine.*`dhhpc submit scale .*--site SITE`"):
        run_study(file, tmp_path / "out", lambda *_: None)
    # Gathered without the point that had no room; others are not measured yet.
    gathered = run_study(file, tmp_path / "out", lambda *_: None, gather=True, leave_out=["ranks-2-nodes-2"])
    assert [(point.ranks, point.nodes, point.status) for point in gathered.points] == [
        (1, 1, "failed"), (2, 1, "failed"),
    ]  # fmt: skip
    assert gathered.left_out == ["1 rank on 2 nodes", "2 ranks on 2 nodes"]
    with pytest.raises(
        DhhpcError, match=r"--leave-out ranks-9: .*its points: ranks-1-nodes-1, ranks-2-nodes"
    ):
        run_study(file, tmp_path / "out", lambda *_: None, gather=True, leave_out=["ranks-9"])


def point(ranks: int, nodes: int | None, totm: float, repeat: int = 1) -> Point:
    split = TimeSplit(data=0, compute=totm, communication=0, wait=0, validation=0, checkpoint=0, other=0)
    hosts = [f"node{number}" for number in range(1, (nodes or 1) + 1)]
    return Point(
        ranks=ranks, repeat=repeat, nodes=nodes, run=f"runs/{ranks}-{nodes}-{repeat}", status="finished",
        threads=1, epochs=1, samples=600, totm=totm, split=split, started="2026-01-01T00:00:00+00:00",
        machine=Machine(
            hosts=hosts, cpu="a processor", cores=2, memory_gib=8.0,
            load={host: [0.25, 0, 0] for host in hosts}, binding=[[0, 1, 2, 5]] * ranks,
        ),
    )  # fmt: skip


def results_of(*points: Point) -> Results:
    experiment: dict[str, object] = dict.fromkeys(
        ("network", "loss", "optimizer", "batch_size", "epochs", "seed"), "any"
    )
    experiment["parallel"] = {"method": "spatial"}  # which has no mechanistic model
    return Results(
        study=Study(name="s", experiment="e.yml", ranks=[1, 2, 4], nodes=[1, 2]),
        repeat="",
        experiment_file="e.yml",
        experiment=experiment,
        shards="0" * 64,
        left_out=["1 rank on 2 nodes"],
        points=list(points),
        rows=table(points, "strong"),
        fits=fit_points(points, "strong", experiment),
        summary=summary_of(list(points)),
        preprocessing=Preprocessing(
            design_seconds=None, run_seconds=1.0, ranks=1, toppi=None, samples={"training": 200}
        ),
    )


def test_all_numbers_of_nodes_are_compared_with_one_rank_on_one_node() -> None:
    points = [point(1, 1, 120.0), point(2, 1, 80.0), point(4, 1, 60.0), point(2, 2, 75.0), point(4, 2, 48.0)]
    rows = table(points, "strong")
    found = [(row.nodes, row.ranks, row.speed_up, row.efficiency) for row in rows]
    assert found == [
        (1, 1, 1.0, 1.0), (1, 2, 1.5, 0.75), (1, 4, 2.0, 0.5), (2, 2, 1.6, 0.8), (2, 4, 2.5, 0.625),
    ]  # fmt: skip
    # Karp and Flatt: (1/S - 1/n) / (1 - 1/n).
    assert [row.karp_flatt for row in rows[3:]] == pytest.approx([0.25, (0.4 - 0.25) / 0.75])
    assert {name: [(row.nodes, row.ranks) for row in own] for name, own in kinds_of(rows).items()} == {
        "1 node": [(1, 1), (1, 2), (1, 4)],
        "2 nodes": [(1, 1), (2, 2), (2, 4)],
    }
    # Without one rank: the fewest ranks on the fewest nodes, taken as perfectly efficient.
    rows = table(points[1:], "strong")
    assert [(row.nodes, row.ranks, row.speed_up) for row in rows] == [
        (1, 2, 2.0), (1, 4, pytest.approx(2 * 80 / 60)), (2, 2, pytest.approx(2 * 80 / 75)),
        (2, 4, pytest.approx(2 * 80 / 48)),
    ]  # fmt: skip
    assert list(kinds_of(table([point(1, 1, 9.0), point(2, 1, 5.0)], "strong"))) == [""]


def test_the_report_and_exports_tell_nodes_where_there_are_several(tmp_path: Path) -> None:
    several = results_of(point(1, 1, 120.0), point(2, 1, 80.0), point(2, 2, 75.0), point(4, 2, 48.0))
    write_results(tmp_path, several)
    page = report(tmp_path).read_text()
    markdown = (tmp_path / "report.md").read_text()
    assert "2 nodes: training took 120.0 s on 1 rank and 48.0 s on 4 ranks: a speed-up of 2.50" in markdown
    assert "| 2 nodes | 2 | 75.0 |" in markdown
    assert "could not be placed so: 1 rank on 2 nodes." in page
    assert "ranks were on 1 and 2 nodes; fit each number in a study of its own" in markdown
    # Two machines of two cores hold the four threads of four ranks.
    assert "4 points on 2 machines with 2 cores each: this says nothing about more ranks." in markdown
    assert "ranks waited for each other's cores" not in markdown
    assert "load before it 0.25 on node1, 0.25 on node2; cores of its ranks 0-2,5 | 0-2,5" in markdown
    assert "cores of its ranks 0-2,5 | 0-2,5" in page
    assert [line.split()[:3] for line in as_text(several).splitlines()[1:5]] == [
        ["1", "node", "1"], ["1", "node", "2"], ["2", "nodes", "2"], ["2", "nodes", "4"],
    ]  # fmt: skip
    assert "not measured: 1 rank on 2 nodes" in as_text(several)
    assert 'dhhpc_totm_seconds{study="s",variant="",ranks="2",threads="1",nodes="2"} 75.0' in prometheus(
        several
    )
    events = [json.loads(line.removeprefix(":::MLLOG ")) for line in mllog(several)]
    assert [event["value"] for event in events if event["key"] == "number_of_nodes"] == [1, 1, 2, 2]
    one = results_of(point(1, 1, 120.0), point(2, 1, 80.0))
    assert "nodes=" not in prometheus(one)
    assert not any("number_of_nodes" in line for line in mllog(one))
    write_results(tmp_path, one)
    report(tmp_path)
    assert "| training |" not in (tmp_path / "report.md").read_text()


def test_studies_are_compared_node_by_node() -> None:
    before = results_of(
        *(point(2, nodes, 10.0 * nodes + repeat, repeat) for nodes in (1, 2) for repeat in (1, 2))
    )
    after = results_of(*(point(2, 2, 22.0 + repeat, repeat) for repeat in (1, 2)))
    found = compare(before, after)
    assert [(each.nodes, each.before, each.after) for each in found.points] == [(2, 21.5, 23.5)]
    assert found.unmatched == ["2 ranks x 1 thread on 1 node"]
    assert named(("fixed", 1, None, 2)) == "fixed: 2 ranks x 1 thread"


def test_results_of_earlier_versions_load(tmp_path: Path) -> None:
    write_results(tmp_path, results_of(point(1, None, 9.0), point(2, None, 5.0)))
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    del content["left_out"], content["study"]["nodes"]
    for each in (*content["points"], *content["rows"]):
        del each["nodes"]
    for each in content["points"]:
        del each["machine"]["load"], each["machine"]["binding"]
    path.write_text(json.dumps(content))
    earlier = read_results(tmp_path)
    assert [(row.nodes, row.speed_up) for row in earlier.rows] == [(None, 1.0), (None, 1.8)]
    assert earlier.points[0].machine == Machine(hosts=["node1"], cpu="a processor", cores=2, memory_gib=8.0)
    assert "load before it" not in report(tmp_path).read_text()


def test_a_run_whose_ranks_were_elsewhere_is_refused(tmp_path: Path) -> None:
    spread = ["a", "a", "a", "b"]
    processes = [f"{name}:{number}" for number, name in enumerate(spread)]
    record = RunRecord(tmp_path / "runs" / "ranks-4-nodes-2-repeat-1")
    for content in ({"nodes_of_ranks": spread}, {"processes": processes}):
        record.content = {}
        record.update(schema_version=1, status="finished", **content)
        with pytest.raises(DhhpcError, match="placed 3 on a, 1 on b, where 4 ranks on 2 nodes are measured"):
            read_point(tmp_path, Task(4, 1, 3, nodes=2))


def test_nodes_are_named_as_slurm_does_unless_the_names_do_not_tell_them_apart() -> None:
    virtual: list[tuple[str, str | None]] = [("vm", "node1"), ("vm", "node1"), ("vm", "node2")]
    assert nodes_of(virtual) == ["node1", "node1", "node2"]
    assert nodes_of([("a.cluster", "a"), ("b.cluster", "a")]) == ["a.cluster", "b.cluster"]
    assert nodes_of([("a", None), ("b", None)]) == ["a", "b"]


def test_cores_are_listed_as_the_system_lists_them() -> None:
    assert core_list([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert core_list([3]) == "3"
