"""The timeline of a run: its format, and that it tells the same times as the record."""

import json
import math
from pathlib import Path

import pytest

from dhhpc import zoo
from dhhpc.mpi import Timeline, TraceFile, World, timeline
from dhhpc.training import Experiment, train
from tests import synthetic

# Of Chrome's Trace Event Format: what events of a phase have beside the name, the process and the time.
FIELDS = {"X": {"dur"}, "b": {"id", "cat"}, "e": {"id", "cat"}, "i": {"s"}, "M": {"args"}}
ALLOWED = {"name", "ph", "ts", "pid", "tid", "cat", "args"}


def trained(shards: Path, output: Path, world: World, **changes):
    document = synthetic.experiment_document(shards, output, **changes)
    return train(Experiment.model_validate(document), world, zoo.create)


def checked(path: Path) -> list[dict]:
    """The events of a file, each as the format has it."""
    events = json.loads(path.read_text())
    assert isinstance(events, list)
    for event in events:
        assert {"name", "ph", "ts", "pid", "tid"} | FIELDS[event["ph"]] <= set(event), event
        assert set(event) <= ALLOWED | FIELDS[event["ph"]], event
        assert isinstance(event["name"], str)
        assert all(isinstance(event[field], int) for field in ("pid", "tid"))
        assert all(math.isfinite(event[field]) for field in ("ts", "dur") if field in event)
        assert event.get("dur", 0) >= 0
    named = {event["name"]: event["args"] for event in events if event["ph"] == "M"}
    assert named["process_name"]["name"].startswith(f"rank {events[0]['pid']} on ")
    return events


def spans(events: list[dict], category: str) -> list[dict]:
    return [event for event in events if event["ph"] == "X" and event["cat"] == category]


def end(span: dict) -> float:
    return span["ts"] + span["dur"]


def inside(span: dict, outer: dict) -> bool:
    return outer["ts"] - 0.01 <= span["ts"] and end(span) <= end(outer) + 0.01


def assert_nested(events: list[dict]) -> None:
    """Of two spans of a thread, one contains the other or they lie apart, to a hundredth of a microsecond."""
    every = [event for event in events if event["ph"] == "X"]
    for thread in {event["tid"] for event in every}:
        open_until: list[float] = []
        row = [event for event in every if event["tid"] == thread]
        for event in sorted(row, key=lambda event: (event["ts"], -event["dur"])):
            while open_until and open_until[-1] <= event["ts"] + 0.01:
                open_until.pop()
            assert not open_until or end(event) <= open_until[-1] + 0.01, event
            open_until.append(end(event))


def seconds_in(epoch: dict, events: list[dict]) -> dict[str, float]:
    """Of each category within an epoch's span; what is sent meanwhile is no computing."""
    found = {
        name: [span for span in spans(events, name) if inside(span, epoch)]
        for name in ("data", "compute", "communication", "wait")
    }
    total = {name: sum(span["dur"] for span in part) / 1e6 for name, part in found.items()}
    meanwhile = [
        span for span in found["communication"] if any(inside(span, outer) for outer in found["compute"])
    ]
    total["compute"] -= sum(span["dur"] for span in meanwhile) / 1e6
    return total


