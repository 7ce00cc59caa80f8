"""`dhhpc dataset`: describe, check, partition and merge datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

DatasetFile = Annotated[Path, typer.Argument(metavar="DATASET.yml", help="A dataset file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    dataset = typer.Typer(no_args_is_help=True, help="Describe, check, partition and merge datasets.")
    for verb in (describe, check, partition, merge):
        dataset.command()(verb)
    app.add_typer(dataset, name="dataset")


def describe(dataset: DatasetFile, as_json: AsJson = False) -> None:
    """Count the images, classes and splits of a dataset.

    Example: dhhpc dataset describe lungs/dataset.yml --json
    """
    from dhhpc.data import describe_dataset, read_dataset

    found = describe_dataset(read_dataset(dataset))
    if as_json:
        print_json(found)
        return
    print(f"{found['name']}: {found['images']} images for {found['task']}")
    if found["description"]:
        print(found["description"])
    print(f"classes: {', '.join(found['classes'])}")
    if found["features"]:
        print(f"features: {', '.join(found['features'])}")
    for name, split in found["split"].items():
        counts = ", ".join(f"{label} {count}" for label, count in split.get("classes", {}).items())
        print(f"{name}: {split['images']} images" + (f" ({counts})" if counts else ""))
    if found["unlabelled"]:
        print(f"without a label: {found['unlabelled']} images")
    if found["outside_split"]:
        print(f"in no split: {found['outside_split']} images")


def check(
    dataset: DatasetFile,
    quick: Annotated[bool, typer.Option("--quick", help="Only see that files exist; read none.")] = False,
    as_json: AsJson = False,
) -> None:
    """List everything wrong with a dataset, one line each; exit code 1 if there is something.

    Wrong classes, split indices out of range or twice, missing and damaged files, masks of another size than
    their image, mask values that are no class.

    Example: dhhpc dataset check lungs/dataset.yml
    """
    from dhhpc.cli.progress import progress_shown
    from dhhpc.data import check_dataset, read_dataset

    with progress_shown("check", "images") as progress:
        document = read_dataset(dataset, check=False)
        lines = check_dataset(document, read_images=not quick, progress=progress)
    if as_json:
        print_json({"dataset": str(dataset), "images": len(document.images), "problems": lines})
    else:
        for line in lines:
            print(line)
        count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''}" if lines else "no problem"
        print(f"{dataset}: {len(document.images)} images, {count}")
    if lines:
        raise typer.Exit(1)


def partition(
    dataset: DatasetFile,
    training: Annotated[float, typer.Option(help="Part of the images for training.")] = 0.7,
    validation: Annotated[float, typer.Option(help="Part for validation; 0 for none.")] = 0.15,
    test: Annotated[float, typer.Option(help="Part for the test; 0 for none.")] = 0.15,
    group_by: Annotated[
        str | None, typer.Option(help="An entry of `values` whose images stay together, e.g. patient.")
    ] = None,
    stratify: Annotated[
        str | None,
        typer.Option(help="`label`, or an entry of `values`, whose proportions every split keeps."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same split.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Where to write the result; by default the dataset gets the split.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a split that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Divide a dataset into training, validation and test images.

    Example: dhhpc dataset partition dataset.yml --training 0.8 --validation 0 --test 0.2 --group-by patient
    """
    from dhhpc.data import describe_dataset, read_dataset, write_dataset
    from dhhpc.data import partition as divide
    from dhhpc.errors import DhhpcError

    document = read_dataset(dataset)
    if document.split is not None and output is None and not replace:
        raise DhhpcError(f"{dataset}: has a split already; use --replace, or --output for another file")
    ratios = {"training": training, "validation": validation, "test": test}
    divided = divide(document, ratios, seed, stratify == "label" or stratify or False, group_by)
    written = output or dataset
    write_dataset(written, divided)
    splits = describe_dataset(divided)["split"]
    if as_json:
        print_json({"dataset": str(written), "split": splits})
    else:
        counts = ", ".join(f"{split['images']} {name}" for name, split in splits.items())
        print(f"{written}: {counts} images")


def merge(
    datasets: Annotated[
        list[Path], typer.Argument(metavar="DATASET.yml...", help="Two or more dataset files.")
    ],
    output: Annotated[Path, typer.Option(help="Where to write the merged dataset.")],
    name: Annotated[str | None, typer.Option(help="Its name; by default that of the output file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Join datasets with equal classes into one; images stay where they are.

    Example: dhhpc dataset merge clinic-a/dataset.yml clinic-b/dataset.yml --output both.yml
    """
    from dhhpc.data import merge as join
    from dhhpc.data import read_dataset, write_dataset

    joined = join([read_dataset(path) for path in datasets], name or output.stem)
    write_dataset(output, joined)
    if as_json:
        print_json({"dataset": str(output), "images": len(joined.images), "split": joined.split is not None})
    else:
        print(f"{output}: {len(joined.images)} images of {len(datasets)} datasets")


def print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))
