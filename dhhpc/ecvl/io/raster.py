"""PNG, JPEG, BMP, PPM/PGM/PBM, TIFF and GIF by Pillow; 16-bit colour, cut to 8 bits there, by OpenCV.

Reading keeps values and depth: 8-bit gray uint8, 16-bit uint16, TIFF also int32 and float32. Bilevel images
(mode "1") and palettes of gray levels, as in GIF masks, become uint8 gray levels 0 to 255. EXIF orientation
is not applied: a mask drawn on the stored pixels stays in step. Files with several pages give a leading "z"
axis. Raster files carry no trustworthy spacing in mm, so none is set.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageSequence

from dhhpc.ecvl.image import Image
from dhhpc.errors import DhhpcError
from dhhpc.files import replacing

PILLOW_NAMES = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".ppm": "PPM", ".pgm": "PPM",
    ".pnm": "PPM", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
}  # fmt: skip
TIFF_BITS_PER_SAMPLE = 258


def read(path: Path) -> Image:
    """Read a raster file as "yx" or "yxc" (with "z" in front for several pages)."""
    try:
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(content)) as picture:
                name = str(picture.format)
                check_whole(content, name)
                if is_beyond_pillow(picture, content):
                    pages = [decode_by_opencv(content)]
                else:
                    pages = [array_of(page) for page in PIL.ImageSequence.Iterator(picture)]
    except PIL.UnidentifiedImageError:
        raise DhhpcError(
            f"{path}: no image can be recognised in it (truncated?); copy it anew from its source"
        ) from None
    except Exception as error:  # decoders fail in many ways on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DhhpcError(
            f"{path}: damaged or truncated image ({reason}); copy it anew from its source"
        ) from None
    if len({page.shape for page in pages}) != 1:
        raise DhhpcError(f"{path}: its {len(pages)} pages differ in size or colour; save one page a file")
    array = pages[0] if len(pages) == 1 else np.stack(pages)
    colored = pages[0].ndim == 3
    color = {3: "rgb", 4: "rgba"}[array.shape[-1]] if colored else "gray"
    channels = ("z" if len(pages) > 1 else "") + "yx" + ("c" if colored else "")
    return Image(array, channels, color, None, {"format": name.lower()})


def check_whole(content: bytes, name: str) -> None:
    """Pillow shows a GIF that breaks off as if it were whole.

    The standard ends every GIF with the byte 0x3B.
    """
    if name == "GIF" and content.rstrip(b"\0")[-1:] != b";":
        raise ValueError("the end of the file is missing")


def array_of(page: PIL.Image.Image) -> np.ndarray:
    """The values of one page: (H, W) gray or (H, W, 3 or 4) colour."""
    if page.mode in ("P", "PA"):
        return palette_colors(page)
    if page.mode == "1":
        page = page.convert("L")
    elif page.mode in ("LA", "La", "RGBa"):
        page = page.convert("RGBA")
    elif page.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        page = page.convert("RGB")
    array = np.array(page)
    if page.mode == "I" and page.format == "PNG":  # older Pillow: 16 bits come in 32
        array = array.astype(np.uint16)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def palette_colors(page: PIL.Image.Image) -> np.ndarray:
    """What a palette shows: (H, W) gray levels if all colours are gray, else RGB, or RGBA if see-through."""
    array = np.array(page.convert("RGBA"))
    if (array[..., 3] != 255).any():
        return array
    red, green, blue = (array[..., index] for index in range(3))
    if (red == green).all() and (red == blue).all():
        return np.ascontiguousarray(red)
    return np.ascontiguousarray(array[..., :3])


def is_beyond_pillow(picture: PIL.Image.Image, content: bytes) -> bool:
    """Whether Pillow would change the values: colour with more than 8 bits a channel, deep PGM and PPM."""
    if picture.format == "PNG":
        return content[24] == 16 and content[25] in (2, 4, 6)  # IHDR: bit depth, colour type
    if picture.format == "TIFF":
        bits = picture.tag_v2.get(TIFF_BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return len(bits) > 1 and max(bits) > 8
    return picture.format == "PPM" and is_deep_portable(content)


def is_deep_portable(content: bytes) -> bool:
    """Whether a PGM or PPM header announces a largest value above 255, which Pillow would stretch to 65535.

    The header is magic, width, height, maximum, with comments from # to the end of a line (netpbm).
    """
    if content[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return False
    words: list[bytes] = []
    for line in content.split(b"\n", 8)[:8]:
        words += line.split(b"#", 1)[0].split()
        if len(words) >= 4:
            return words[3].isdigit() and int(words[3]) > 255
    return False


def decode_by_opencv(content: bytes) -> np.ndarray:
    import cv2

    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("its pixels cannot be decoded")
    if array.ndim == 3:
        array = array[..., [2, 1, 0, 3][: array.shape[-1]]]
    return np.ascontiguousarray(array)


def write(path: Path, image: Image) -> None:
    """Write "yx" or "yxc"; "zyx" and "zyxc" as the pages of a TIFF.

    PNG, PGM and TIFF keep uint16, TIFF also int32 and float32. Where the format cannot hold the values
    (floats or negative numbers in a PNG) they are shown: the DICOM window of the image, or without one its
    full range, is mapped to 0..255. JPEG is lossy (quality 95).
    """
    suffix = path.suffix.lower()
    name = PILLOW_NAMES.get(suffix)
    if name is None:
        raise DhhpcError(f"{path}: {suffix} files are read, not written; use .pgm or .png")
    if image.size("z") > 1 and name != "TIFF":
        raise DhhpcError(
            f"{path}: {name} cannot hold the {image.size('z')} slices of a volume; write .nii.gz or .tif"
        )
    if image.color == "hsv":
        raise DhhpcError(f"{path}: holds HSV values; convert the image to RGB before writing")
    array = image.array_as("zyxc")
    if image.color == "bgr":
        array = array[..., ::-1]
    array = storable(array, image, name)
    if array.shape[-1] not in (1, 3, 4) or (array.shape[-1] == 4 and name in ("JPEG", "PPM", "BMP")):
        raise DhhpcError(
            f"{path}: {name} cannot hold {array.shape[-1]} channels; select the channels or write .nii.gz"
        )
    if array.shape[-1] > 1 and (name == "GIF" or suffix == ".pgm"):
        raise DhhpcError(f"{path}: {suffix} cannot hold these colours without loss; write .png or .tif")
    pages = [np.ascontiguousarray(page[..., 0] if page.shape[-1] == 1 else page) for page in array]
    if array.dtype == np.uint16 and array.shape[-1] > 1:
        content = encode_by_opencv(path, suffix, pages)
    else:
        content = encode(name, pages)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def storable(array: np.ndarray, image: Image, name: str) -> np.ndarray:
    """`array` in a dtype that the format keeps exactly, or else its 8-bit display."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16 and name in ("PNG", "TIFF", "PPM"):
        return array
    if name == "TIFF" and array.shape[-1] == 1:
        if array.dtype.kind == "f":
            return array.astype(np.float32)
        if array.dtype.kind in "iu" and array.dtype.itemsize <= 4 and array.dtype != np.uint32:
            return array.astype(np.int32)
    return display(array, image)


