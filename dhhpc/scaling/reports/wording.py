"""What a study shows and what it cannot show, in plain sentences for both forms of the report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from dhhpc.data.targets import Task
from dhhpc.scaling.studies.fitting import runs_that_share
from dhhpc.scaling.studies.kinds import kind_of, kinds_of
from dhhpc.scaling.studies.preprocessing_results import PreprocessedRow
from dhhpc.scaling.studies.results import Results, Row, Summary

# Caches can help a little; more than this is doubtful.
SUSPECT_EFFICIENCY = 1.05

# The metric of a task, and what it says.
REACHED: dict[Task, tuple[str, str]] = {
    "segmentation": (
        "dice",
        "On the test images the predicted masks reach a Dice overlap of {} with the true ones.",
    ),
    "classification": ("accuracy", "On the test images the accuracy is {}."),
}

Figure = Callable[[float, int], str]


def counting(text: type[str], figure: Figure) -> Callable[[int, str], str]:
    """A function that writes a number of things."""
    return lambda count, noun: text("{} " + noun + "s" * (count != 1)).format(figure(count, 0))


def findings(results: Results, text: type[str], figure: Figure) -> list[str]:
    """The outcome in one sentence a subject.

    Args:
        text: `markupsafe.Markup` for HTML, `str` for Markdown: the sentences are formats of this type.
        figure: renders a number with so many digits.
    """

    counted = counting(text, figure)

    def prefix(row: Row) -> str:
        kind = kind_of(row, results.rows)
        return f"{kind}, " if kind else ""

    if not results.rows:
        return [text("No point of this study has finished.")]
    sharing = runs_that_share(results.points)
    sentences: list[str] = []
    for kind, rows in kinds_of(results.rows).items():
        subject = text("{}: training").format(kind) if kind else text("Training")
        times = {row.ranks: row.totm for row in rows}
        sentences += times_in_words(subject, rows, times, 1, sharing, text, figure)
    if results.study.target is not None:
        sentences.append(target_reached(results, text, figure))
    key, sentence = REACHED[results.task]
    reached = [(row.test[key], row) for row in results.rows if key in row.test]
    if reached:
        listed = text(", ").join(
            text("{} ({}{})").format(figure(value, 3), prefix(row), counted(row.ranks, "rank"))
            for value, row in reached
        )
        sentences.append(text(sentence).format(listed))
    return sentences


def times_in_words(
    subject: str,
    rows: Sequence[Row | PreprocessedRow],
    seconds: Mapping[int, float],
    digits: int,
    sharing: Collection[str],
    text: type[str],
    figure: Figure,
) -> list[str]:
    """What more ranks gained: the fewest beside the most with cores of their own, then those without.

    Args:
        subject: what took the time.
        rows: of one kind, by ranks.
        seconds: by ranks, told with so many `digits`.
        sharing: the runs whose threads shared cores.
        text, figure: as in `findings`.
    """
    counted = counting(text, figure)

    def took(row: Row | PreprocessedRow) -> str:
        shared = ", which shared cores" if row.run in sharing else ""
        return text("{} s on {}{}").format(
            figure(seconds[row.ranks], digits), counted(row.ranks, "rank"), shared
        )

    first, *more = rows
    if not more:
        return [text("{} took {}. One rank count says nothing about scaling.").format(subject, took(first))]
    last = next((row for row in reversed(more) if row.run not in sharing), more[-1])
    sentences = [
        text("{} took {} and {}: a speed-up of {} at an efficiency of {}.").format(
            subject, took(first), took(last), figure(last.speed_up, 2), figure(last.efficiency, 2)
        )
    ]
    beyond = [row for row in more if row.ranks > last.ranks]
    if beyond:
        sentences.append(text("It took {}.").format(text(" and ").join(map(took, beyond))))
    fastest = min(rows, key=lambda row: seconds[row.ranks])
    if fastest not in (first, last, *beyond):
        sentences.append(
            text("It was fastest on {}: {} s.").format(
                counted(fastest.ranks, "rank"), figure(seconds[fastest.ranks], digits)
            )
        )
    return sentences


def target_reached(results: Results, text: type[str], figure: Figure) -> str:
    """Which row got to the study's target first; arguments as in `findings`."""
    target = results.study.target
    assert target is not None
    goal = text("The validation {} of {}").format(target.metric, figure(target.value, 3))
    there = [row for row in results.rows if row.target_seconds is not None]
    if not there:
        return text("{} was reached by no run.").format(goal)
    best = min(there, key=lambda row: row.target_seconds or 0.0)
    kind = kind_of(best, results.rows)
    return text("{} was reached soonest, after {} s, on {}{}; {} of {} points got there.").format(
        goal,
        figure(best.target_seconds or 0.0, 1),
        counting(text, figure)(best.ranks, "rank"),
        f" ({kind})" if kind else "",
        len(there),
        len(results.rows),
    )


def caveats(results: Results, text: type[str], figure: Figure) -> list[str]:
    """What the reader must keep in mind; arguments as in `findings`."""
    summary, study = results.summary, results.study
    if not results.rows or summary is None:
        return []
    beyond = " or about a network between machines, since all ranks shared one memory"
    sentences = caveats_of_times(
        summary, study.repeats, results.rows, beyond if summary.machines == 1 else "", text, figure
    )
    if results.left_out:
        sentences.append(
            text("Not measured, by choice or as the ranks could not be placed so: {}.").format(
                ", ".join(results.left_out)
            )
        )
    if study.mode == "weak":
        sentences.append(
            text(
                "Weak scaling: n ranks trained n times the epochs of one, so that every rank saw as many "
                "samples."
            )
        )
    sentences.append(
        text(
            "With more ranks a model learns from other batches, so its loss and metrics differ: compare "
            "those before the times."
        )
    )
    return sentences


def caveats_of_times(
    summary: Summary,
    repeats: int,
    rows: Sequence[Row | PreprocessedRow],
    beyond: str,
    text: type[str],
    figure: Figure,
) -> list[str]:
    """What the reader of any study's times must keep in mind.

    Args:
        repeats: runs that were meant for each point.
        beyond: of what else than more ranks the study says nothing.
        text, figure: as in `findings`.
    """
    counted = counting(text, figure)
    sentences = [
        text("{} on {}{}: this says nothing about more ranks{}.").format(
            counted(summary.finished, "point"),
            counted(summary.machines, "machine"),
            text(" with {}{}").format(counted(summary.cores, "core"), " each" * (summary.machines > 1))
            if summary.cores
            else "",
            beyond,
        )
    ]
    if repeats == 1:
        sentences.append(text("Each point was measured once, so the spread from run to run is unknown."))
    else:
        sentences.append(
            text(
                "Of up to {} of each rank count the one with the median time counts; the table also shows "
                "the fastest and the slowest."
            ).format(counted(repeats, "run"))
        )
    if summary.most_threads > summary.cores > 0:
        sentences.append(
            text("Up to {} shared {}: ranks waited for each other's cores.").format(
                counted(summary.most_threads, "thread"), counted(summary.cores, "core")
            )
        )
    if any(row.efficiency > SUSPECT_EFFICIENCY for row in rows):
        sentences.append(
            text(
                "An efficiency above {} is no gift: most likely other work on the machine slowed the base "
                "down. Measure again on an idle machine, with repeats."
            ).format(f"{SUSPECT_EFFICIENCY:.2f}")
        )
    if rows[0].ranks > 1:
        sentences.append(
            text(
                "Speed-up is relative to {}, taken as perfectly efficient: one rank was not measured."
            ).format(counted(rows[0].ranks, "rank"))
        )
    return sentences
