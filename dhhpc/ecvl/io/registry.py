"""Which module reads and writes which file.

Reading goes by the first bytes of the file and falls back on its extension (DICOM files written without a
preamble have no signature); writing goes by the extension (seed 003, 6.2.1). A format is a module of this
folder with `read(path) -> Image` and `write(path, image)`; its library is imported when the first such file
comes.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dhhpc.ecvl.image import Image
from dhhpc.errors import DhhpcError

HEAD_BYTES = 352


@dataclasses.dataclass(frozen=True)
class Format:
    """A format family: its name, the extensions it answers to.

    And a test on the first `HEAD_BYTES` of a file.
    """

    name: str
    extensions: tuple[str, ...]
    recognises: Callable[[bytes], bool]

    @property
    def module(self) -> Any:
        return importlib.import_module(f"dhhpc.ecvl.io.{self.name}")


def is_nifti(head: bytes) -> bool:
    """NIfTI-1 and -2 carry a magic after the header size; a gzip file can only be compressed NIfTI here."""
    return head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2") or head[:2] == b"\x1f\x8b"


RASTER_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PORTABLE_SIGNATURES = tuple(f"P{digit}".encode() for digit in range(1, 7))


def is_raster(head: bytes) -> bool:
    return head.startswith(RASTER_SIGNATURES) or (head[:2] in PORTABLE_SIGNATURES and head[2:3].isspace())


FORMATS = (
    Format("dicom", (".dcm", ".dicom", ".ima"), lambda head: head[128:132] == b"DICM"),
    Format("nifti", (".nii", ".nii.gz"), is_nifti),
    Format(
        "raster",
        (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"),
        is_raster,
    ),
)


def format_by_extension(path: Path) -> Format | None:
    name = path.name.lower()
    return next((known for known in FORMATS if name.endswith(known.extensions)), None)


def format_of(path: Path) -> Format | None:
    """The format of an existing file by content, then by extension; None where neither is known."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise DhhpcError(
            f"{path}: cannot be read ({error.strerror}); check the file and its permissions"
        ) from None
    if not head:
        raise DhhpcError(f"{path}: the file is empty; copy it anew from its source")
    return next((known for known in FORMATS if known.recognises(head)), None) or format_by_extension(path)


def read(location: str | Path | Sequence[str | Path]) -> Image:
    """Read a file, or a folder or list of DICOM files as one volume.

    Returns:
        A DICOM file gives "yx" (or "yxc" in colour), a DICOM series "zyx", NIfTI "zyx" (see `io.nifti` for
        the axis order), raster files "yx" or "yxc" (stacks of pages with a leading "z").

    Raises:
        DhhpcError: a file is missing, damaged, truncated, of no known format, or does not fit its series; one
        line
            that names the file and the mend.
    """
    if not isinstance(location, str | Path):
        paths = [Path(part) for part in location]
        if not paths:
            raise DhhpcError("an empty list of image files: name at least one file")
        if len(paths) == 1:
            return read(paths[0])
        for path in paths:
            check_exists(path)
            found = None if path.is_dir() else format_of(path)
            if found is None or found.name != "dicom":
                raise DhhpcError(
                    f"{path}: is not a DICOM file; only DICOM files can be listed to form one volume"
                )
        return FORMATS[0].module.read_series(paths)
    path = Path(location)
    check_exists(path)
    if path.is_dir():
        return FORMATS[0].module.read_folder(path)
    found = format_of(path)
    if found is None:
        raise DhhpcError(f"{path}: not an image of a known format; convert it to one of {known_extensions()}")
    return found.module.read(path)


def write(path: str | Path, image: Image) -> None:
    """Write an image in the format of the extension of `path`, whole or not at all.

    Raises:
        DhhpcError: the extension is unknown, the format cannot hold such an image, or the disk is full.
    """
    path = Path(path)
    found = format_by_extension(path)
    if found is None:
        raise DhhpcError(
            f"{path}: no image format has the extension {path.suffix!r}; use one of {known_extensions()}"
        )
    found.module.write(path, image)


def check_exists(path: Path) -> None:
    if not path.exists():
        raise DhhpcError(f"{path}: no such file or folder; check the path")


def known_extensions() -> str:
    return " ".join(extension for known in FORMATS for extension in known.extensions)
