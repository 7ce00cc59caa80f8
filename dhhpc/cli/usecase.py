"""`dhhpc usecase`: ready data sets and experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    usecase = typer.Typer(no_args_is_help=True, help="Prepare a ready use case: its dataset and experiment.")
    usecase.command()(retina)
    app.add_typer(usecase, name="usecase")


def retina(
    images: Annotated[Path, typer.Option(help="The DRIVE folder, which holds training/ and test/.")],
    output: Annotated[Path, typer.Option(help="Where the documents are written.")] = Path("retina"),
) -> None:
    """Vessels in photographs of the retina (DRIVE), with the field of view as region.

    Example: dhhpc usecase retina --images ~/DRIVE --output retina
    """
    from dhhpc.usecases.retina import prepare_retina

    folder = prepare_retina(images, output)
    print(f"{folder}: dataset.yml, preprocess.yml and experiment.yml are written; next:")
    print(f"  dhhpc preprocess {folder / 'preprocess.yml'} --ranks 2")
    print(f"  dhhpc train {folder / 'experiment.yml'} --ranks 2")
    print(f"  dhhpc evaluate {folder / 'run'} --split test")
