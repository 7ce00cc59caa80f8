"""NIfTI-1/2 by nibabel.

Axis order. A NIfTI array is indexed (i, j, k) and its affine says where each axis points in the patient.
Reading turns the array by flips and transpositions (never interpolation) so that x runs to the patient's
Left, y to the Posterior and z to the Superior, and stores it as "zyx": the layout of an axial DICOM series
read by `io.dicom`, so a NIfTI mask and the DICOM series it was drawn on index alike. Writing puts x, y, z on
i, j, k with the image's affine, or, without one, with an affine that has these directions, the spacing on its
diagonal and the origin at 0. What was written reads back as the same array. (An image whose affine points
elsewhere reads back turned to these directions; `geometry.orient_like` turns a mask to its image.)
"""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations

from dhhpc.ecvl.image import Image
from dhhpc.errors import DhhpcError
from dhhpc.files import replacing

DIRECTIONS = "LPS"


def read(path: Path) -> Image:
    """Read a NIfTI file; scaled values (scl_slope, scl_inter) come as float32, others in their stored dtype.

    Returns:
        "zyx", "yx" for a file of two dimensions, "zyxc" for one of four (the fourth, e.g. time, is `c`).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The whole stream is unpacked, so that its checksum is compared.
            content = gzip.decompress(path.read_bytes()) if is_gzip(path) else path.read_bytes()
            is_second = content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the header's size
            nifti = (nibabel.Nifti2Image if is_second else nibabel.Nifti1Image).from_bytes(content)
            data = np.asanyarray(nifti.dataobj)
            affine = np.asarray(nifti.affine, dtype=np.float64)
            zooms = nifti.header.get_zooms()
    except Exception as error:  # a damaged file makes nibabel, zlib or numpy fail in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DhhpcError(f"{path}: not a whole NIfTI file ({reason}); copy it anew from its source") from None
    if data.dtype.names is not None:  # the RGB types are records of bytes
        data = np.stack([data[name] for name in data.dtype.names], axis=-1)
    flat = data.ndim == 2
    data = data.reshape(*data.shape, *[1] * (3 - data.ndim))
    while data.ndim > 4 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 4 or 0 in data.shape:
        raise DhhpcError(
            f"{path}: has shape {data.shape}; expected an image, a volume or a series of volumes"
        )
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise DhhpcError(f"{path}: its affine is singular; mend the qform or sform of the file")
    turn = orientations.ornt_transform(
        orientations.io_orientation(affine), orientations.axcodes2ornt(DIRECTIONS)
    )
    affine = affine @ orientations.inv_ornt_aff(turn, data.shape[:3])
    data = orientations.apply_orientation(data, turn)
    spacing = tuple(float(value) for value in np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    array = data.transpose(2, 1, 0, *range(3, data.ndim))
    metadata = {"affine": affine, "format": "nifti"}
    color = "rgb" if data.ndim == 4 and len(zooms) == 3 else "gray"
    if flat and array.shape[0] == 1:
        return Image(np.ascontiguousarray(array[0]), "yx", color, spacing[1:], metadata)
    return Image(np.ascontiguousarray(array), "zyx" if array.ndim == 3 else "zyxc", color, spacing, metadata)


def is_gzip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def write(path: Path, image: Image) -> None:
    """Write "yx", "zyx" or "zyxc".

    Boolean masks as uint8, half floats as float32, other dtypes as they are.
    """
    array = image.array
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    image = image.copy_with(array)
    if image.channels == "yx":
        data = image.array_as("xy")
    elif "c" in image.channels:
        data = image.array_as("xyzc")
    else:
        data = image.array_as("xyz")
    nifti = nibabel.Nifti1Image(np.ascontiguousarray(data), affine_of(image), dtype=data.dtype)
    nifti.header.set_xyzt_units("mm")
    content = nifti.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)  # no time stamp: same image, same bytes
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def affine_of(image: Image) -> np.ndarray:
    """The image's own affine, or one with x to the left, y to the posterior.

    Z to the superior and its spacing.
    """
    if "affine" in image.metadata:
        return np.asarray(image.metadata["affine"], dtype=np.float64)
    x, y, z = (image.spacing_along(axis) or 1.0 for axis in "xyz")
    return np.diag([-x, -y, z, 1.0])
