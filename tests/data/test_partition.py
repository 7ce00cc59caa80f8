"""Partition and merge: sizes by hand, groups whole, strata in proportion, refusals."""

from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dhhpc.data import Dataset, ImageEntry, check_dataset, merge, partition, read_dataset, write_dataset
from dhhpc.errors import DhhpcError

SPLITS = ("training", "validation", "test")


def dataset_of(labels, groups=None, classes=("a", "b", "c")):
    groups = groups or range(len(labels))
    images = [
        ImageEntry(location=f"{number}.png", label=label, values={"patient": f"p{group}"})
        for number, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    return Dataset(name="made up", classes=list(classes), images=images)


def sizes(dataset):
    return tuple(len(indices) for indices in dataset.splits.values())


@pytest.mark.parametrize(
    ("count", "ratios", "expected"),
    [
        (10, (0.8, 0.1, 0.1), (8, 1, 1)),
        (100, (0.7, 0.15, 0.15), (70, 15, 15)),
        (20, (0.5, 0.0, 0.5), (10, 0, 10)),
        (7, (1.0, 0.0, 0.0), (7, 0, 0)),
    ],
)
def test_sizes_by_hand(count, ratios, expected):
    divided = partition(dataset_of(["a"] * count), dict(zip(SPLITS, ratios, strict=True)))
    assert sizes(divided) == expected


def test_the_seed_decides():
    dataset = dataset_of(["a"] * 40)
    ratios = {"training": 0.5, "test": 0.5}
    assert partition(dataset, ratios, seed=3).split == partition(dataset, ratios, seed=3).split
    assert partition(dataset, ratios, seed=3).split != partition(dataset, ratios, seed=4).split
    assert dataset.split is None


def test_stratified_by_hand():
    labels = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    ratios = {"training": 0.6, "validation": 0.2, "test": 0.2}
    divided = partition(dataset_of(labels), ratios, seed=1, stratify=True)
    for name, expected in (("training", (30, 18, 12)), ("validation", (10, 6, 4)), ("test", (10, 6, 4))):
        counts = Counter(labels[index] for index in getattr(divided.split, name))
        assert tuple(counts[label] for label in "abc") == expected


def test_many_small_strata_still_give_the_sizes():
    labels = [f"c{number // 2}" for number in range(100)]
    classes = sorted(set(labels))
    ratios = {"training": 0.8, "validation": 0.1, "test": 0.1}
    assert sizes(partition(dataset_of(labels, classes=classes), ratios, stratify=True)) == (80, 10, 10)


ratio_triples = st.tuples(*[st.integers(0, 10)] * 3).filter(any).map(lambda t: [part / sum(t) for part in t])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=60),
    ratio_triples,
    st.booleans(),
    st.integers(0, 99),
)
def test_every_image_once_and_sizes_by_the_ratios(labels, ratios, stratify, seed):
    named = dict(zip(SPLITS, ratios, strict=True))
    assume(min(ratio for ratio in ratios if ratio) * len(labels) >= 1)  # else a split may stay empty: refused
    divided = partition(dataset_of(labels), named, seed, stratify=stratify)
    everything = sorted(index for indices in divided.splits.values() for index in indices)
    assert everything == list(range(len(labels)))
    for name, indices in divided.splits.items():
        assert abs(len(indices) - named[name] * len(labels)) < 1
        if stratify:
            for label in "abc":
                count = sum(labels[index] == label for index in indices)
                assert abs(count - named[name] * labels.count(label)) < 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), min_size=40, max_size=80),
    st.booleans(),
    st.integers(0, 99),
)
def test_no_group_is_in_two_splits(pairs, stratify, seed):
    labels, groups = zip(*pairs, strict=True)
    ratios = {"training": 0.5, "validation": 0.25, "test": 0.25}
    largest = max(Counter(groups).values())
    assume(largest * 8 <= len(labels))  # else a split may stay empty, which is refused
    divided = partition(dataset_of(labels, groups), ratios, seed, stratify=stratify, group_by="patient")
    owner = {}
    for name, indices in divided.splits.items():
        for index in indices:
            assert owner.setdefault(groups[index], name) == name
    assert sorted(index for indices in divided.splits.values() for index in indices) == list(
        range(len(labels))
    )
    for name, indices in divided.splits.items():
        assert abs(len(indices) - ratios[name] * len(labels)) <= 2 * largest


@pytest.mark.parametrize(
    ("ratios", "part"),
    [
        ({"training": 0.7, "test": 0.7}, "sum to 1.4"),
        ({"training": 1.2, "test": -0.2}, "ratio 1.2 of training is not between 0 and 1"),
        ({"training": 0.5, "tests": 0.5}, "no split is called `tests`"),
        ({"training": 0.9, "validation": 0.05, "test": 0.05}, "leaves nothing for"),
    ],
)
def test_impossible_ratios(ratios, part):
    with pytest.raises(DhhpcError, match=part):
        partition(dataset_of(["a"] * 6), ratios)


def test_missing_values_and_masks():
    dataset = dataset_of(["m/1.png", "m/2.png"])
    with pytest.raises(DhhpcError, match=r"images\.0\.label is no class"):
        partition(dataset, {"training": 0.5, "test": 0.5}, stratify=True)
    with pytest.raises(DhhpcError, match=r"images\.0\.values has no `site`"):
        partition(dataset, {"training": 0.5, "test": 0.5}, group_by="site")


def test_merged_sets_lead_to_all_files_and_keep_their_splits(volumes):
    first, second = (read_dataset(volumes(3, folder=name) / "dataset.yml") for name in ("one", "two"))
    joined = merge([first, second], "both")
    assert [image.values["patient"] for image in joined.images] == ["P0", "P0", "P1"] * 2
    assert joined.split.training == [0, 1, 3, 4]
    assert joined.split.test == [2, 5]
    written = first.folder.parent / "both.yml"
    write_dataset(written, joined)
    assert check_dataset(read_dataset(written)) == []


def test_incompatible_sets_are_refused(volumes):
    dataset = read_dataset(volumes(3) / "dataset.yml")

    def other(**changes):
        copy = read_dataset(volumes(3, folder=f"other{len(changes)}{next(iter(changes))}") / "dataset.yml")
        for key, value in changes.items():
            setattr(copy, key, value)
        return copy

    with pytest.raises(DhhpcError, match=r"other classes \(cyst\) than .* \(nodule\)"):
        merge([dataset, other(classes=["cyst"])], "x")
    with pytest.raises(DhhpcError, match="has no split while"):
        merge([dataset, other(split=None)], "x")
    with pytest.raises(DhhpcError, match="labels for classification where"):
        merge([dataset, other(images=[ImageEntry(location="a.png", label="nodule")])], "x")
    with pytest.raises(DhhpcError, match=r"scan0\.nii\.gz is also in"):
        merge([dataset, dataset], "x")
    with pytest.raises(DhhpcError, match="name at least two"):
        merge([dataset], "x")
