"""`dhhpc export`: a trained network as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(export)


def export(
    run: Annotated[Path, typer.Argument(help="The run folder that `dhhpc train` wrote.")],
    output: Annotated[Path, typer.Argument(help="The ONNX file to write.")],
) -> None:
    """Write the trained network of a run as ONNX.

    The file is checked with onnx's own checker.

    Example: dhhpc export runs/lungs lungs.onnx
    """
    from dhhpc import eddl, zoo
    from dhhpc.training import load_network, read_run

    model, _, _ = load_network(read_run(run), zoo.create)
    eddl.export_onnx(model, output)
    print(f"{output}: {model.parameter_count} parameters, {output.stat().st_size} bytes")
