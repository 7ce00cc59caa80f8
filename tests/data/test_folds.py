"""Cross-validation: every sample validates once, groups stay whole, classes stay in proportion."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold

from dhhpc.data import preprocess, read_dataset, read_preprocess, write_dataset
from dhhpc.data.dataset import Split
from dhhpc.data.folds import Fold, FoldedShards, deal
from dhhpc.data.shards import ShardSet
from dhhpc.errors import DhhpcError
from dhhpc.mpi import World
from tests import synthetic


def one_hot(classes, count=3) -> np.ndarray:
    return np.eye(count, dtype=np.uint8)[classes]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=60), st.integers(2, 6), st.integers(0, 99))
def test_single_images_are_divided_to_within_one(classes, folds, seed):
    """In every class as scikit-learn's StratifiedKFold does it, and in all."""
    parts = deal([f"image{number}" for number in range(len(classes))], one_hot(classes), folds, seed)
    sizes = np.bincount(parts, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    frequent = [kind for kind, count in Counter(classes).items() if count >= folds]
    theirs = StratifiedKFold(folds, shuffle=True, random_state=seed)
    rows = [row for row, kind in enumerate(classes) if kind in frequent]
    if rows:
        chosen = np.array(classes)[rows]
        expected = [
            np.bincount(chosen[held], minlength=3).tolist() for _, held in theirs.split(chosen, chosen)
        ]
        for kind in frequent:
            ours = sorted(sum(np.array(classes)[parts == fold] == kind) for fold in range(folds))
            assert ours == sorted(counts[kind] for counts in expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=12, max_size=60), st.integers(0, 99)
)
def test_groups_stay_whole_and_even_out(pairs, seed):
    classes, groups = zip(*pairs, strict=True)
    parts = deal([f"patient{group}" for group in groups], one_hot(list(classes)), 3, seed)
    for group in set(groups):
        assert len({part for part, other in zip(parts, groups, strict=True) if other == group}) == 1
    again = deal([f"patient{group}" for group in groups], one_hot(list(classes)), 3, seed)
    np.testing.assert_array_equal(parts, again)


def test_patients_of_two_sizes_by_hand():
    """Six slices each of three patients and two each of three others: a large and a small one a fold."""
    groups = [f"p{number}" for number, size in enumerate((6, 2, 6, 2, 6, 2)) for _ in range(size)]
    parts = deal(groups, np.ones((24, 1), np.uint8), 3, seed=5)
    assert np.bincount(parts).tolist() == [8, 8, 8]


def fold_ids(folder, folds, seed=1):
    """(training, validation) ids of each fold."""
    sets = [FoldedShards(folder, Fold(part=part, of=folds, seed=seed)) for part in range(1, folds + 1)]
    return [(shards.identifiers("training"), shards.identifiers("validation")) for shards in sets]


def test_every_sample_validates_once_and_the_test_split_stays(discs):
    stored = ShardSet(discs)
    pool = sorted(stored.identifiers("training") + stored.identifiers("validation"))
    folds = fold_ids(discs, 4)
    assert sorted(name for _, held in folds for name in held) == pool
    assert sorted(len(held) for _, held in folds) == [6, 7, 7, 7]
    for training, held in folds:
        assert sorted(training + held) == pool
    assert fold_ids(discs, 4) == folds
    assert fold_ids(discs, 4, seed=2) != folds
    shards = FoldedShards(discs, Fold(part=2, of=4))
    assert (shards.count("training"), shards.count("validation"), shards.count("test")) == (20, 7, 5)
    assert shards.identifiers("test") == stored.identifiers("test")
    for row, name in enumerate(shards.identifiers("validation")):
        split, _, number = name.partition("-")
        for mine, theirs in zip(
            shards.read("validation", [row])[:2], stored.read(split, [int(number)])[:2], strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
    with pytest.raises(IndexError, match="sample 7 of split validation, which has 7"):
        shards.read("validation", [7])


def test_classes_stay_in_proportion(tmp_path):
    folder = synthetic.write_stripes(tmp_path / "stripes", {"training": 40, "validation": 13})
    stored = ShardSet(folder)
    labels = np.concatenate([stored.read(split, range(stored.count(split)))[1] for split in stored.splits])
    for part in range(1, 4):
        shards = FoldedShards(folder, Fold(part=part, of=3))
        held = shards.read("validation", range(shards.count("validation")))[1]
        np.testing.assert_array_equal(held, shards.labels("validation"))
        assert (np.abs(held.sum(axis=0) - labels.sum(axis=0) / 3) < 1).all()


@pytest.mark.parametrize("named", [True, False])
def test_slices_and_scans_of_a_patient_stay_together(volumes, tmp_path, named):
    """Volumes 0 and 1 are one patient's, 2 and 3 another's, and so on: known where the dataset names them."""
    dataset = read_dataset(volumes(6) / "dataset.yml")
    dataset.split = Split(training=list(range(4)), validation=[4, 5])
    if not named:
        for image in dataset.images:
            image.values.pop("patient")
    write_dataset(dataset.folder / "dataset.yml", dataset)
    (dataset.folder / "preprocess.yml").write_text("dataset: dataset.yml\noutput: shards\nslices: true\n")
    preprocess(read_preprocess(dataset.folder / "preprocess.yml"), World())
    folder = dataset.folder / "shards"
    groups = ShardSet(folder).groups("training")
    assert len(set(groups)) == (2 if named else 4)
    assert not any("P0" in group for group in groups)  # pseudonyms, as the ids
    volumes_of = [{name.partition("/")[0] for name in held} for _, held in fold_ids(folder, 3)]
    assert [len(held) for held in volumes_of] == [2, 2, 2]
    assert len(set.union(*volumes_of)) == 6
    if named:
        names = ShardSet(folder).identifiers("training") + ShardSet(folder).identifiers("validation")
        order = list(dict.fromkeys(name.partition("/")[0] for name in names))
        pairs = [{order[2 * number], order[2 * number + 1]} for number in range(3)]
        assert all(held in pairs for held in volumes_of)
        with pytest.raises(DhhpcError, match=r"hold 3 images \(or patients\) for 4 folds"):
            fold_ids(folder, 4)


def test_slices_of_shards_that_name_no_groups_stay_together(tmp_path):
    images = np.zeros((6, 1, 8, 8), np.float32)
    masks = np.zeros((6, 8, 8), np.uint8)
    folder = synthetic.write_shards(tmp_path / "shards", {"training": (images, masks, None)}, ["spot"])
    assert ShardSet(folder).groups("training") == [f"training-{index}" for index in range(6)]
    names = ["scans/7/0", "scans/7/1", "a.png", "b.png", "scans/8/0", "scans/8/1"]
    folder = synthetic.write_shards(
        tmp_path / "slices", {"training": (images, masks, None)}, ["spot"], {"training": names}
    )
    assert ShardSet(folder).groups("training") == ["scans/7"] * 2 + ["a.png", "b.png"] + ["scans/8"] * 2


def test_a_part_beyond_the_folds_is_refused():
    with pytest.raises(ValueError, match="part 4 of 3 folds; give one from 1 to 3"):
        Fold(part=4, of=3)
