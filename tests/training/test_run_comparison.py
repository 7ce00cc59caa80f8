"""`dhhpc runs compare`, on records written by hand."""

import json
import sys
from pathlib import Path

import pytest

from dhhpc.cli.app import main


def record(folder: Path, ranks: int, rate: float, numpy: str, dice: float, kpis: dict | None) -> Path:
    """A run of so many ranks of two threads."""
    content = {
        "schema_version": 1,
        "name": folder.name,
        "status": "finished" if kpis else "running",
        "started": "2026-01-01T00:00:00+00:00",
        "experiment": {
            "name": folder.name,
            "output": str(folder),
            "epochs": 2,
            "optimizer": {"name": "sgd", "learning_rate": rate},
        },
        "ranks": ranks,
        "threads": 2,
        "threads_of_ranks": [2] * ranks,
        "versions": {"numpy": numpy, "python": "3.11"},
        "history": [{"loss": 0.5}, {"loss": 0.25}],
    }
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(content | ({"kpis": kpis} if kpis else {})))
    (folder / "metrics.json").write_text(json.dumps({"test": {"dice": dice, "samples": 5}}))
    return folder


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    kpis = {"totm": 900.0, "samples_per_second": 10.0, "bytes_sent": 0}
    return [
        record(tmp_path / "one", 1, 0.1, "2.0", 0.75, kpis),
        record(tmp_path / "four", 4, 0.1, "2.1", 0.5, kpis | {"totm": 300.0, "bytes_sent": 4_000_000}),
        record(tmp_path / "going", 4, 0.2, "2.0", 0.25, None),
    ]


def compare(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["dhhpc", "runs", "compare", *map(str, arguments)])
    main()


def test_what_differs_and_what_came_of_it(three, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        compare(monkeypatch, *three, "--json")
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["differs"] == {
        "optimizer.learning_rate": [0.1, 0.1, 0.2],
        "ranks": [1, 4, 4],
        "version of numpy": ["2.0", "2.1", "2.0"],
    }
    # 900 s on two cores and 300 s on eight.
    assert found["results"] == {
        "status": ["finished", "finished", "running"],
        "epochs": [2, 2, 2],
        "last loss": [0.25, 0.25, 0.25],
        "test dice": [0.75, 0.5, 0.25],
        "totm (s)": [900.0, 300.0, None],
        "core-hours": [0.5, pytest.approx(2 / 3), None],
        "samples/s": [10.0, 10.0, None],
        "MB sent by a rank": [0.0, 4.0, None],
    }


def test_equal_runs_and_one_alone(three, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        compare(monkeypatch, three[0], three[0])
    assert "differ in nothing" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        compare(monkeypatch, three[0])
    assert ended.value.code == 1
    assert "is one run; name two or more" in capsys.readouterr().err
