"""The study document."""

import re
from pathlib import Path

import pytest
import yaml

from dhhpc.documents import read_document
from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder
from dhhpc.scaling.studies.preprocessing_results import holds_preprocessing, read_preprocessing_results
from dhhpc.scaling.studies.preprocessing_study import PreprocessingStudy
from dhhpc.scaling.studies.results import read_results
from dhhpc.scaling.studies.study import measures_preprocessing, read_study
from dhhpc.scaling.studies.tasks import tasks_of

CHECKOUT = Path(__file__).parents[2]


def write(folder: Path, **changes) -> Path:
    (folder / "experiment.yml").write_text("name: any\n")
    values = {"name": "s", "experiment": "experiment.yml", "ranks": [4, 1, 2]} | changes
    (folder / "study.yml").write_text(yaml.safe_dump(values))
    return folder / "study.yml"


def test_rank_counts_are_sorted_and_the_experiment_lies_beside_the_study(tmp_path):
    study, experiment = read_study(write(tmp_path))
    assert study.ranks == [1, 2, 4]
    assert (study.repeats, study.mode, study.warm_up, study.design_hours) == (1, "strong", True, None)
    assert experiment == tmp_path / "experiment.yml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": [1, 2, 1]}, r"ranks: .*names a number twice; use repeats"),
        ({"ranks": []}, r"ranks: "),
        ({"ranks": [0, 1]}, r"ranks\.?\S* ?.*greater than or equal to 1"),
        ({"repeat": 3}, r"repeat: .*did you mean `repeats`"),
        ({"mode": "stron"}, r"mode: .*'strong' or 'weak'"),
        ({"site": "nowhere"}, r"site: .*'local'"),
        ({"name": "../up"}, r"name: "),
        ({"threads": [2, 2]}, r"threads: .*names a number twice"),
        ({"variants": {"../up": {}}}, r"variants\.?.*"),
        ({"target": {"metric": "dice"}}, r"target\.value: "),
        ({"design_hours": -1}, r"design_hours: "),
    ],
)
def test_wrong_values_are_named(tmp_path, changes, message):
    with pytest.raises(DhhpcError, match=rf"study\.yml:\d+: {message}") as error:
        read_study(write(tmp_path, **changes))
    assert "\n" not in str(error.value)


def test_a_missing_experiment_is_named_with_the_option_that_mends_it(tmp_path):
    with pytest.raises(DhhpcError, match=r"study\.yml: experiment: .*none\.yml: no such file.*--experiment"):
        read_study(write(tmp_path, experiment="none.yml"))
    with pytest.raises(DhhpcError, match=r"--experiment: .*other\.yml: no such file"):
        read_study(write(tmp_path), tmp_path / "other.yml")
    assert read_study(write(tmp_path, experiment="none.yml"), tmp_path / "experiment.yml")


def test_a_study_may_tell_its_own_epochs(tmp_path):
    def trained(**keys):
        (tmp_path / "experiment.yml").write_text("name: any\n")
        study, _ = read_study(write(tmp_path, ranks=[1, 2], **keys))
        return {task.ranks: task.epochs for task in tasks_of(study, epochs=20)}

    assert trained() == {1: 20, 2: 20}
    assert trained(epochs=3) == {1: 3, 2: 3}
    assert trained(epochs=3, mode="weak") == {1: 3, 2: 6}


def test_the_ready_studies_are_whole(tmp_path):
    (tmp_path / "experiment.yml").write_text("name: any\n")
    found = sorted(resource_folder("scaling-studies").glob("*.yml"))
    assert len(found) > 3
    for path in found:
        if measures_preprocessing(path):
            continue
        study, _ = read_study(path, tmp_path / "experiment.yml")
        assert study.name == path.stem
        assert tasks_of(study, epochs=2)


def test_kept_results_are_those_of_the_ready_studies():
    folders = [path.parent for path in (CHECKOUT / "scaling-studies" / "results").glob("*/results.json")]
    kept = [folder.name for folder in folders]
    assert kept
    for folder in folders:
        file = CHECKOUT / "scaling-studies" / f"{folder.name}.yml"
        if holds_preprocessing(folder):
            results, study = read_preprocessing_results(folder), read_document(file, PreprocessingStudy)
            times = [(f"{row.seconds:.2f}", row.seconds_min, row.seconds_max) for row in results.rows]
            heads = [f"| {middle} | {low:.2f} | {high:.2f} |" for middle, low, high in times]
        else:
            results, (study, _) = read_results(folder), read_study(file, __file__)
            heads = [f"| {row.totm:.1f} | {row.totm_min:.1f} | {row.totm_max:.1f} |" for row in results.rows]
        assert results.study == study
        assert (results.summary.failed, results.summary.finished) == (0, len(results.points))
        # The pages beside them are of these results, and their list tells of them.
        report = (folder / "report.md").read_text()
        assert all(head in report for head in heads)
    listed = (CHECKOUT / "scaling-studies" / "results" / "README.md").read_text()
    assert sorted(kept) == sorted(re.findall(r"^\| \[(\S+)\]\(\1/report\.md\)", listed, re.MULTILINE))
