"""What a study of preprocessing shows and cannot show, in plain sentences for both forms of its report."""

from __future__ import annotations

from collections.abc import Callable

from dhhpc.scaling.reports.wording import caveats_of_times
from dhhpc.scaling.studies.preprocessing_results import PreprocessingResults

# Below this share of the ranks, whole shards hold a speed-up back.
WELL_DEALT = 0.9

Figure = Callable[[float, int], str]


def counting(text: type[str], figure: Figure) -> Callable[[int, str], str]:
    """A function that writes a number of things."""
    return lambda count, noun: text("{} " + noun + "s" * (count != 1)).format(figure(count, 0))


def findings_of_preprocessing(results: PreprocessingResults, text: type[str], figure: Figure) -> list[str]:
    """The outcome in one sentence a subject; arguments as in `wording.findings`."""

    counted = counting(text, figure)
    if not results.rows or results.samples is None or results.bytes is None:
        return [text("No point of this study has finished.")]
    first, last = results.rows[0], results.rows[-1]
    images = counted(results.images, "image")
    if last is first:
        sentences = [
            text("Preprocessing {} took {} s on {}. One rank count says nothing about scaling.").format(
                images, figure(first.seconds, 2), counted(first.ranks, "rank")
            )
        ]
    else:
        sentences = [
            text(
                "Preprocessing {} took {} s on {} and {} s on {}: a speed-up of {} at an efficiency of {}."
            ).format(
                images,
                figure(first.seconds, 2),
                counted(first.ranks, "rank"),
                figure(last.seconds, 2),
                counted(last.ranks, "rank"),
                figure(last.speed_up, 2),
                figure(last.efficiency, 2),
            )
        ]
    fastest = min(results.rows, key=lambda row: row.seconds)
    if fastest not in (first, last):
        sentences.append(
            text("It was fastest on {}: {} s.").format(
                counted(fastest.ranks, "rank"), figure(fastest.seconds, 2)
            )
        )
    sentences.append(
        text("Every finished run wrote the same {} into {} ({} bytes), bit for bit.").format(
            counted(results.samples, "sample"),
            counted(results.shard_files, "shard"),
            figure(results.bytes, 0),
        )
    )
    return sentences


def caveats_of_preprocessing(results: PreprocessingResults, text: type[str], figure: Figure) -> list[str]:
    """What the reader must keep in mind; arguments as in `wording.findings`."""
    summary, study = results.summary, results.study
    if not results.rows or summary is None:
        return []
    counted = counting(text, figure)
    beyond = " or about a disk that several machines share"
    sentences = caveats_of_times(summary, study.repeats, results.rows, beyond, text, figure)
    held = [row for row in results.rows if row.most_speed_up < WELL_DEALT * row.ranks]
    if held:
        sentences.append(
            text(
                "A shard is made by one rank, and {} do not fill {} evenly: were all images alike and "
                "nothing lost, the speed-up could be {} at most. A smaller images_per_shard of the pipeline "
                "gives more shards."
            ).format(
                counted(results.shard_files, "shard"),
                counted(held[-1].ranks, "rank"),
                figure(held[-1].most_speed_up, 2),
            )
        )
    sentences.append(
        text(
            "Images were read several times in a row, so most came from the system's memory: the first time, "
            "from a disk, and beside other users of it, preprocessing takes longer."
        )
    )
    if results.skipped:
        sentences.append(
            text("Of the images, {} were damaged and left out in every run.").format(
                figure(results.skipped, 0)
            )
        )
    return sentences
