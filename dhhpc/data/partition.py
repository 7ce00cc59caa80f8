"""Dividing a dataset into training, validation and test splits (ECVL-REQ-1-03, FE-EDDLL-REQ-3-01)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from dhhpc.data.dataset import SPLITS, Dataset, ImageEntry, Split
from dhhpc.errors import DhhpcError


def partition(
    dataset: Dataset,
    ratios: Mapping[str, float],
    seed: int = 0,
    stratify: bool | str = False,
    group_by: str | None = None,
) -> Dataset:
    """The dataset with a new split.

    Units (single images, or all images of one group) are shuffled, put in order of their stratum, and dealt
    one by one to the split that lags most behind its ratio. As strata lie together in that order, every one
    of them is divided by the ratios up to rounding, and so is the whole.

    Args:
        dataset: any split it has is replaced.
        ratios: by split name, from 0 to 1, summing to 1; splits left out get 0.
        seed: the same seed gives the same split.
        stratify: True keeps the proportions of the class labels; a name keeps those of that entry of
            `values`.
        group_by: an entry of `values`, for instance "patient", whose images never part.

    Raises:
        DhhpcError: the ratios are no ratios, or leave a split that should have images without any; the
            labels are masks; an image lacks the value to group or stratify by.
    """
    named = f"{dataset.path or dataset.name}"
    check_ratios(ratios, named)
    groups: dict[Any, list[int]] = {}
    for number, image in enumerate(dataset.images):
        key = number if group_by is None else value_of(image, number, group_by, named)
        groups.setdefault(key, []).append(number)
    strata = [stratum(dataset, image, number, stratify, named) for number, image in enumerate(dataset.images)]
    units = list(groups.values())
    order = np.random.default_rng(seed).permutation(len(units))
    shuffled = [units[index] for index in order]
    # The most frequent stratum of a group stands for it; larger groups come first, as later ones even out.
    shuffled.sort(
        key=lambda unit: (Counter(strata[index] for index in unit).most_common(1)[0][0], -len(unit))
    )
    dealt = deal(shuffled, {name: ratios.get(name, 0.0) for name in SPLITS})
    for name in SPLITS:
        if ratios.get(name, 0.0) > 0 and not dealt[name]:
            what = f"{len(units)} groups of {group_by}" if group_by else f"{len(units)} images"
            raise DhhpcError(
                f"{named}: ratio {ratios[name]:g} of {what} leaves nothing for {name}; "
                f"raise its ratio or set it to 0"
            )
    result = dataset.model_copy(deep=True)
    result.split = Split(**{name: sorted(indices) for name, indices in dealt.items()})
    return result


def deal(units: list[list[int]], ratios: dict[str, float]) -> dict[str, list[int]]:
    """Give each unit, in order, to the split that then lags most behind its ratio of the images so far."""
    dealt: dict[str, list[int]] = {name: [] for name in ratios}
    total = 0
    wanted = [name for name, ratio in ratios.items() if ratio > 0]
    for unit in units:
        total += len(unit)
        chosen = max(wanted, key=lambda name: ratios[name] * total - len(dealt[name]))
        dealt[chosen].extend(unit)
    return dealt


def check_ratios(ratios: Mapping[str, float], named: str) -> None:
    for name, ratio in ratios.items():
        if name not in SPLITS:
            raise DhhpcError(f"{named}: no split is called `{name}`; they are {', '.join(SPLITS)}")
        if not 0 <= ratio <= 1:
            raise DhhpcError(f"{named}: ratio {ratio:g} of {name} is not between 0 and 1")
    total = sum(ratios.values())
    if abs(total - 1) > 1e-6:
        text = ", ".join(f"{name} {ratio:g}" for name, ratio in ratios.items())
        raise DhhpcError(f"{named}: the ratios ({text}) sum to {total:g}; make them sum to 1")


def stratum(dataset: Dataset, image: ImageEntry, number: int, stratify: bool | str, named: str) -> str:
    if stratify is False:
        return ""
    if isinstance(stratify, str):
        return str(value_of(image, number, stratify, named))
    if dataset.label_kind(image) != "class":
        raise DhhpcError(
            f"{named}: images.{number}.label is no class, so labels cannot be stratified; "
            f"name an entry of `values` instead"
        )
    return ",".join(f"{index:06d}" for index in sorted(dataset.class_indices(image)))


def value_of(image: ImageEntry, number: int, key: str, named: str) -> Any:
    value = image.values.get(key)
    if value is None:
        raise DhhpcError(f"{named}: images.{number}.values has no `{key}`; add it, or choose another key")
    return value if isinstance(value, str | int | float) else str(value)
