"""NIfTI, checked against nibabel used directly."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dhhpc import ecvl
from dhhpc.ecvl import Image
from dhhpc.errors import DhhpcError

VOLUME = np.random.default_rng(0).integers(-1000, 1000, (4, 6, 5)).astype(np.int16)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=arrays.arrays(
        st.sampled_from([np.uint8, np.int16, np.int32, np.float32]),
        st.tuples(*[st.integers(1, 6)] * 3),
        elements={"allow_nan": False, "allow_subnormal": False},
    ),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    extension=st.sampled_from(["nii", "nii.gz"]),
)
def test_any_volume_comes_back(tmp_path, array, spacing, extension):
    path = tmp_path / f"volume.{extension}"
    ecvl.write(path, Image(array, "zyx", spacing=spacing))
    read = ecvl.read(path)
    assert read.array.dtype == array.dtype
    assert np.array_equal(read.array, array)
    assert read.spacing == pytest.approx(spacing, rel=1e-6)


def test_nibabel_sees_x_y_z_to_left_posterior_superior(tmp_path):
    ecvl.write(tmp_path / "volume.nii.gz", Image(VOLUME, "zyx", spacing=(3, 2, 1)))
    nifti = nibabel.load(tmp_path / "volume.nii.gz")
    assert nibabel.aff2axcodes(nifti.affine) == ("L", "P", "S")
    assert nifti.header.get_zooms() == (1, 2, 3)
    assert nifti.header.get_xyzt_units()[0] == "mm"
    assert np.array_equal(np.asarray(nifti.dataobj), VOLUME.transpose(2, 1, 0))


@pytest.mark.parametrize("seed", range(8))
def test_every_orientation_keeps_values_at_their_place(tmp_path, seed):
    """Each voxel read lies where the file's own affine puts its value."""
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(3, 4, 5)).astype(np.float32)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3) * rng.uniform(0.5, 3, 3)
    affine[:3, :3] += 0.02 * rng.normal(size=(3, 3))  # a little oblique
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "turned.nii")
    image = ecvl.read(tmp_path / "turned.nii")
    assert nibabel.aff2axcodes(image.metadata["affine"]) == ("L", "P", "S")
    assert image.spacing == pytest.approx(np.linalg.norm(image.metadata["affine"][:3, :3], axis=0)[::-1])
    stored = nibabel.load(tmp_path / "turned.nii").affine
    for z, y, x in np.ndindex(image.array.shape):
        index = np.linalg.solve(stored, image.metadata["affine"] @ [x, y, z, 1])
        assert image.array[z, y, x] == data[tuple(np.rint(index[:3]).astype(int))]


def test_written_affine_is_kept(tmp_path):
    affine = np.diag([-0.7, -0.8, 2.5, 1.0])
    affine[:3, 3] = [20, 30, 100]
    ecvl.write(tmp_path / "mask.nii.gz", Image(VOLUME, "zyx", metadata={"affine": affine}))
    read = ecvl.read(tmp_path / "mask.nii.gz")
    assert np.allclose(read.metadata["affine"], affine, atol=1e-5)
    assert np.allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, affine, atol=1e-5)
    assert np.array_equal(read.array, VOLUME)


def test_mask_of_a_dicom_series_lines_up(tmp_path, series):
    """A mask made by nibabel alone in patient coordinates marks the same voxels of the series."""
    volume = ecvl.read(series[0])
    voxel = (2, 3, 7)  # z, y, x
    # Patient position of that voxel: corner (-20, -30, 100), 0.7 mm columns, 0.8 mm rows, 2.5 mm slices.
    left, posterior, superior = -20 + 7 * 0.7, -30 + 3 * 0.8, 100 + 2 * 2.5
    affine = np.diag([0.7, 0.8, 2.5, 1.0])  # a tool that stores to the right and to the front
    affine[:3, 3] = [20 - 10 * 0.7, 30 - 8 * 0.8, 100]
    index = np.rint((np.array([-left, -posterior, superior]) - affine[:3, 3]) / [0.7, 0.8, 2.5]).astype(int)
    data = np.zeros((11, 9, 6), np.uint8)
    data[tuple(index)] = 1
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "mask.nii.gz")
    mask = ecvl.read(tmp_path / "mask.nii.gz")
    assert mask.array.shape == volume.array.shape
    assert np.argwhere(mask.array).tolist() == [list(voxel)]
    assert np.allclose(mask.metadata["affine"], volume.metadata["affine"], atol=1e-4)


