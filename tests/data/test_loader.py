"""The loader: every sample once an epoch over all ranks, batches independent of ranks, patches and errors."""

import functools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dhhpc import ecvl
from dhhpc.data.loader import Loader
from dhhpc.data.shard_index import ShardIndex, record_of, write_index
from dhhpc.data.shard_writer import writing_shard
from dhhpc.data.shards import ShardSet
from dhhpc.errors import DhhpcError

HEIGHT, WIDTH = 10, 8


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Shards of `count` samples over several files; every pixel of sample i is i, its mask marks pixel i."""

    @functools.cache
    def make(count, classes=("a",), task="segmentation", regions=False):
        folder = tmp_path_factory.mktemp("numbered")
        records = []
        for first in range(0, count, 7):
            path = folder / f"training-{first // 7:05d}.h5"
            with writing_shard(path, "float32") as writer:
                for number in range(first, min(first + 7, count)):
                    target = np.zeros((HEIGHT, WIDTH), np.uint8)
                    target.flat[number % target.size] = 1 + number % len(classes)
                    if task == "classification":
                        target = np.eye(len(classes), dtype=np.uint8)[number % len(classes)]
                    region = np.full((1, HEIGHT, WIDTH), number % 2, np.uint8) if regions else None
                    image = np.full((1, 2, HEIGHT, WIDTH), number, np.float32)
                    writer.extend(image, target[None], region, [str(number)])
            records.append(record_of(path, "training", writer.samples))
        index = ShardIndex(
            dataset="numbered",
            task=task,
            classes=list(classes),
            sample_shape=(2, HEIGHT, WIDTH),
            dtype="float32",
            regions=regions,
            shards=records,
            pipeline=[],
            pipeline_hash="0",
            seconds=0,
        )
        write_index(folder, index)
        return ShardSet(folder)

    return make


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    ranks=st.integers(1, 6),
    batch_size=st.integers(1, 9),
    epoch=st.integers(0, 5),
    threads=st.integers(1, 3),
    shuffle=st.booleans(),
)
def test_every_sample_once_an_epoch_over_all_ranks(
    numbered, count, ranks, batch_size, epoch, threads, shuffle
):
    shards = numbered(count)
    together = Loader(shards, "training", batch_size * ranks, seed=5, shuffle=shuffle)
    whole = list(together.epoch(epoch))
    parts = [
        list(
            Loader(
                shards, "training", batch_size, rank, ranks, seed=5, shuffle=shuffle, threads=threads
            ).epoch(epoch)
        )
        for rank in range(ranks)
    ]
    seen = np.concatenate([batch.images[:, 0, 0, 0] for part in parts for batch in part])
    assert sorted(seen) == list(range(count))
    assert {len(part) for part in parts} == {together.batches()}
    for number, batch in enumerate(whole):
        pieces = [part[number] for part in parts]
        np.testing.assert_array_equal(np.concatenate([piece.images for piece in pieces]), batch.images)
        np.testing.assert_array_equal(np.concatenate([piece.targets for piece in pieces]), batch.targets)
        np.testing.assert_array_equal(np.concatenate([piece.indices for piece in pieces]), batch.indices)
        assert {piece.global_count for piece in pieces} == {len(batch.images)}
        expected = [len(part) for part in np.array_split(batch.indices, ranks)]
        assert [len(piece.indices) for piece in pieces] == expected


def test_epochs_differ_and_seeds_repeat(numbered):
    loader = Loader(numbered(30), "training", 4, seed=1)
    assert not np.array_equal(loader.order(0), loader.order(1))
    np.testing.assert_array_equal(loader.order(3), Loader(numbered(30), "training", 7, seed=1).order(3))
    assert not np.array_equal(loader.order(0), Loader(numbered(30), "training", 4, seed=2).order(0))
    kept = Loader(numbered(30), "training", 4, shuffle=False)
    np.testing.assert_array_equal(kept.order(2), np.arange(30))


def test_an_epoch_can_be_entered_in_its_middle(numbered):
    augmentations = [ecvl.augmentations.RandomNoise(deviation=0.1)]
    loader = Loader(
        numbered(23),
        "training",
        4,
        seed=1,
        augmentations=augmentations,
        patch={"size": [5, 5], "per_image": 2},
    )
    whole = list(loader.epoch(2))
    rest = list(loader.epoch(2, start=28))
    assert len(whole) == 12
    assert len(rest) == 5
    for before, after in zip(whole[7:], rest, strict=True):
        np.testing.assert_array_equal(before.images, after.images)
        np.testing.assert_array_equal(before.targets, after.targets)


def test_random_samples_do_not_depend_on_ranks(numbered):
    """Patches and augmentations included."""
    options = {
        "seed": 9,
        "patch": {"size": [4, 6], "per_image": 3, "foreground": 0.5},
        "augmentations": [
            ecvl.augmentations.RandomFlip(axes="yx"),
            ecvl.augmentations.RandomRotate(max_degrees=30),
            ecvl.augmentations.RandomNoise(deviation=0.5),
        ],
    }
    whole = list(Loader(numbered(11), "training", 6, **options).epoch(1))
    parts = [list(Loader(numbered(11), "training", 2, rank, 3, **options).epoch(1)) for rank in range(3)]
    for number, batch in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[number].images for part in parts]), batch.images)
        np.testing.assert_array_equal(np.concatenate([part[number].targets for part in parts]), batch.targets)
    # And they are random: the three patches of an image differ.
    noisy = {
        int(index): image for batch in whole for index, image in zip(batch.indices, batch.images, strict=True)
    }
    assert sorted(noisy) == list(range(33))
    assert not np.array_equal(noisy[0], noisy[1])


def test_binary_masks_give_one_channel(numbered):
    (batch,) = Loader(numbered(5), "training", 5, shuffle=False).epoch(0)
    assert batch.targets.shape == (5, 1, HEIGHT, WIDTH)
    assert batch.targets.dtype == np.float32
    expected = np.zeros((5, 1, HEIGHT * WIDTH), np.float32)
    expected[np.arange(5), 0, np.arange(5)] = 1
    np.testing.assert_array_equal(batch.targets.reshape(5, 1, -1), expected)


@pytest.mark.parametrize("classes", [("a", "b", "c"), ("background", "a", "b")])
def test_several_classes_give_one_hot_channels_with_background(numbered, classes):
    foreground = [name for name in classes if name != "background"]
    shards = numbered(6, classes=("a", "b", "c")) if len(foreground) == 3 else numbered(6, classes=("a", "b"))
    (batch,) = Loader(shards, "training", 6, shuffle=False).epoch(0)
    assert batch.targets.shape == (6, len(foreground) + 1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(batch.targets.sum(1), 1)
    for number in range(6):
        pixel = batch.targets[number, :, 0, number]
        assert pixel.argmax() == 1 + number % len(foreground)
        assert batch.targets[number, 0].sum() == HEIGHT * WIDTH - 1


def test_class_labels_give_one_hot_rows(numbered):
    shards = numbered(5, classes=("a", "b", "c"), task="classification")
    (batch,) = Loader(shards, "training", 5, shuffle=False).epoch(0)
    np.testing.assert_array_equal(batch.targets, np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]])


def test_regions_come_along(numbered):
    (batch,) = Loader(numbered(4, regions=True), "training", 4, shuffle=False).epoch(0)
    np.testing.assert_array_equal(batch.regions[:, 0, 0], [0, 1, 0, 1])
    (batch,) = Loader(numbered(4), "training", 4).epoch(0)
    assert batch.regions is None


def test_patches_keep_image_and_mask_in_step_and_find_the_foreground(tmp_path):
    values = np.arange(40 * 30, dtype=np.float32).reshape(1, 40, 30)
    mask = np.zeros((40, 30), np.uint8)
    mask[0, 29] = 1  # in a corner: the patch cannot be centred on it
    with writing_shard(tmp_path / "training-00000.h5", "float32") as writer:
        writer.extend(values[None], mask[None], mask[None], ["0"])
    index = ShardIndex(
        dataset="one",
        task="segmentation",
        classes=["a"],
        sample_shape=(1, 40, 30),
        dtype="float32",
        regions=True,
        shards=[record_of(tmp_path / "training-00000.h5", "training", 1)],
        pipeline=[],
        pipeline_hash="0",
        seconds=0,
    )
    write_index(tmp_path, index)

    def patches(foreground):
        patch = {"size": [8, 6], "per_image": 400, "foreground": foreground}
        (batch,) = Loader(ShardSet(tmp_path), "training", 400, patch=patch).epoch(0)
        return batch

    batch = patches(1.0)
    assert batch.images.shape == (400, 1, 8, 6)
    assert (batch.targets.sum((1, 2, 3)) == 1).all()
    batch = patches(0.25)
    for image, target, region in zip(batch.images, batch.targets, batch.regions, strict=True):
        top, left = divmod(int(image[0, 0, 0]), 30)
        np.testing.assert_array_equal(image[0], values[0, top : top + 8, left : left + 6])
        np.testing.assert_array_equal(target[0], mask[top : top + 8, left : left + 6])
        np.testing.assert_array_equal(region, mask[top : top + 8, left : left + 6])
    # 400 draws of probability 0.25 + 0.75 / (33 * 25): within 4 standard deviations of 100.4.
    assert 65 < batch.targets.sum() < 136
    # Every place is reached, the last ones too.
    corners = {divmod(int(value), 30) for value in patches(0.0).images[:, 0, 0, 0]}
    assert max(top for top, _ in corners) == 32
    assert max(left for _, left in corners) == 24


def test_augmentations_leave_the_cached_samples_alone(numbered):
    shards = numbered(6)
    before = shards.read("training", range(6))
    flips = [ecvl.augmentations.RandomFlip(axes="yx", probability=1.0)]
    (batch,) = Loader(shards, "training", 6, augmentations=flips, shuffle=False).epoch(0)
    np.testing.assert_array_equal(batch.targets[:, 0], before[1][:, ::-1, ::-1])
    for array, again in zip(before[:2], shards.read("training", range(6))[:2], strict=True):
        np.testing.assert_array_equal(array, again)


def test_refusals(numbered):
    with pytest.raises(DhhpcError, match="no samples in split `test`; it has training"):
        Loader(numbered(5), "test", 1)
    with pytest.raises(DhhpcError, match=r"patch size 11 x 4 is larger than the images \(10 x 8\)"):
        Loader(numbered(5), "training", 1, patch={"size": [11, 4]})
    labels = numbered(5, classes=("a", "b"), task="classification")
    with pytest.raises(DhhpcError, match=r"patch foreground 0\.5 needs masks"):
        Loader(labels, "training", 1, patch={"size": [4, 4], "foreground": 0.5})


def test_no_thread_outlives_an_epoch_that_is_left_early(numbered):
    epoch = Loader(numbered(40), "training", 1, threads=3, prefetch=5).epoch(0)
    next(epoch)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    epoch.close()
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_an_error_in_a_thread_surfaces(numbered):
    class Failing:
        def apply(self, array, mask, region, rng):
            if array[0, 0, 0] == 7:
                raise ZeroDivisionError("seven")
            return array, mask, region

    loader = Loader(numbered(20), "training", 2, augmentations=[Failing()], shuffle=False, threads=2)
    epoch = loader.epoch(0)
    assert [next(epoch).indices[0] for _ in range(3)] == [0, 2, 4]
    with pytest.raises(ZeroDivisionError, match="seven"):
        next(epoch)
