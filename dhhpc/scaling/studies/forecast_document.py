"""The forecast of a study, as results.json keeps it: modelled figures, and what they stand on."""

from __future__ import annotations

from typing import Any

from dhhpc.documents import Document


class ForecastRow(Document):
    """Training on so many ranks of the machine; all but the counts is modelled.

    Attributes:
        times_measured: how many times as many ranks as were measured at most.
        batches: of an epoch.
        epoch_seconds: with validation and checkpoint, mean over epochs.
        speed_up, efficiency: against one rank of the machine, modelled too.
        shares: of the time of an epoch, by part; means over the ranks.
        losses: of the time of an epoch, what each part takes beyond its time on one rank.
        limit, limit_loss: in words, the part of the largest loss ("nothing" where none is worth naming), and
            that loss.
        run_seconds: of the run with failures and starts, without the wait for the first start.
        failures, failure_seconds: expected in a run, and what they cost of `run_seconds`.
        core_hours, price: of all cores that ranks hold; the price is None where the machine has none.
        period, period_efficiency: the shortest averaging period that reaches the wanted efficiency, and what
            it reaches; None if none does.
        daly_seconds, daly_epochs: between checkpoints, by Daly's estimate; None where nothing fails.
        best_epochs: between checkpoints, by simulation.
    """

    ranks: int
    times_measured: float
    nodes: int
    batches: int
    epoch_seconds: float
    speed_up: float
    efficiency: float
    shares: dict[str, float]
    losses: dict[str, float]
    limit: str
    limit_loss: float
    run_seconds: float
    failures: float
    failure_seconds: float
    core_hours: float
    price: float | None = None
    period: int | None = None
    period_efficiency: float | None = None
    daly_seconds: float | None = None
    daly_epochs: int | None = None
    best_epochs: int


class VariantForecast(Document):
    """The forecast of one variant of a study; "" is the experiment as it is.

    Attributes:
        runs: that calibrate it, relative to the study's folder, and `left_out_runs` those that could not,
            with the reason.
        threads: of each of their ranks.
        measured_ranks: their rank counts.
        most_busy, wanted_busy: the largest share of a node's cores that was busy in them, and that is busy in
            the rows.
        measured: lines on what they measured.
        left_out: numbers of ranks that cannot be, with the reason.
        past: ranks past which efficiency falls below the forecast's limit; None if it does not.
        every_epochs: between the checkpoints of the experiment.
        assumptions: a line each.
    """

    variant: str
    runs: list[str]
    left_out_runs: list[str]
    threads: int
    measured_ranks: list[int]
    most_busy: float
    wanted_busy: float
    measured: list[str]
    rows: list[ForecastRow]
    left_out: list[str]
    past: float | None
    every_epochs: int
    assumptions: list[str]


class StudyForecast(Document):
    """What was forecast of a study's experiment on a described machine.

    Attributes:
        repeat: the command that forecasts it again.
        machine: every value of its description.
        samples: training samples of an epoch; of each rank's part of it in a weak study.
        efficiency_limit: what `past` of each variant goes by.
        target: the efficiency that an averaging period is to reach.
    """

    repeat: str
    machine: dict[str, Any]
    samples: int
    samples_measured: int
    efficiency_limit: float
    target: float
    variants: list[VariantForecast]
