"""The DeepHealth Toolkit Dataset Format: which images there are, how they are labelled, and their split.

A dataset is a YAML file (source: DeepHealth D1.1, section 6.2, ECVL-REQ-1-01 to 1-03):

    name: lungs
    classes: [nodule]
    features: [patient]
    images:
      - {location: scans/p01, label: masks/p01.nii.gz, values: {patient: p01}}
    split: {training: [0], validation: [], test: []}
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from dhhpc.data.targets import Task, foreground_classes
from dhhpc.documents import Document, line_of, read_document, write_document
from dhhpc.errors import DhhpcError

SPLITS = ("training", "validation", "test")

Location = str | list[str]
LabelPart = pydantic.StrictStr | pydantic.StrictInt
Problem = tuple[tuple[str | int, ...], str]
"""Where in the document (keys and indices), and what is wrong there with its mend."""


class ImageEntry(Document):
    """One image of a dataset.

    Attributes:
        location: a file, a folder (a DICOM series) or a list of files (its slices); relative to the YAML's
            folder.
        label: a class name or index, a list of them (several labels), or the path of a mask (or a list of
            paths).
        values: whatever else is known, by name; `patient` serves grouping, `region` is the path of a mask
            of where evaluation counts.
    """

    location: Location
    label: LabelPart | list[LabelPart] | None = None
    values: dict[str, Any] = pydantic.Field(default_factory=dict)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _bare_location(cls, value: Any) -> Any:
        return {"location": value} if isinstance(value, str) else value

    @pydantic.model_serializer(mode="wrap")
    def _without_empty_values(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if key != "values" or value}


class Split(Document):
    """Indices into the dataset's images, from 0."""

    training: list[int] = pydantic.Field(default_factory=list)
    validation: list[int] = pydantic.Field(default_factory=list)
    test: list[int] = pydantic.Field(default_factory=list)


class Dataset(Document):
    """A whole dataset file; `read_dataset` also checks what needs more than one key to be judged."""

    name: str
    description: str = ""
    classes: list[str] = pydantic.Field(min_length=1)
    features: list[str] = pydantic.Field(default_factory=list)
    images: list[ImageEntry]
    split: Split | None = None
    _path: Path | None = pydantic.PrivateAttr(None)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _name_listed_values(cls, data: Any) -> Any:
        """Values may be written as a list in the order of `features`."""
        features = data.get("features") if isinstance(data, dict) else None
        images = data.get("images") if isinstance(data, dict) else None
        if not isinstance(features, list) or not isinstance(images, list):
            return data
        named = [
            {**image, "values": dict(zip(features, image["values"], strict=True))}
            if isinstance(image, dict)
            and isinstance(image.get("values"), list)
            and len(image["values"]) == len(features)
            else image
            for image in images
        ]
        return {**data, "images": named}

    @property
    def path(self) -> Path | None:
        """The file this was read from."""
        return self._path

    @property
    def folder(self) -> Path:
        """What relative locations are relative to."""
        return self._path.parent if self._path else Path()

    @property
    def splits(self) -> dict[str, list[int]]:
        """The indices of every split by name; nothing for a dataset that is not divided."""
        return {} if self.split is None else {name: getattr(self.split, name) for name in SPLITS}

    @property
    def task(self) -> Task:
        """What the first label makes of it: "segmentation" (masks) or "classification"."""
        first = next((image for image in self.images if image.label is not None), None)
        return "classification" if first is None or self.label_kind(first) == "class" else "segmentation"

    def file(self, location: Location) -> Path | list[Path]:
        """The path, or paths, behind a location."""
        if isinstance(location, list):
            return [self.folder / part for part in location]
        return self.folder / location

    def label_kind(self, image: ImageEntry) -> Literal["none", "class", "mask", "wrong"]:
        """What an image's label is; "wrong" for what is neither a class nor looks like a path."""
        label = image.label
        if label is None:
            return "none"
        parts = label if isinstance(label, list) else [label]
        if all(isinstance(part, int) or part in self.classes for part in parts):
            return "class"
        if all(isinstance(part, str) and self._looks_like_path(part) for part in parts):
            return "mask"
        return "wrong"

    def class_indices(self, image: ImageEntry) -> list[int]:
        """The indices of an image's classes, for a label of kind "class"."""
        parts = image.label if isinstance(image.label, list) else [image.label]
        return [part if isinstance(part, int) else self.classes.index(str(part)) for part in parts]

    def mask_files(self, image: ImageEntry) -> Path | list[Path]:
        """The path, or paths, of an image's mask, for a label of kind "mask"."""
        label = image.label
        return self.file([str(part) for part in label] if isinstance(label, list) else str(label))

    def _looks_like_path(self, text: str) -> bool:
        return "/" in text or bool(re.search(r"\.[A-Za-z]\w{0,7}$", text)) or (self.folder / text).exists()


def read_dataset(path: Path | str, check: bool = True) -> Dataset:
    """Read a dataset file.

    Args:
        path: the YAML file.
        check: refuse a document with `problems`; False leaves them to `check_dataset`, which lists them all.

    Raises:
        DhhpcError: not a dataset file, or (check) the first of its problems, with file and line.
    """
    path = Path(path)
    dataset = read_document(path, Dataset)
    dataset._path = path
    found = problems(dataset) if check else []
    if found:
        more = f" ({len(found) - 1} more: `dhhpc dataset check {path}` lists them)" if len(found) > 1 else ""
        raise DhhpcError(problem_lines(dataset, found[:1])[0] + more)
    return dataset


