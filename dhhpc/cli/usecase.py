"""`dhhpc usecase`: ready data sets and experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    usecase = typer.Typer(no_args_is_help=True, help="Prepare a ready use case: its dataset and experiment.")
    usecase.command()(retina)
    usecase.command()(nodules)
    app.add_typer(usecase, name="usecase")


def retina(
    images: Annotated[Path, typer.Option(help="The DRIVE folder, which holds training/ and test/.")],
    output: Annotated[Path, typer.Option(help="Where the documents are written.")] = Path("retina"),
) -> None:
    """Vessels in photographs of the retina (DRIVE), with the field of view as region.

    Example: dhhpc usecase retina --images ~/DRIVE --output retina
    """
    from dhhpc.usecases.retina import prepare_retina

    print_next(prepare_retina(images, output))


def nodules(
    output: Annotated[Path, typer.Option(help="Where images and documents are written.")] = Path("nodules"),
    patients: Annotated[int, typer.Option(min=6, help="Chest CT patients to generate.")] = 96,
    seed: Annotated[int, typer.Option(min=0, help="Seed of images and split.")] = 1,
) -> None:
    """Lung nodules in generated chest CT: does a tile of a slice hold one? (ResNet-18)

    Generates DICOM series and masks; preprocessing cuts their slices into tiles and classifies those.

    Example: dhhpc usecase nodules --output nodules --patients 48
    """
    from dhhpc.usecases.nodules import prepare_nodules

    print_next(prepare_nodules(output, patients, seed))


def print_next(folder: Path) -> None:
    print(f"{folder}: dataset.yml, preprocess.yml and experiment.yml are written; next:")
    print(f"  dhhpc preprocess {folder / 'preprocess.yml'} --ranks 2")
    print(f"  dhhpc train {folder / 'experiment.yml'} --ranks 2")
    print(f"  dhhpc evaluate {folder / 'run'} --split test")
