"""A forecast and its validation as tables and words, with what was measured and what is modelled apart."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from dhhpc.cli.allocation_table import duration
from dhhpc.scaling.forecasts.forecast import GOOD_EFFICIENCY, PARTS, Forecast, Forecaster, Row
from dhhpc.scaling.forecasts.validation import Validation


def forecast_document(forecaster: Forecaster, forecast: Forecast) -> dict[str, Any]:
    """All of a forecast for JSON: seconds, and None for what is infinite."""
    calibration = forecaster.calibration
    jitter = asdict(calibration.jitter)
    jitter["residuals"] = len(calibration.jitter.residuals)
    return {
        "measured": {
            "sources": list(calibration.measured),
            "left_out": list(calibration.left_out),
            "threads": calibration.threads,
            "pace": asdict(calibration.pace),
            "sample_seconds_by_busy_cores": {
                f"{share:g}": seconds for share, seconds in sorted(calibration.samples_seconds.items())
            },
            "jitter": jitter,
            "network": asdict(calibration.network),
            "once_seconds": calibration.once,
        },
        "machine": forecaster.machine.model_dump(mode="json"),
        "parallel": forecaster.experiment.parallel.model_dump(mode="json"),
        "assumptions": forecast.assumptions,
        "modelled": [finite(asdict(row)) for row in forecast.rows],
        "left_out": forecast.left_out,
        "efficiency_below": {"limit": GOOD_EFFICIENCY, "ranks": forecast.past},
        "target_efficiency": forecast.target,
    }


def finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: None if value == math.inf else value for key, value in values.items()}


def show_forecast(forecaster: Forecaster, forecast: Forecast) -> None:
    """Print the table and what it means."""
    from rich.console import Console
    from rich.table import Table

    priced = forecaster.machine.price_per_core_hour is not None
    table = Table("ranks", "epoch", "speed-up", "efficiency", *PARTS, "run", "core-hours")
    if priced:
        table.add_column(forecaster.machine.currency)
    for row in forecast.rows:
        cells = [str(row.ranks), duration(row.epoch_seconds), f"{row.speed_up:.4g}", f"{row.efficiency:.2f}"]
        cells += [f"{row.shares[part]:.0%}" for part in PARTS]
        cells += [duration(row.run_seconds), f"{row.core_hours:.4g}"]
        table.add_row(*cells, *([f"{row.price:.4g}"] if row.price is not None else []))
    Console(width=None if Console().is_terminal else 160, soft_wrap=True).print(table)
    lines = [*told(forecaster, forecast), "", "measured:", *listed(forecaster.calibration.measured)]
    if forecaster.calibration.left_out:
        lines += ["not calibrated on:", *listed(forecaster.calibration.left_out)]
    lines += [f"modelled: all of the table, on {forecaster.machine.name}; it takes for granted that"]
    print("\n".join([*lines, *listed(forecast.assumptions)]))


def told(forecaster: Forecaster, forecast: Forecast) -> list[str]:
    """What limits, which period and which checkpoints are best, and where efficiency ends."""
    last = forecast.rows[-1]
    most = ranks_of(last)
    lines = [f"on {most}, what limits is {last.limit}"]
    if forecast.past is None:
        lines.append(f"efficiency stays at {GOOD_EFFICIENCY:g} or above, up to {most}")
    elif forecast.past <= forecast.rows[0].ranks:
        lines.append(f"efficiency is below {GOOD_EFFICIENCY:g} from the first row on")
    else:
        lines.append(f"past {forecast.past:.0f} ranks efficiency is below {GOOD_EFFICIENCY:g}")
    if last.period is None:
        lines.append(f"no averaging period reaches an efficiency of {forecast.target:g} on {most}")
    else:
        period, reached = last.period
        shorter = f"; shorter ones do not reach {forecast.target:g}" if period > 1 else ""
        lines.append(
            f"a period of {period} (parallel: {{method: fixed, period: {period}}}) is {reached:.2f} "
            f"efficient on {most}{shorter}"
        )
    if math.isinf(last.daly_seconds):
        return [*lines, "no failures are assumed, so no checkpoint pays; keep those that a time limit needs"]
    chosen = forecaster.experiment.checkpoint.every_epochs
    lines += [
        f"on {most}, {last.failures:.2g} failures a run cost {duration(last.failure_seconds)}",
        f"checkpoints are best every {duration(last.daly_seconds)} by Daly (2006), so every "
        f"{epochs(last.daly_epochs)}, and every {epochs(last.best_epochs)} by simulation; the experiment "
        f"writes one every {epochs(chosen)}",
    ]
    return lines


def validation_document(validation: Validation) -> dict[str, Any]:
    """All of a validation for JSON."""
    return {
        "calibrated_on": validation.measured,
        "comparisons": [asdict(each) | {"error": each.error} for each in validation.comparisons],
        "refused": validation.refused,
        "median_error": validation.median_error(),
        "median_error_of_own_cores": validation.median_error(own_cores=True),
    }


def show_validation(validation: Validation) -> None:
    """Print measured and modelled epochs side by side."""
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "ranks", "method", "period", "measured (s)", "modelled (s)", "error")
    for each in validation.comparisons:
        ranks = f"{each.ranks}{' (share cores)' if each.shares_cores else ''}"
        numbers = [f"{each.measured:.3f}", f"{each.modelled:.3f}", f"{each.error:+.1%}"]
        table.add_row(each.run, ranks, each.method, str(each.period), *numbers)
    Console(width=None if Console().is_terminal else 160, soft_wrap=True).print(table)
    count = len(validation.comparisons)
    print(f"median error over {count} run{'s' if count > 1 else ''}: {validation.median_error():.1%}")
    alone = validation.median_error(own_cores=True)
    if alone is not None and any(each.shares_cores for each in validation.comparisons):
        print(f"of those whose ranks have their cores to themselves: {alone:.1%}")
    lines = ["calibrated on:", *listed(validation.measured)]
    if validation.refused:
        lines += ["not compared:", *listed(validation.refused)]
    print("\n".join(lines))


def listed(lines: tuple[str, ...] | list[str]) -> list[str]:
    return [f"  - {line}" for line in lines]


def ranks_of(row: Row) -> str:
    return f"{row.ranks} rank{'s' if row.ranks > 1 else ''}"


def epochs(count: int) -> str:
    return "epoch" if count == 1 else f"{count} epochs"
