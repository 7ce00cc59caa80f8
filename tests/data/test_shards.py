"""Shard files: whole or not at all, read back exactly, damage found, memory kept to its budget."""

import json
import threading

import h5py
import numpy as np
import pytest

from dhhpc.data.shard_index import INDEX_NAME, ShardIndex, record_of, write_index
from dhhpc.data.shard_writer import writing_shard
from dhhpc.data.shards import ShardSet
from dhhpc.errors import DhhpcError

SHAPE = (2, 9, 7)


def make(folder, counts=(3, 0, 4), dtype="float32", regions=True):
    """Shards of random samples; the arrays that went in."""
    rng = np.random.default_rng(0)
    records, images, masks, areas = [], [], [], []
    for number, count in enumerate(counts):
        path = folder / f"training-{number:05d}.h5"
        with writing_shard(path, dtype) as writer:
            for row in range(count):
                images.append(rng.normal(size=SHAPE).astype(dtype))
                masks.append(rng.integers(0, 3, SHAPE[1:]).astype(np.uint8))
                areas.append(rng.integers(0, 2, SHAPE[1:]).astype(np.uint8))
                region = areas[-1][None] if regions else None
                writer.extend(images[-1][None], masks[-1][None], region, [f"{number}/{row}"])
        records.append(record_of(path, "training", count))
    index = ShardIndex(
        dataset="random",
        task="segmentation",
        classes=["a", "b"],
        sample_shape=SHAPE,
        dtype=dtype,
        regions=regions,
        shards=records,
        pipeline=[],
        pipeline_hash="0",
        seconds=0,
    )
    write_index(folder, index)
    return np.stack(images), np.stack(masks), np.stack(areas)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_what_goes_in_comes_out(tmp_path, dtype, cache_bytes):
    images, masks, regions = make(tmp_path, dtype=dtype)
    shards = ShardSet(tmp_path, cache_bytes, verify=True)
    assert shards.splits == ["training"]
    assert (shards.count("training"), shards.count("test")) == (7, 0)
    assert shards.sample_shape == SHAPE
    assert shards.target_channels == 3
    assert shards.identifiers("training") == ["0/0", "0/1", "0/2", "2/0", "2/1", "2/2", "2/3"]
    for order in ([6, 0, 3, 3, 2], [], range(7)):
        for _ in range(2):  # the second time from the cache, where there is one
            found = shards.read("training", order)
            assert [array.dtype for array in found] == [np.float32, np.uint8, np.uint8]
            for array, expected in zip(found, (images, masks, regions), strict=True):
                np.testing.assert_array_equal(array, expected[list(order)])
    with pytest.raises(IndexError):
        shards.read("training", [7])
    shards.close()
    np.testing.assert_array_equal(shards.read("training", [5])[0], images[[5]])


def test_the_cache_keeps_to_its_budget(tmp_path):
    make(tmp_path)
    sample = np.prod(SHAPE) * 4 + 2 * np.prod(SHAPE[1:]) + 1
    for budget, cached in ((7 * sample, True), (7 * sample - 1, False)):
        shards = ShardSet(tmp_path, int(budget))
        shards.read("training", range(7))
        shards.close()
        for path in tmp_path.glob("*.h5"):
            path.rename(path.with_suffix(".away"))
        if cached:
            shards.read("training", range(7))
        else:
            with pytest.raises(DhhpcError, match=r"training-00000\.h5: the shard is missing"):
                shards.read("training", [0])
        for path in tmp_path.glob("*.away"):
            path.rename(path.with_suffix(".h5"))


def test_the_same_samples_give_the_same_bytes(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_truncated_shard_is_refused_when_the_set_is_opened(tmp_path):
    make(tmp_path)
    path = tmp_path / "training-00002.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(
        DhhpcError, match=rf"{path}: holds {len(whole) - 100} bytes where .* says {len(whole)}"
    ):
        ShardSet(tmp_path)
    path.unlink()
    with pytest.raises(DhhpcError, match=rf"{path}: the shard is missing; run `dhhpc preprocess` again"):
        ShardSet(tmp_path)


def test_a_flipped_bit_is_found_on_reading_and_on_verifying(tmp_path):
    make(tmp_path, counts=(1,))
    path = tmp_path / "training-00000.h5"
    with h5py.File(path) as file:
        chunk = file["images"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DhhpcError, match=r"SHA-256 is not the one in index\.json"):
        ShardSet(tmp_path, verify=True)
    with pytest.raises(DhhpcError, match=r"training-00000\.h5: the shard is damaged .*delete it and run"):
        ShardSet(tmp_path).read("training", [0])


def test_an_index_that_is_missing_or_of_another_version(tmp_path):
    with pytest.raises(DhhpcError, match=r"index\.json: no such file; run `dhhpc preprocess` to its end"):
        ShardSet(tmp_path)
    make(tmp_path)
    path = tmp_path / INDEX_NAME
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"schema_version": 99}))
    with pytest.raises(DhhpcError, match="schema version 99 where 1 is expected"):
        ShardSet(tmp_path)
    del value["classes"]
    path.write_text(json.dumps(value))
    with pytest.raises(DhhpcError, match=r"index\.json: classes: Field required"):
        ShardSet(tmp_path)


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def write():
        with writing_shard(tmp_path / "training-00000.h5", "float32") as writer:
            writer.extend(np.zeros((1, *SHAPE)), np.zeros((1, *SHAPE[1:]), np.uint8), None, ["0"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert list(tmp_path.iterdir()) == []


def test_threads_read_the_same_as_one_reader(tmp_path):
    """Without a cache, with more files than stay open at a time."""
    images, masks, _ = make(tmp_path, counts=(1,) * 70)
    shards = ShardSet(tmp_path, cache_bytes=0)
    wrong = []

    def read(seed):
        for index in np.random.default_rng(seed).integers(0, 70, 150):
            found = shards.read("training", [index])
            if not (np.array_equal(found[0][0], images[index]) and np.array_equal(found[1][0], masks[index])):
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
