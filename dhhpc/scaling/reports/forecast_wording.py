"""A forecast in plain sentences: what it says, how far it can be trusted, and what it knows nothing of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dhhpc.scaling.reports.forecast_plots import name_of
from dhhpc.scaling.studies.forecast_document import StudyForecast, VariantForecast

Figure = Callable[[float, int], str]
Significant = Callable[[float], str]

NOT_MODELLED = (
    "what more ranks learn: only time is forecast, and with other batches loss and metrics are others",
    "the memory of activations, and so whether a batch fits (`dhhpc submit suggest` counts it); only "
    "parameters, gradients and optimizer state are weighed",
    "other users of nodes, network and disk",
    "how shards are read by many ranks at once",
    "preprocessing, evaluation on the test split, the wait for the job's first start, and energy",
)
# Of each value of a machine's description, what it is, and its unit.
MACHINE_WORDS = {
    "nodes": ("nodes", ""),
    "cores_per_node": ("cores of a node", ""),
    "ranks_per_node": ("ranks on a node", ""),
    "cores_per_rank": ("cores of a rank", ""),
    "relative_speed": ("speed of a core, in cores of the measured machine", ""),
    "within.latency": ("latency between ranks of a node", "s"),
    "within.bandwidth": ("bandwidth between ranks of a node", "B/s"),
    "across.latency": ("latency between nodes", "s"),
    "across.bandwidth": ("bandwidth of a node's network", "B/s"),
    "overlap": ("part of a sum that goes on while ranks compute", ""),
    "memory.gigabytes": ("memory of a node", "GB"),
    "memory.bandwidth": ("bandwidth of a node's memory", "B/s"),
    "storage.bandwidth": ("bandwidth of the file system for the job", "B/s"),
    "storage.node_bandwidth": ("bandwidth of the file system for a node", "B/s"),
    "storage.latency": ("latency of writing a checkpoint", "s"),
    "node_mtbf_hours": ("mean time between failures of a node", "h"),
    "queue_seconds": ("wait for the first start", "s"),
    "requeue_seconds": ("wait for the start after a failure", "s"),
    "startup_seconds": ("start of a job, beside what was measured", "s"),
    "price_per_core_hour": ("price of a core-hour", "{currency}"),
}


def forecast_findings(
    forecast: StudyForecast, text: type[str], figure: Figure, significant: Significant
) -> list[str]:
    """What the forecast says of each variant, a sentence a subject.

    Args:
        text: `markupsafe.Markup` for HTML, `str` for Markdown: the sentences are formats of this type.
        figure: renders a number with so many digits.
        significant: renders one with four significant digits.
    """
    sentences = []
    for variant in forecast.variants:
        sentences += [
            begun(line, variant, forecast, text)
            for line in told(variant, forecast, text, figure, significant)
        ]
    return sentences


def begun(sentence: str, variant: VariantForecast, forecast: StudyForecast, text: type[str]) -> str:
    """A sentence with the variant that it is about, where there are several."""
    if len(forecast.variants) > 1:
        return text("{}: {}").format(name_of(variant), sentence)
    return sentence[:1].upper() + sentence[1:]


def told(
    variant: VariantForecast,
    forecast: StudyForecast,
    text: type[str],
    figure: Figure,
    significant: Significant,
) -> Iterator[str]:
    """The sentences of one variant; arguments as in `forecast_findings`."""
    last = variant.rows[-1]
    most = text("{} rank" + "s" * (last.ranks > 1)).format(figure(last.ranks, 0))
    limit = figure(forecast.efficiency_limit, 2)
    if variant.past is None:
        yield text("efficiency would stay at {} or above, up to {}.").format(limit, most)
    elif variant.past <= variant.rows[0].ranks:
        yield text("efficiency would be below {} from the first row on.").format(limit)
    else:
        yield text("past {} ranks, interpolated between rows, efficiency would fall below {}.").format(
            figure(variant.past, 0), limit
        )
    yield text(
        "on {} an epoch would take {} s at an efficiency of {}; what limits is {}, which costs {} of it."
    ).format(
        most,
        significant(last.epoch_seconds),
        figure(last.efficiency, 2),
        last.limit,
        figure(last.limit_loss, 2),
    )
    if last.period is None or last.period_efficiency is None:
        yield text("no averaging period would reach an efficiency of {} on {}.").format(
            figure(forecast.target, 2), most
        )
    else:
        yield text(
            "the best averaging period on {} is {}, the shortest that reaches {}: its efficiency would be {}."
        ).format(most, figure(last.period, 0), figure(forecast.target, 2), figure(last.period_efficiency, 2))
    if last.daly_seconds is None or last.daly_epochs is None:
        yield text("no failures are assumed, so no checkpoint pays; keep those that a time limit needs.")
        return
    yield text(
        "checkpoints on {} are best every {} s by Daly (2006), so every {} epochs, and every {} epochs by "
        "simulation; the experiment writes one every {}."
    ).format(
        most,
        significant(last.daly_seconds),
        figure(last.daly_epochs, 0),
        figure(last.best_epochs, 0),
        figure(variant.every_epochs, 0),
    )


def forecast_caveats(
    forecast: StudyForecast, text: type[str], figure: Figure, significant: Significant
) -> list[str]:
    """What limits the trust in a forecast; arguments as in `forecast_findings`."""
    sentences = []
    for variant in forecast.variants:
        sentences += [
            begun(line, variant, forecast, text) for line in doubts(variant, text, figure, significant)
        ]
    if forecast.samples != forecast.samples_measured:
        sentences.append(
            text("An epoch is taken to have {} training samples; {} were measured.").format(
                figure(forecast.samples, 0), figure(forecast.samples_measured, 0)
            )
        )
    sentences.append(
        text(
            "The values of {} are those of its description, which may be assumed: none was measured here, "
            "and no run on it was compared. `dhhpc scale simulate RUN... --machine MACHINE --against RUN` "
            "tells how far off a forecast is."
        ).format(forecast.machine["name"])
    )
    return sentences


def doubts(
    variant: VariantForecast, text: type[str], figure: Figure, significant: Significant
) -> Iterator[str]:
    """How little of one variant was measured; arguments as in `forecast_findings`."""
    last, counts = variant.rows[-1], variant.measured_ranks
    yield text(
        "measured {} {} rank{}; the last row has {} rank{}, {} times as many as the most of those."
    ).format(
        "was" if counts == [1] else "were",
        text(", ").join(figure(count, 0) for count in counts),
        "" if counts == [1] else "s",
        figure(last.ranks, 0),
        "s" if last.ranks > 1 else "",
        significant(last.times_measured),
    )
    if variant.wanted_busy > variant.most_busy:
        yield text(
            "ranks were measured with {} of a node's cores busy at most, and would run with {} of them busy: "
            "how much more those slow each other down is not known."
        ).format(figure(variant.most_busy, 2), figure(variant.wanted_busy, 2))
    if counts == [1]:
        yield text("one rank waits for nobody: how ranks differ in speed was not measured.")


def machine_values(machine: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """Of every value of a machine's description: what it is, the value (None where not stated), its unit."""
    found = []
    for key, (words, unit) in MACHINE_WORDS.items():
        value: Any = machine
        for part in key.split("."):
            value = value[part]
        found.append((words, value, unit.format(currency=machine["currency"])))
    return found