def write_dataset(path: Path | str, dataset: Dataset) -> Dataset:
    """Write a dataset as YAML, whole or not at all.

    Relative locations are rewritten so that they still lead to the same files from the new place.

    Returns:
        the dataset as written, with its new `path`.
    """
    path = Path(path)
    written = dataset.model_copy(deep=True)
    if dataset.path is not None and dataset.folder.resolve() != path.parent.resolve():
        base = os.path.relpath(dataset.folder.resolve(), path.parent.resolve())
        for image in written.images:
            move_entry(dataset, image, lambda location: os.path.normpath(os.path.join(base, location)))
    written._path = path
    write_document(path, written)
    return written


def move_entry(dataset: Dataset, image: ImageEntry, move: Callable[[str], str]) -> None:
    """Apply `move` to every path of an entry: location, mask and region."""
    kind = dataset.label_kind(image)

    def moved(value: Any) -> Any:
        return [move(str(part)) for part in value] if isinstance(value, list) else move(str(value))

    image.location = moved(image.location)
    if kind == "mask":
        image.label = moved(image.label)
    if image.values.get("region") is not None:
        image.values = {**image.values, "region": moved(image.values["region"])}


def problems(dataset: Dataset) -> list[Problem]:
    """What is wrong inside the document itself, without a look at the images."""
    found: list[Problem] = []
    for name in sorted({name for name in dataset.classes if dataset.classes.count(name) > 1}):
        found.append((("classes",), f"`{name}` stands there twice; name every class once"))
    if dataset.task == "segmentation":
        count = len(foreground_classes(dataset.classes))
        if not 1 <= count <= 255:
            message = f"{count} foreground classes; masks tell 1 to 255 apart (a first `background` is none)"
            found.append((("classes",), message))
    found += label_problems(dataset)
    seen: dict[str, int] = {}
    for number, image in enumerate(dataset.images):
        key = str(image.location)
        if key in seen:
            message = f"{key} is also image {seen[key]}; list every image once"
            found.append((("images", number, "location"), message))
        seen.setdefault(key, number)
    return found + split_problems(dataset)


def label_problems(dataset: Dataset) -> list[Problem]:
    """Labels that are no class, class indices out of range, masks and classes mixed."""
    found: list[Problem] = []
    classes = dataset.classes
    task = dataset.task
    for number, image in enumerate(dataset.images):
        where = ("images", number, "label")
        kind = dataset.label_kind(image)
        if kind == "wrong":
            parts = image.label if isinstance(image.label, list) else [image.label]
            wrong = next(part for part in parts if isinstance(part, str) and part not in classes)
            near = difflib.get_close_matches(wrong, classes, n=1, cutoff=0.5)
            mend = f"did you mean `{near[0]}`?" if near else f"classes: {', '.join(classes)}"
            found.append((where, f"`{wrong}` is not one of the classes; {mend}"))
        elif kind == "class":
            for index in dataset.class_indices(image):
                if not 0 <= index < len(classes):
                    last = len(classes) - 1
                    found.append((where, f"class index {index} is out of range; the classes are 0 to {last}"))
        if kind in ("class", "mask") and (kind == "class") != (task == "classification"):
            other = "masks" if task == "segmentation" else "classes"
            message = f"`{image.label}` is a {kind} but the labels before it are {other}; use one kind"
            found.append((where, message))
    return found


def split_problems(dataset: Dataset) -> list[Problem]:
    """Indices of the split that are out of range, or there twice."""
    found: list[Problem] = []
    place: dict[int, str] = {}
    for name, indices in dataset.splits.items():
        for index in indices:
            count = len(dataset.images)
            if not 0 <= index < count:
                message = f"index {index} is out of range; there are {count} images (0 to {count - 1})"
                found.append((("split", name), message))
            elif place.get(index) == name:
                found.append((("split", name), f"index {index} stands there twice; list it once"))
            elif index in place:
                message = f"index {index} is also in {place[index]}; keep every image in one split"
                found.append((("split", name), message))
            place.setdefault(index, name)
    return found


def problem_lines(dataset: Dataset, found: list[Problem]) -> list[str]:
    """Each problem as `file:line: key: what is wrong; mend`."""
    node = None
    if found and dataset.path is not None and dataset.path.is_file():
        node = yaml.compose(dataset.path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    lines = []
    for where, message in found:
        place = f"{dataset.path or dataset.name}" + (f":{line_of(node, where)}" if node is not None else "")
        lines.append(f"{place}: {'.'.join(map(str, where))}: {message}")
    return lines


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Counts of images, classes and splits, ready for JSON."""

    def classes_of(images: list[ImageEntry]) -> dict[str, int]:
        counts = dict.fromkeys(dataset.classes, 0)
        for image in images:
            for index in dataset.class_indices(image):
                counts[dataset.classes[index]] += 1
        return counts

    classification = dataset.task == "classification"
    splits: dict[str, Any] = {}
    assigned = 0
    for name, indices in dataset.splits.items():
        images = [dataset.images[index] for index in indices]
        assigned += len(images)
        splits[name] = {"images": len(images)}
        if classification:
            labelled = [image for image in images if image.label is not None]
            splits[name]["classes"] = classes_of(labelled)
    return {
        "name": dataset.name,
        "description": dataset.description,
        "task": dataset.task,
        "images": len(dataset.images),
        "unlabelled": sum(image.label is None for image in dataset.images),
        "classes": dataset.classes,
        "features": sorted({*dataset.features, *(key for image in dataset.images for key in image.values)}),
        "split": splits,
        "outside_split": len(dataset.images) - assigned,
    }
