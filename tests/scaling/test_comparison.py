"""Two studies compared, against scipy and on studies whose truth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dhhpc.cli.app import main
from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.comparison import compare
from dhhpc.scaling.studies.results import Point, Preprocessing, Results, TimeSplit, write_results
from dhhpc.scaling.studies.study import Study


def study_of(
    times: dict[tuple[str, int], list[float]], began: int | None = None, **experiment: object
) -> Results:
    """A study with these seconds of each variant and number of ranks.

    Args:
        began: at this second of its hour each repeat, an hour after the one before.
    """
    points = [
        Point(
            ranks=ranks,
            repeat=number + 1,
            variant=variant,
            run=f"{variant}-{ranks}-{number}",
            status="finished",
            started=None if began is None else f"2026-01-01T{number:02d}:00:{began:02d}.000+00:00",
            threads=1,
            totm=totm,
            split=TimeSplit(
                data=0, compute=totm, communication=0, wait=0, validation=0, checkpoint=0, other=0
            ),
        )
        for (variant, ranks), runs in times.items()
        for number, totm in enumerate(runs)
    ]
    return Results(
        study=Study(name="s", experiment="e.yml", ranks=[1]),
        repeat="",
        experiment_file="e.yml",
        experiment=experiment,
        shards="0" * 64,
        points=points,
        preprocessing=Preprocessing(design_seconds=None, run_seconds=1, ranks=1, toppi=None, samples={}),
    )


def test_one_point_is_students_t_of_the_logarithms():
    before, after = [10.0, 11.0, 10.5, 10.2], [12.0, 12.5, 11.9]
    found = compare(study_of({("", 1): before}), study_of({("", 1): after}))
    expected = stats.ttest_ind(np.log(after), np.log(before)).confidence_interval(0.95)
    assert (found.overall.low, found.overall.high) == pytest.approx(np.exp([expected.low, expected.high]))
    assert found.points[0].model_dump(include={"ratio", "low", "high"}) == found.overall.model_dump(
        include={"ratio", "low", "high"}
    )
    assert (found.points[0].before, found.points[0].after) == (10.35, 12.0)


def test_all_points_tell_together_by_hand():
    """Two points, each measured twice: 4 degrees of freedom, and logarithms that differ by 0.1 and 0.3."""
    e = np.exp
    before = study_of({("", 1): [e(1.0), e(1.2)], ("fixed", 2): [e(0.0), e(0.2)], ("", 4): [1.0]}, epochs=1)
    after = study_of({("", 1): [e(1.1), e(1.3)], ("fixed", 2): [e(0.3), e(0.5)]}, epochs=2)
    found = compare(before, after)
    assert [change.ratio for change in found.points] == pytest.approx([e(0.1), e(0.3)])
    assert found.overall.ratio == pytest.approx(e(0.2))
    # Four sides of variance 0.02 each, of one degree of freedom each.
    assert found.deviation == pytest.approx(np.sqrt(0.02))
    half = stats.t.ppf(0.975, 4) * np.sqrt(0.02) * np.sqrt(2 / 2 + 2 / 2) / 2
    assert found.overall.high == pytest.approx(e(0.2 + half))
    assert (found.unmatched, found.differing) == (["4 ranks x 1 thread"], ["epochs"])


def test_studies_measured_in_turn_are_compared_repeat_by_repeat():
    """On a machine on which all takes half as long again from hour to hour; the change takes 3 % longer."""
    random = np.random.default_rng(3)
    drift = np.array([1.0, 1.5, 2.25, 3.4])
    before = {("", 1): drift * 40, ("", 2): drift * 21}
    after = {key: list(1.03 * times * np.exp(random.normal(0, 0.005, 4))) for key, times in before.items()}
    found = compare(study_of({key: list(times) for key, times in before.items()}, 1), study_of(after, 2))
    changes = {key: np.log(after[key]) - np.log(before[key]) for key in before}
    for change, (key, logarithms) in zip(found.points, changes.items(), strict=True):
        expected = stats.ttest_1samp(logarithms, 0).confidence_interval(0.95)
        assert (change.low, change.high) == pytest.approx(np.exp([expected.low, expected.high])), key
    over_all = np.mean(list(changes.values()), axis=0)
    expected = stats.ttest_1samp(over_all, 0).confidence_interval(0.95)
    assert (found.overall.low, found.overall.high) == pytest.approx(np.exp([expected.low, expected.high]))
    assert found.overall.ratio == pytest.approx(np.exp(over_all.mean()))
    assert found.deviation == pytest.approx(over_all.std(ddof=1))
    assert (found.in_turn, found.verdict(0.01)) == (True, "slower")
    # One after the other, the same times say nothing.
    later = study_of(after, 2)
    for point in later.points:
        point.started = point.started.replace("2026-01-01", "2026-01-02")
    apart = compare(study_of({key: list(times) for key, times in before.items()}, 1), later)
    assert (apart.in_turn, apart.verdict(0.01)) == (False, "no difference beyond it")


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, "no difference beyond it"), (1.2, "slower")])
def test_a_slower_build_is_caught_and_an_unchanged_one_is_not(slower, verdict):
    """Twenty times each: 3 repeats on 1, 2 and 4 ranks, whose times differ by 4 % from run to run."""
    generator = np.random.default_rng(5)

    def measured(factor: float) -> Results:
        means = {("", 1): 40.0, ("", 2): 21.0, ("", 4): 12.0}
        return study_of(
            {key: list(factor * mean * np.exp(generator.normal(0, 0.04, 3))) for key, mean in means.items()}
        )

    assert {compare(measured(1.0), measured(slower)).verdict(0.05) for _ in range(20)} == {verdict}


def test_studies_that_cannot_be_compared():
    once = study_of({("", 1): [1.0]})
    with pytest.raises(DhhpcError, match=r"no point was measured twice.*`repeats` of 3 or more"):
        compare(once, once)
    with pytest.raises(DhhpcError, match="share no finished point"):
        compare(once, study_of({("", 2): [1.0]}))


def test_the_exit_code_tells_ci(tmp_path: Path, monkeypatch, capsys):
    for name, factor in (("before", 1.0), ("same", 1.01), ("slow", 1.5)):
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, study_of({("", 2): [factor * each for each in (9.9, 10.0, 10.2)]}))

    def run(name: str) -> tuple[int, str, str]:
        arguments = ["scale", "report", "--compare", str(tmp_path / "before"), str(tmp_path / name)]
        monkeypatch.setattr(sys, "argv", ["dhhpc", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    code, out, _ = run("same")
    assert code == 0
    assert "2 ranks x 1 thread" in out
    assert "tolerance 5.0%: no difference beyond it" in out
    assert "not measured in turn" in out
    code, out, error = run("slow")
    assert (code, error.count("\n")) == (1, 1)
    assert "training takes 1.500 times as long" in error
    assert "slower" in out
