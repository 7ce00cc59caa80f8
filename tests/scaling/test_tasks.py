"""Which points a study measures, in which order, and how its tables compare them."""

from __future__ import annotations

import json

import pytest
import yaml

from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.fitting import fit_points
from dhhpc.scaling.studies.jobs import study_jobs
from dhhpc.scaling.studies.placement import Room
from dhhpc.scaling.studies.results import Point, TimeSplit, table
from dhhpc.scaling.studies.runner import changed_experiment
from dhhpc.scaling.studies.study import Study
from dhhpc.scaling.studies.tasks import in_turn, tasks_of
from tests import synthetic

VARIANTS = {
    "gradient": {"parallel": {"method": "gradient"}},
    "fixed": {"parallel": {"method": "fixed", "period": 8}},
    "large": {"batch_size": 32, "optimizer.learning_rate": 0.1},
}


def study(**changes) -> Study:
    return Study(name="s", experiment="e.yml", **({"ranks": [1, 2]} | changes))


def test_every_variant_on_every_number_of_ranks_and_threads():
    """What only tells how ranks average shares the experiment as it is on one rank."""
    tasks = tasks_of(study(variants=VARIANTS, threads=[1, 2], mode="weak"), epochs=5)
    assert [(task.variant, task.threads, task.ranks, task.epochs) for task in tasks] == [
        ("", 1, 1, 5),
        ("gradient", 1, 2, 10),
        ("", 2, 1, 5),
        ("gradient", 2, 2, 10),
        ("fixed", 1, 2, 10),
        ("fixed", 2, 2, 10),
        ("large", 1, 1, 5),
        ("large", 1, 2, 10),
        ("large", 2, 1, 5),
        ("large", 2, 2, 10),
    ]
    assert [task.run for task in tasks[:2]] == [
        "runs/ranks-1-threads-1-repeat-1",
        "runs/gradient-ranks-2-threads-1-repeat-1",
    ]
    assert tasks[0].settings == ()
    assert tasks[-1].settings == ("batch_size=32", "optimizer.learning_rate=0.1")
    assert json.loads(tasks[1].settings[0].removeprefix("parallel=")) == {"method": "gradient"}


def test_without_variants_the_experiment_as_it_is():
    tasks = tasks_of(study(repeats=2), epochs=3)
    assert [task.run for task in tasks] == [
        f"runs/ranks-{ranks}-repeat-{repeat}" for ranks in (1, 2) for repeat in (1, 2)
    ]


def test_a_random_order_has_all_points_once_in_each_repeat():
    chosen = study(ranks=list(range(1, 9)), repeats=3)
    listed = tasks_of(chosen, epochs=1)
    turns = in_turn(listed, chosen)
    blocks = [turns[start : start + 8] for start in (0, 8, 16)]
    for number, block in enumerate(blocks, 1):
        assert {task.repeat for task in block} == {number}
        assert {task.ranks for task in block} == set(range(1, 9))
    orders = [[task.ranks for task in block] for block in blocks]
    # The chance that two of 8! orders are equal, or one is sorted, is below one in ten thousand.
    assert orders[0] != orders[1] != orders[2]
    assert list(range(1, 9)) not in orders
    assert in_turn(listed, chosen) == turns
    assert in_turn(listed, chosen.model_copy(update={"seed": 2})) != turns
    as_listed = in_turn(listed, chosen.model_copy(update={"order": "listed"}))
    assert [task.ranks for task in as_listed] == [*range(1, 9)] * 3


def point(variant: str, threads: int, ranks: int, totm: float, target: float | None = None) -> Point:
    split = TimeSplit(data=0, compute=totm, communication=0, wait=0, validation=0, checkpoint=0, other=0)
    return Point(
        ranks=ranks, repeat=1, variant=variant, run=f"{variant}{threads}{ranks}{totm}", status="finished",
        threads=threads, samples=100, totm=totm, split=split, target_seconds=target,
    )  # fmt: skip


def test_variants_are_compared_with_their_own_base_or_the_shared_one():
    rows = table(
        [
            point("", 1, 1, 100.0, 80.0),
            point("gradient", 1, 2, 60.0, 40.0),
            point("gradient", 1, 2, 62.0, None),
            point("gradient", 1, 2, 64.0, 50.0),
            point("gradient", 1, 4, 40.0),
            point("large", 1, 1, 90.0),
            point("large", 1, 2, 50.0),
            point("large", 2, 2, 30.0),
            point("large", 2, 4, 20.0),
        ],
        "strong",
    )
    found = [(row.variant, row.threads, row.ranks, row.speed_up, row.core_seconds) for row in rows]
    assert found == [
        ("", 1, 1, 1.0, 100.0),
        ("gradient", 1, 2, pytest.approx(100 / 62), 124.0),
        ("gradient", 1, 4, 2.5, 160.0),
        ("large", 1, 1, 1.0, 90.0),
        ("large", 1, 2, pytest.approx(1.8), 100.0),
        # Two threads have no one rank of their own: they are the base, taken as perfectly efficient.
        ("large", 2, 2, 2.0, 120.0),
        ("large", 2, 4, 3.0, 160.0),
    ]
    assert [(row.reached, row.target_seconds) for row in rows[:3]] == [(1, 80.0), (2, 45.0), (0, None)]


def test_a_variant_that_changes_what_there_is_not_is_named(tmp_path):
    (tmp_path / "e.yml").write_text(yaml.safe_dump({"name": "e"}))
    (task, *_) = tasks_of(study(variants={"odd": {"batchsize": 3}}), 1)
    with pytest.raises(DhhpcError, match=r"^variants\.odd of the study: .*"):
        changed_experiment(tmp_path / "e.yml", task)


def test_points_as_jobs_fill_nodes_or_share_one(tmp_path):
    file = synthetic.write_experiment(tmp_path / "e.yml", tmp_path / "shards", tmp_path / "run", epochs=3)
    document = {"name": "s", "experiment": file.name, "ranks": [1, 2, 4, 8], "order": "listed"}
    (tmp_path / "study.yml").write_text(yaml.safe_dump(document))
    room = Room("anywhere")
    jobs = study_jobs(tmp_path / "study.yml", tmp_path / "out", 4, room).points
    assert [(job.nodes, job.ranks_per_node) for job in jobs] == [(1, 1), (1, 2), (1, 4), (2, 4)]
    run = str(tmp_path / "out" / "runs" / "ranks-8-repeat-1")
    assert jobs[-1].arguments == ("train", str(file), "--output", run, "--set", "epochs=3")
    with pytest.raises(DhhpcError, match=r"study\.yml: ranks 4: are no whole nodes of 3 ranks"):
        study_jobs(tmp_path / "study.yml", tmp_path / "out", 3, room)


def test_no_law_is_fitted_to_unlike_trainings():
    fits = fit_points([point("gradient", 1, 2, 60.0), point("large", 1, 2, 50.0)], "strong", {})
    assert [fit.model for fit in fits] == ["amdahl", "usl", "mechanistic"]
    assert {fit.refused for fit in fits} == {
        "gradient and large are unlike trainings; fit each in a study of its own"
    }
    (first, *_) = fit_points([point("", 1, 2, 60.0), point("", 2, 2, 50.0)], "strong", {})
    assert first.refused == "ranks had 1 and 2 threads; fit each number in a study of its own"
