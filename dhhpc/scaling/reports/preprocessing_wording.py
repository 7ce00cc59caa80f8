"""What a study of preprocessing shows and cannot show, in plain sentences for both forms of its report."""

from __future__ import annotations

from dhhpc.scaling.reports.wording import Figure, caveats_of_times, counting, times_in_words
from dhhpc.scaling.studies.fitting import runs_that_share
from dhhpc.scaling.studies.preprocessing_results import PreprocessingResults

# Below this share of the ranks, whole shards hold a speed-up back.
WELL_DEALT = 0.9


def findings_of_preprocessing(results: PreprocessingResults, text: type[str], figure: Figure) -> list[str]:
    """The outcome in one sentence a subject; arguments as in `wording.findings`."""

    counted = counting(text, figure)
    if not results.rows or results.samples is None or results.bytes is None:
        return [text("No point of this study has finished.")]
    times = {row.ranks: row.seconds for row in results.rows}
    subject = text("Preprocessing {}").format(counted(results.images, "image"))
    sentences = times_in_words(subject, results.rows, times, 2, runs_that_share(results.points), text, figure)
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