def test_same_image_same_bytes(tmp_path):
    for name in ("a", "b"):
        ecvl.write(tmp_path / f"{name}.nii.gz", Image(VOLUME, "zyx"))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_scaled_values(tmp_path):
    nifti = nibabel.Nifti1Image(VOLUME, np.eye(4))
    nifti.header.set_slope_inter(0.5, 10)
    nibabel.save(nifti, tmp_path / "scaled.nii")
    stored = nibabel.load(tmp_path / "scaled.nii").get_fdata()
    read = ecvl.read(tmp_path / "scaled.nii")
    assert read.array.dtype == np.float32
    assert np.allclose(read.array, stored[::-1, ::-1].transpose(2, 1, 0))


def test_other_dimensions(tmp_path):
    plane = VOLUME[0]
    ecvl.write(tmp_path / "plane.nii", Image(plane, "yx", spacing=(2, 1)))
    read = ecvl.read(tmp_path / "plane.nii")
    assert (read.channels, read.spacing) == ("yx", (2, 1))
    assert np.array_equal(read.array, plane)
    several = np.stack([VOLUME, VOLUME + 1], axis=-1)
    ecvl.write(tmp_path / "several.nii", Image(several, "zyxc", "none"))
    read = ecvl.read(tmp_path / "several.nii")
    assert read.channels == "zyxc"
    assert np.array_equal(read.array, several)
    ecvl.write(tmp_path / "mask.nii", Image(VOLUME > 0, "zyx", "none"))
    assert np.array_equal(ecvl.read(tmp_path / "mask.nii").array, VOLUME > 0)


def test_color_and_second_version(tmp_path):
    colors = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    record = np.ascontiguousarray(colors).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    nibabel.save(nibabel.Nifti1Image(record, np.diag([-1, -1, 1, 1])), tmp_path / "colors.nii")
    read = ecvl.read(tmp_path / "colors.nii")
    assert (read.channels, read.color) == ("zyxc", "rgb")
    assert np.array_equal(read.array, colors.transpose(2, 1, 0, 3))
    nibabel.save(nibabel.Nifti2Image(VOLUME, np.diag([-1, -1, 1, 1])), tmp_path / "second.nii.gz")
    assert np.array_equal(ecvl.read(tmp_path / "second.nii.gz").array, VOLUME.transpose(2, 1, 0))


@pytest.mark.parametrize("extension", ["nii", "nii.gz"])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.7, 0.98])
def test_truncated_files_are_refused_in_one_line(tmp_path, extension, part):
    whole = tmp_path / f"whole.{extension}"
    ecvl.write(whole, Image(np.random.default_rng(2).normal(size=(5, 40, 40)).astype(np.float32), "zyx"))
    path = tmp_path / f"broken.{extension}"
    path.write_bytes(whole.read_bytes()[: int(part * whole.stat().st_size)])
    with pytest.raises(DhhpcError, match="not a whole NIfTI file") as caught:
        ecvl.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "volume.nii.gz"
    content = bytearray(gzip.compress(nibabel.Nifti1Image(VOLUME, np.eye(4)).to_bytes(), 0))
    content[500] ^= 1  # among the voxels: only the checksum can tell
    path.write_bytes(content)
    with pytest.raises(DhhpcError, match=r"volume\.nii\.gz: not a whole NIfTI file \(CRC"):
        ecvl.read(path)


def test_singular_affine(tmp_path):
    nifti = nibabel.Nifti1Image(VOLUME, np.eye(4))
    nifti.header["sform_code"], nifti.header["srow_x"] = 1, [0, 0, 0, 0]
    (tmp_path / "flat.nii").write_bytes(nifti.to_bytes())
    content = bytearray((tmp_path / "flat.nii").read_bytes())
    content[280:296] = b"\0" * 16  # srow_x, which nibabel restores on writing
    (tmp_path / "flat.nii").write_bytes(content)
    with pytest.raises(DhhpcError, match=r"flat\.nii: its affine is singular"):
        ecvl.read(tmp_path / "flat.nii")
