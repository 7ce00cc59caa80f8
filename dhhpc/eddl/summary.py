"""A model as a table of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dhhpc.eddl.model import Model


def summarize(model: Model, batch: int) -> str:
    """The layers, the number of parameters, and the memory of a training step on `batch` samples."""
    rows = [("layer", "kind", "output", "parameters", "inputs")]
    for layer in model.layers:
        count = sum(int(np.prod(parameter.shape)) for parameter in layer.parameters())
        rows.append(
            (
                layer.describe(),
                type(layer).__name__,
                "x".join(map(str, layer.shape)),
                str(count) if count else "",
                ", ".join(parent.describe() for parent in layer.parents),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines.append(f"{model.parameter_count} parameters")
    if model.built:
        shapes = [layer.shape for layer in model.inputs]
        planned = model.make_plan(batch, shapes, training=True).size
        separate = sum(2 * 4 * batch * int(np.prod(layer.shape)) for layer in model.layers)
        lines.append(
            f"training step on {batch} samples: {planned / 2**20:.1f} MiB planned, "
            f"{separate / 2**20:.1f} MiB if every activation and gradient had its own buffer"
        )
    return "\n".join(lines)