def display(array: np.ndarray, image: Image) -> np.ndarray:
    """`array` as uint8: its DICOM window if it has one, else its full range, mapped to 0..255."""
    values = array.astype(np.float64)
    if "window_width" in image.metadata:
        low = image.metadata["window_center"] - image.metadata["window_width"] / 2
        high = low + image.metadata["window_width"]
    else:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
    scaled = (values - low) / (high - low if high > low else 1.0)
    return np.rint(np.clip(np.nan_to_num(scaled), 0, 1) * 255).astype(np.uint8)


def encode(name: str, pages: list[np.ndarray]) -> bytes:
    pictures = [PIL.Image.fromarray(page) for page in pages]
    buffer = io.BytesIO()
    options: dict[str, object] = {}
    if name == "JPEG":
        options = {"quality": 95}
    elif name == "TIFF":
        options = {"compression": "tiff_deflate"}
    elif name == "GIF":
        options = {"optimize": False}
    if len(pictures) > 1:
        options |= {"save_all": True, "append_images": pictures[1:]}
    pictures[0].save(buffer, name, **options)
    return buffer.getvalue()


def encode_by_opencv(path: Path, suffix: str, pages: list[np.ndarray]) -> bytes:
    import cv2

    if len(pages) > 1:
        raise DhhpcError(f"{path}: a stack of 16-bit colour pages cannot be written; write one file a page")
    page = pages[0][..., [2, 1, 0, 3][: pages[0].shape[-1]]]
    whole, content = cv2.imencode(suffix, np.ascontiguousarray(page))
    if not whole:
        raise DhhpcError(f"{path}: 16-bit colour cannot be written as {suffix}; write .png or .tif")
    return content.tobytes()
