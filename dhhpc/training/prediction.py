"""Predicting masks and classes for images that were never preprocessed, and for shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dhhpc import ecvl
from dhhpc.data.shard_index import INDEX_NAME
from dhhpc.data.shards import ShardSet
from dhhpc.data.tiles import cut_into_tiles
from dhhpc.ecvl import geometry
from dhhpc.errors import DhhpcError
from dhhpc.files import write_json
from dhhpc.mpi import World
from dhhpc.training.network import Predictor, TogetherPredicting, predict_any_size

Array = np.ndarray[Any, Any]
Report = Callable[[Path], None]
# The network's output for images (n, C, H, W) of any size.
Probabilities = Callable[[Array], Array]

# Slices of a volume that are predicted at once.
BATCH = 8
PREDICTIONS = "predictions.json"


def predict(
    model: Predictor,
    shards: ShardSet,
    inputs: Sequence[Path],
    output: Path,
    world: World,
    split: str = "test",
    report: Report = lambda path: None,
    spatial: bool = False,
) -> list[Path]:
    """Predict every input, each on one rank, and write the results into `output`.

    Segmentation: `NAME_mask.png` for an image (0 and 255 for one foreground class, else the class indices),
    `NAME_mask.nii.gz` for a volume (class indices), on the grid of the input. Classification: one
    `predictions.json` with each class's probability by input.

    Args:
        model: built.
        shards: those the model was trained on: their pipeline and classes are used.
        inputs: image files, folders with a DICOM series each, or folders of shards (their `split` is
            predicted).
        report: called on the rank that wrote it with the path of each mask.
        spatial: predict each image on all ranks together instead, which hold some of its rows each; rank 0
            writes.

    Returns:
        The files that this rank wrote.

    Raises:
        DhhpcError: an input is missing, damaged, or of another kind than the training images; or two inputs
            would give the same file.
    """
    names = output_names(inputs)
    written: list[Path] = []
    classified: dict[str, dict[str, float]] = {}
    probabilities = TogetherPredicting(model, world) if spatial else partial(predict_any_size, model)
    writes = not spatial or world.rank == 0
    for path in inputs if spatial else inputs[world.rank :: world.size]:
        if (path / INDEX_NAME).is_file():
            folder = output / path.name if writes else None
            written += predict_shards(model, ShardSet(path), split, folder, report, probabilities)
        elif shards.task == "segmentation":
            pipeline = ecvl.Pipeline(shards.index.pipeline)
            mask = predict_mask(model, pipeline, read(path), str(path), probabilities)
            if writes:
                written.append(write_mask(output / names[path], mask, single=model_channels(model) == 1))
                report(written[-1])
        else:
            classified[str(path)] = predict_classes(model, shards, path, probabilities)
    if shards.task == "classification":
        gathered = world.gather_object(classified)
        if gathered is not None:
            merged = {name: values for part in gathered for name, values in part.items()}
            write_json(output / PREDICTIONS, {str(path): merged[str(path)] for path in inputs})
            written.append(output / PREDICTIONS)
            report(written[-1])
    return written


def predict_mask(
    model: Predictor,
    pipeline: ecvl.Pipeline,
    image: ecvl.Image,
    name: str,
    probabilities: Probabilities | None = None,
) -> ecvl.Image:
    """The mask of an image or volume on its own grid: uint8 class indices, 0 is background.

    The image goes through the pipeline, each slice through the network, and the mask back through the
    pipeline's geometric steps. The network's probabilities are those of `probabilities`, if it is given.
    """
    probabilities = probabilities or partial(predict_any_size, model)
    grids = []
    for step in pipeline.root:
        grids.append(image)
        image = step.apply(image)
    planes = planes_of(model, image, name)
    masks = [
        class_indices(probabilities(planes[start : start + BATCH])) for start in range(0, len(planes), BATCH)
    ]
    array = np.concatenate(masks)
    axes = image.spatial_axes
    mask = image.copy_with(array if "z" in axes else array[0], channels=axes, color="none")
    if axes not in ("yx", "zyx"):
        raise DhhpcError(f"{name}: has the axes {image.channels}; give an image (y, x) or a volume (z, y, x)")
    for step, grid in zip(reversed(pipeline.root), reversed(grids), strict=True):
        mask = undo(step, mask, grid)
    return mask


def undo(step: Any, mask: ecvl.Image, grid: ecvl.Image) -> ecvl.Image:
    """`mask` as it would lie before a step of the pipeline, on the grid that the image had there."""
    shape = grid.spatial_shape
    if step.name in ("resample", "resize"):
        mask = geometry.resize(mask, shape, "nearest")
    elif step.name in ("crop", "pad", "crop_or_pad"):
        mask = geometry.crop_or_pad(mask, shape)
    elif step.name == "flip":
        mask = geometry.flip(mask, step.axes)
    elif step.name == "rotate":
        mask = geometry.rotate(mask, -step.degrees, "nearest")
    elif step.name == "rotate90":
        mask = geometry.rotate90(mask, -step.times)
    return mask.copy_with(mask.array, spacing=grid.spacing, metadata=dict(grid.metadata))


def predict_classes(
    model: Predictor, shards: ShardSet, path: Path, probabilities: Probabilities
) -> dict[str, float]:
    """The probability of each class for an image; a mean over the slices of a volume, and tiles."""
    image, _, _ = ecvl.Pipeline(shards.index.pipeline).apply(read(path))
    planes = planes_of(model, image, str(path))
    if shards.index.tiles is not None:
        try:
            planes = cut_into_tiles(planes, shards.index.tiles)
        except DhhpcError as error:
            raise DhhpcError(f"{path}: {error}") from None
    means = probabilities(planes).mean(axis=0)
    return {name: float(value) for name, value in zip(shards.classes, means, strict=True)}


def predict_shards(
    model: Predictor,
    shards: ShardSet,
    split: str,
    output: Path | None,
    report: Report,
    probabilities: Probabilities,
) -> list[Path]:
    """Masks of preprocessed samples, on the samples' own grid, named by their ids; `output` is None where
    another rank writes them."""
    if shards.task != "segmentation":
        raise DhhpcError(f"{shards.folder}: holds classes, no masks; use `dhhpc evaluate` on these shards")
    if not shards.count(split):
        raise DhhpcError(f"{shards.folder}: no samples in split `{split}`; it has {', '.join(shards.splits)}")
    written = []
    for index, identifier in enumerate(shards.identifiers(split)):
        images, _, _ = shards.read(split, [index])
        indices = class_indices(probabilities(images))[0]
        if output is None:
            continue
        mask = ecvl.Image(indices, "yx", color="none")
        safe = identifier.replace("/", "_")
        written.append(write_mask(output / f"{safe}_mask.png", mask, single=model_channels(model) == 1))
        report(written[-1])
    return written


def planes_of(model: Predictor, image: ecvl.Image, name: str) -> Array:
    """The slices (z, C, H, W) float32 of an image.

    Raises:
        DhhpcError: it has another number of channels than the network takes.
    """
    planes = np.ascontiguousarray(image.array_as("zcyx"), dtype=np.float32)
    expected = model.inputs[0].shape[0]
    if planes.shape[1] != expected:
        raise DhhpcError(
            f"{name}: {planes.shape[1]} channels after preprocessing where the network takes {expected}; "
            f"give images like those it was trained on"
        )
    return planes


def class_indices(probabilities: Array) -> Array:
    """(n, channels, H, W) probabilities as (n, H, W) uint8 class indices."""
    if probabilities.shape[1] == 1:
        return (probabilities[:, 0] > 0.5).astype(np.uint8)
    return probabilities.argmax(axis=1).astype(np.uint8)


def model_channels(model: Predictor) -> int:
    return int(model.outputs[0].shape[0])


def read(path: Path) -> ecvl.Image:
    if not path.exists():
        raise DhhpcError(f"{path}: no such file or folder; check the path")
    return ecvl.read(path)


def write_mask(path: Path, mask: ecvl.Image, single: bool) -> Path:
    """Write a mask: volumes as NIfTI, others as PNG, where a single foreground class is 255, to be seen."""
    if "z" in mask.spatial_axes and mask.size("z") > 1:
        path = path.with_name(path.name.removesuffix(".png") + ".nii.gz")
        ecvl.write(path, mask)
        return path
    array = mask.array_as("yx")
    ecvl.write(path, ecvl.Image(array * np.uint8(255) if single else array, "yx"))
    return path


def output_names(inputs: Sequence[Path]) -> dict[Path, str]:
    """The name of each input's mask.

    Raises:
        DhhpcError: two inputs have the same name.
    """
    names: dict[str, Path] = {}
    for path in inputs:
        name = f"{path.name.split('.')[0] if path.is_file() else path.name}_mask.png"
        if name in names:
            raise DhhpcError(f"{path} and {names[name]}: both would give {name}; predict them one by one")
        names[name] = path
    return {path: name for name, path in names.items()}
