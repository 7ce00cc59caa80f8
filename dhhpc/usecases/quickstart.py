"""The inputs of the quickstart: a generated chest CT study set, and documents that take it through dhhpc."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2

from dhhpc.data import partition, read_dataset, write_dataset
from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, write_json, write_text
from dhhpc.usecases.chest_ct import generate_chest_ct

MARKER = "quickstart.json"
DATASET, PREPROCESS, EXPERIMENT, STUDY = "dataset.yml", "preprocess.yml", "experiment.yml", "study.yml"
SHARDS, RESULTS = "shards", "scaling"
# Everything a quickstart writes into its folder.
MADE = (
    "scans", "masks", DATASET, PREPROCESS, EXPERIMENT, STUDY, SHARDS, RESULTS, "preprocess.log", MARKER,
)  # fmt: skip
RATIOS = {"training": 0.66, "validation": 0.12, "test": 0.22}


@dataclass(frozen=True)
class Settings:
    """What shapes a quickstart: patients generated, epochs trained, seed of all randomness."""

    patients: int = 24
    epochs: int = 20
    seed: int = 1


def open_folder(folder: Path, settings: Settings, force: bool = False) -> None:
    """Take `folder` for a quickstart with these settings: a new one, an empty one, or one that began alike.

    Args:
        force: begin anew where another quickstart was; only what that one wrote is deleted.

    Raises:
        DhhpcError: the folder holds something else, or a quickstart with other settings.
    """
    marker = folder / MARKER
    if marker.is_file():
        earlier = read_json(marker)
        if force:
            for name in MADE:
                path = folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        elif earlier != asdict(settings):
            changed = next(key for key, value in asdict(settings).items() if earlier.get(key) != value)
            raise DhhpcError(
                f"{folder}: holds a quickstart with {changed} {earlier.get(changed)}, not "
                f"{asdict(settings)[changed]}; choose another --output, or begin anew with --force"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DhhpcError(f"{folder}: is not empty and holds no quickstart; choose another --output")
    if not marker.is_file():
        write_json(marker, asdict(settings))


def generate(folder: Path, settings: Settings) -> bool:
    """Generate the study set with its dataset, divided by patient; False if it is there already."""
    path = folder / DATASET
    # The split is written last: a dataset that has one is whole.
    if path.is_file() and read_dataset(path).split is not None:
        return False
    generate_chest_ct(folder, settings.patients, seed=settings.seed)
    dataset = partition(read_dataset(path), RATIOS, settings.seed, group_by="patient")
    write_dataset(path, dataset)
    return True


def write_documents(folder: Path, settings: Settings) -> list[Path]:
    """Write the documents that are missing, so that a user's edits last; returns those written."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dhhpc.usecases", "documents/quickstart"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    written = []
    for name in (PREPROCESS, EXPERIMENT, STUDY):
        if not (folder / name).is_file():
            write_text(folder / name, environment.get_template(f"{name}.j2").render(asdict(settings)))
            written.append(folder / name)
    return written


def test_scan(folder: Path) -> Path:
    """The series of the first test patient."""
    dataset = read_dataset(folder / DATASET)
    assert dataset.split is not None
    location = dataset.file(dataset.images[dataset.split.test[0]].location)
    assert isinstance(location, Path)
    return location
