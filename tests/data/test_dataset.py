"""Reading, checking and writing dataset files; every message names the file, the line and the mend."""

import re

import nibabel
import numpy as np
import PIL.Image
import pytest
import yaml

from dhhpc.data import check_dataset, describe_dataset, read_dataset, write_dataset
from dhhpc.errors import DhhpcError

TEXT = """\
name: skin
classes: [benign, malignant, other]
features: [patient, age]
images:
  - {location: a.png, label: benign, values: {patient: p1, age: 40}}
  - {location: b.png, label: 1, values: [p2, 50]}
  - {location: c.png, label: [benign, 2]}
  - d.png
split:
  training: [0, 1]
  validation: [2]
  test: [3]
"""


@pytest.fixture
def write(tmp_path):
    def write_text(text):
        path = tmp_path / "dataset.yml"
        path.write_text(text)
        return path

    return write_text


def refusal(path):
    with pytest.raises(DhhpcError) as caught:
        read_dataset(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_form_of_the_format(write):
    dataset = read_dataset(write(TEXT))
    assert [dataset.label_kind(image) for image in dataset.images] == ["class", "class", "class", "none"]
    assert [dataset.class_indices(image) for image in dataset.images[:3]] == [[0], [1], [0, 2]]
    assert dataset.images[1].values == {"patient": "p2", "age": 50}
    assert dataset.images[3].location == "d.png"
    assert dataset.split.test == [3]
    assert dataset.task == "classification"
    counts = describe_dataset(dataset)
    assert counts["images"] == 4
    assert counts["unlabelled"] == 1
    assert counts["split"]["training"] == {"images": 2, "classes": {"benign": 1, "malignant": 1, "other": 0}}


def test_locations_and_masks_may_be_lists(write):
    text = "name: n\nclasses: [nodule]\nimages:\n  - {location: [a.dcm, b.dcm], label: [m/a.png, m/b.png]}\n"
    dataset = read_dataset(write(text))
    assert dataset.task == "segmentation"
    assert dataset.file(dataset.images[0].location) == [dataset.folder / "a.dcm", dataset.folder / "b.dcm"]
    assert dataset.mask_files(dataset.images[0]) == [dataset.folder / "m/a.png", dataset.folder / "m/b.png"]


@pytest.mark.parametrize(
    ("old", "new", "line", "parts"),
    [
        ("label: benign, v", "label: bening, v", 5, ["images.0.label", "`bening`", "did you mean `benign`?"]),
        ("label: 1", "label: 7", 6, ["images.1.label", "7 is out of range", "0 to 2"]),
        ("test: [3]", "test: [40]", 12, ["split.test", "index 40 is out of range", "4 images (0 to 3)"]),
        ("test: [3]", "test: [-1]", 12, ["split.test", "index -1 is out of range"]),
        ("test: [3]", "test: [1]", 12, ["split.test", "index 1 is also in training"]),
        ("test: [3]", "test: [3, 3]", 12, ["split.test", "index 3 stands there twice"]),
        ("location: b.png", "location: a.png", 6, ["images.1.location", "a.png is also image 0"]),
        (
            "label: 1",
            "label: masks/b.png",
            6,
            ["images.1.label", "is a mask but the labels before it are classes"],
        ),
        (
            "[benign, malignant, other]",
            "[benign, other, other]",
            2,
            ["classes", "`other` stands there twice"],
        ),
        ("test: [3]", "tests: [3]", 12, ["split.tests", "unknown key", "`test`"]),
        ("values: {", "valeus: {", 5, ["images.0.valeus", "unknown key", "`values`"]),
    ],
)
def test_refusals(write, old, new, line, parts):
    assert old in TEXT
    path = write(TEXT.replace(old, new))
    message = refusal(path)
    assert message.startswith(f"{path}:{line}: ")
    for part in parts:
        assert part in message


def test_a_file_that_is_no_yaml_names_its_line(write):
    message = refusal(write("name: x\nclasses: [a\nimages: []\n"))
    assert re.search(r"dataset\.yml:\d: not valid YAML", message)


def test_further_problems_are_counted_and_listed(write):
    path = write(TEXT.replace("label: 1", "label: 7").replace("test: [3]", "test: [9]"))
    assert "1 more: `dhhpc dataset check" in refusal(path)
    lines = check_dataset(read_dataset(path, check=False), read_images=False)
    assert sum("out of range" in line for line in lines) == 2
    assert sum("no such file" in line for line in lines) == 4


def test_check_finds_nothing_wrong_with_whole_data(volumes):
    assert check_dataset(read_dataset(volumes(3) / "dataset.yml")) == []


def test_check_reads_every_image(volumes):
    root = volumes(5)
    small = nibabel.Nifti1Image(np.zeros((16, 15, 4), np.uint8), np.eye(4))
    nibabel.save(small, root / "mask1.nii.gz")
    content = (root / "scan2.nii.gz").read_bytes()
    (root / "scan2.nii.gz").write_bytes(content[: len(content) // 2])
    (root / "mask3.nii.gz").unlink()
    lines = check_dataset(read_dataset(root / "dataset.yml"))
    assert len(lines) == 3
    # A mask of another size: both files, both sizes (slices x rows x columns).
    assert all(part in lines[0] for part in ("mask1.nii.gz", "scan1.nii.gz", "4x15x16", "4x16x16"))
    assert "scan2.nii.gz" in lines[1]
    assert "mask3.nii.gz: no such file" in lines[2]


def test_mask_values_must_be_classes(tmp_path):
    PIL.Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    PIL.Image.fromarray(np.full((4, 5), 255, np.uint8)).save(tmp_path / "m.png")
    path = tmp_path / "dataset.yml"
    text = "name: n\nimages: [{location: a.png, label: m.png}]\n"
    path.write_text(text + "classes: [background, vessel]\n")
    assert check_dataset(read_dataset(path)) == []  # one foreground class: anything but 0
    path.write_text(text + "classes: [background, artery, vein]\n")
    (line,) = check_dataset(read_dataset(path))
    assert "m.png: mask value 255 is no class" in line


def test_written_elsewhere_locations_still_lead_to_the_files(volumes):
    dataset = read_dataset(volumes(2) / "dataset.yml")
    dataset.images[0].values["region"] = "mask1.nii.gz"
    moved = dataset.folder.parent / "other" / "deep" / "moved.yml"
    write_dataset(moved, dataset)
    again = read_dataset(moved)
    assert check_dataset(again) == []
    for before, after in zip(dataset.images, again.images, strict=True):
        assert dataset.file(before.location).resolve() == again.file(after.location).resolve()
        assert dataset.mask_files(before).resolve() == again.mask_files(after).resolve()
    assert again.file(again.images[0].values["region"]).resolve() == dataset.folder / "mask1.nii.gz"
    assert again.split == dataset.split


def test_writing_and_reading_keeps_everything(write, tmp_path):
    first = read_dataset(write(TEXT))
    write_dataset(tmp_path / "again.yml", first)
    assert read_dataset(tmp_path / "again.yml").model_dump() == first.model_dump()
    assert "values" not in yaml.safe_load((tmp_path / "again.yml").read_text())["images"][2]
