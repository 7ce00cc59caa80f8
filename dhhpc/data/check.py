"""Everything wrong with a dataset, image by image."""

from __future__ import annotations

from collections.abc import Callable

from dhhpc.data.dataset import Dataset, problem_lines, problems
from dhhpc.data.samples import read_entry
from dhhpc.errors import DhhpcError


def check_dataset(
    dataset: Dataset, read_images: bool = True, progress: Callable[[int, int, str], None] | None = None
) -> list[str]:
    """One line for each problem of a dataset; empty if there is none.

    Args:
        dataset: as `read_dataset(path, check=False)` gives it.
        read_images: also read every image and mask, to find damaged files, masks of another size than their
            image and mask values that are no class; without it files only have to exist.
        progress: called with (images done, images in all, location).
    """
    lines = problem_lines(dataset, problems(dataset))
    for number, image in enumerate(dataset.images):
        places = [dataset.file(image.location)]
        if dataset.label_kind(image) == "mask":
            places.append(dataset.mask_files(image))
        if image.values.get("region") is not None:
            places.append(dataset.file(image.values["region"]))
        files = [file for place in places for file in (place if isinstance(place, list) else [place])]
        missing = [file for file in files if not file.exists()]
        lines += [f"{file}: no such file (image {number}); mend the path or take it out" for file in missing]
        if read_images and not missing:
            try:
                read_entry(dataset, image)
            except DhhpcError as error:
                lines.append(str(error))
        if progress:
            progress(number + 1, len(dataset.images), str(image.location))
    return lines