@pytest.mark.mpi
@pytest.mark.parametrize(
    "method",
    [{"method": "gradient", "bucket_megabytes": 0.001}, {"method": "fixed", "period": 2}],
    ids=lambda method: method["method"],
)
def test_the_timeline_tells_the_times_of_the_record(world, shared, shards, method):
    checkpoint = {"select": "last", "shard_megabytes": 0.001}
    record = trained(shards, shared / "run", world, parallel=method, trace=100, checkpoint=checkpoint)
    world.barrier()  # each rank closes its own file
    everyone = [checked(record.folder / "trace" / f"rank-{rank:05d}.json") for rank in range(world.size)]
    assert isinstance(world.timeline, Timeline)
    assert not isinstance(world.timeline, TraceFile)
    for rank, events in enumerate(everyone):
        assert {event["pid"] for event in events} == {rank}
        assert_nested(events)
        sections = {span["name"]: span for span in spans(events, "section")}
        assert {"epoch 1", "epoch 1, batch 3", "meeting", "validation", "checkpoint", "end"} <= set(sections)
        # Two checkpoints are written on a row of their own, each once it has begun.
        written = [span for span in spans(events, "background") if span["name"].startswith("write epoch-")]
        begun = [span for span in spans(events, "section") if span["name"] == "checkpoint"]
        assert len(written) == len(begun) == 2
        assert {span["tid"] for span in written}.isdisjoint({span["tid"] for span in begun})
        assert all(one["ts"] <= other["ts"] for one, other in zip(begun, written, strict=True))
        for epoch in record.content["history"]:
            told = epoch["ranks"][rank]
            measured = seconds_in(sections[f"epoch {epoch['epoch'] + 1}"], events)
            assert measured == pytest.approx({name: told[name] for name in measured}, abs=5e-4)
        # Every sum that was begun arrives, after its beginning; its bytes are told.
        begun = {event["id"]: event for event in events if event["ph"] == "b"}
        arrived = {event["id"]: event for event in events if event["ph"] == "e"}
        assert begun.keys() == arrived.keys() != set()
        assert all(begun[number]["ts"] <= arrived[number]["ts"] for number in begun)
        if method["method"] == "gradient":
            sent = sum(event["args"]["bytes"] for event in begun.values())
            assert sent == 2 * 3 * 4 * record.content["parameters"]
            assert len(begun) > 2 * 3  # in several buckets a batch

    # Ranks of one machine have one clock, so the offset that was measured is the error.
    (clock,) = (event["args"] for event in everyone[1] if event["name"] == "clock")
    assert abs(clock["offset_microseconds"]) <= clock["error_microseconds"] + 0.1
    # All have to be in a meeting before one can leave it.
    meetings = [[span for span in spans(events, "wait") if "bytes" in span["args"]] for events in everyone]
    assert len(meetings[0]) >= 3
    for together in zip(*meetings, strict=True):
        latest, earliest = max(span["ts"] for span in together), min(map(end, together))
        assert latest <= earliest + clock["error_microseconds"]


def test_only_the_first_batches_of_each_epoch_are_recorded(discs, tmp_path):
    trained(discs, tmp_path / "run", World(), trace=2)
    events = checked(tmp_path / "run" / "trace" / "rank-00000.json")
    assert_nested(events)
    batches = [span["name"] for span in spans(events, "section") if "batch" in span["name"]]
    assert batches == [f"epoch {epoch}, batch {batch}" for epoch in (1, 2) for batch in (1, 2)]
    assert len(spans(events, "data")) == 4
    assert len(spans(events, "validation")) == 2
    trained(discs, tmp_path / "without", World())
    assert not (tmp_path / "without" / "trace").exists()


def test_what_a_killed_run_leaves_needs_but_the_bracket(tmp_path):
    path = tmp_path / "trace" / "rank-00000.json"
    trace = TraceFile(path, World())
    for number in range(2 * timeline.PIECE):
        trace.span(f"batch {number}", "section", trace.started + number, trace.started + number + 1)
    left = json.loads(path.read_text() + "]")
    assert timeline.PIECE < len(left) <= 2 * timeline.PIECE
    assert left[-1]["dur"] == 1e6
    trace.close()
    assert len(spans(checked(path), "section")) == 2 * timeline.PIECE


def test_a_file_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(timeline, "LARGEST", 2**20)
    trace = TraceFile(tmp_path / "rank-00000.json", World())
    for _ in range(20_000):
        trace.span("a", "b", trace.started, trace.started + 1)
        trace.record(True)
    trace.close()
    assert 2**20 < trace.path.stat().st_size < 2**20 + 200 * timeline.PIECE
    assert checked(trace.path)[-1]["name"] == "the end of the timeline at 1 MiB"
