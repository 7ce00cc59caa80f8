"""Joining compatible datasets into one (ECVL-REQ-1-02, FE-ECVL-REQ-1-03)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dhhpc.data.dataset import Dataset, ImageEntry, Split, move_entry
from dhhpc.errors import DhhpcError


def merge(datasets: Sequence[Dataset], name: str) -> Dataset:
    """One dataset with the images of all, in order, and their splits joined.

    Paths become absolute; `write_dataset` makes none of them relative again, so the result may lie anywhere.

    Raises:
        DhhpcError: fewer than two datasets, other classes or another order of them, masks in one and
            classes in another, a split in one only, or the same image in two.
    """
    if len(datasets) < 2:
        raise DhhpcError(f"{name}: {len(datasets)} datasets to merge; name at least two")
    first = datasets[0]
    images: list[ImageEntry] = []
    split = Split()
    owner: dict[str, Dataset] = {}
    for dataset in datasets:
        check_compatible(first, dataset)
        offset = len(images)
        for image in dataset.images:
            moved = image.model_copy(deep=True)
            move_entry(dataset, moved, partial(absolute, dataset.folder))
            key = str(moved.location)
            if key in owner:
                raise DhhpcError(
                    f"{title(dataset)}: image {key} is also in {title(owner[key])}; take it out of one"
                )
            owner[key] = dataset
            images.append(moved)
        for part, indices in dataset.splits.items():
            getattr(split, part).extend(offset + index for index in indices)
    return Dataset(
        name=name,
        description=f"Merged from {', '.join(dataset.name for dataset in datasets)}",
        classes=list(first.classes),
        features=list(dict.fromkeys(feature for dataset in datasets for feature in dataset.features)),
        images=images,
        split=split if first.split is not None else None,
    )


def check_compatible(first: Dataset, other: Dataset) -> None:
    """Refuse what cannot be joined; the order of classes counts because indices and masks refer to it."""
    if other.classes != first.classes:
        how = "in another order" if set(other.classes) == set(first.classes) else "other"
        raise DhhpcError(
            f"{title(other)}: {how} classes ({', '.join(other.classes)}) than {title(first)} "
            f"({', '.join(first.classes)}); make the lists equal"
        )
    if other.task != first.task:
        raise DhhpcError(
            f"{title(other)}: labels for {other.task} where {title(first)} has {first.task}; "
            f"merge datasets of one kind"
        )
    if (other.split is None) != (first.split is None):
        without, having = (other, first) if other.split is None else (first, other)
        raise DhhpcError(
            f"{title(without)}: has no split while {title(having)} has one; "
            f"run `dhhpc dataset partition` on it first"
        )


def title(dataset: Dataset) -> str:
    return str(dataset.path or dataset.name)


def absolute(folder: Path, location: str) -> str:
    return str((folder / location).resolve())
