"""Networks cut over real ranks against the same networks on one: `mpiexec -n 2 python -m pytest --with-mpi`.

The test without the mark runs those that depend on the number of ranks on four.
"""

import subprocess
import sys

import numpy as np
import pytest

from dhhpc import eddl, zoo
from dhhpc.eddl.layers.pooling import POOLS
from dhhpc.eddl.layers.upsampling import UPSAMPLINGS
from dhhpc.eddl.spatial import cuts, decompose
from dhhpc.errors import DhhpcError
from dhhpc.mpi import connect
from dhhpc.mpi.launch import environment_for, mpiexec
from tests import synthetic

TOLERANCE = 1e-5
CONVOLUTIONS = {1: eddl.Conv1D, 2: eddl.Conv2D, 3: eddl.Conv3D}
TRANSPOSED = {1: eddl.ConvTranspose1D, 2: eddl.ConvTranspose2D, 3: eddl.ConvTranspose3D}


def odd_network(rows=45, columns=37):
    """Strides, padded pooling, dilation, sums and joined layers, all with rows that no two divides."""
    x = eddl.Input((2, rows, columns))
    a = eddl.ELU(eddl.Conv2D(x, 6, 3))
    b = eddl.ELU(eddl.Conv2D(eddl.MaxPool2D(a, 3, 2, 1), 8, 5, dilation=2))
    c = eddl.Conv2D(eddl.AveragePool2D(b, 3, 1, 1), 8, 3, stride=2, groups=2)
    d = eddl.ConvTranspose2D(c, 8, 3, 2, 1, output_padding=1 - b.shape[1] % 2)
    d = eddl.Add([d, b]) if d.shape == b.shape else eddl.Add([eddl.Conv2D(d, 8, (1, 2), padding=0), b])
    e = eddl.ConvTranspose2D(d, 6, 3, 2, 1)
    y = eddl.Conv2D(eddl.Concat([e, a]), 3, 3)
    return eddl.Model([x], [eddl.Softmax(y)])


def unet(shape, classes=1, **options):
    return zoo.create("unet", shape, classes, **{"channels": [4, 8], "normalization": False} | options)


# A network, and the loss it learns by. On four ranks no unet's lowest level has as many rows for each.
NETWORKS = {
    "odd": (odd_network, "categorical_cross_entropy+dice"),
    "odd, 61 rows": (lambda: odd_network(61, 21), "mean_squared_error"),
    "unet": (lambda: unet((2, 44, 36), channels=[4, 8, 16]), "binary_cross_entropy+dice"),
    "unet of volumes": (
        lambda: unet((1, 22, 12, 8), 3, upsampling="linear"),
        "categorical_cross_entropy+dice",
    ),
    "unet of volumes, normalised": (lambda: unet((1, 10, 8, 6), normalization=True), "binary_cross_entropy"),
    "unet, normalised": (
        lambda: unet((1, 22, 18), normalization=True, upsampling="nearest"),
        "huber+mean_absolute_error",
    ),
}


@pytest.fixture
def world():
    return connect()


def built(make, loss, learning_rate=0.02):
    network = make()
    optimizer = eddl.SGD(learning_rate, momentum=0.9)
    network.build(optimizer, [loss], ["accuracy", "dice"], seed=3)
    return network


def batch(network, samples=2):
    """Images, and masks of class indices, or of probabilities where there is a single class."""
    rng = np.random.default_rng(5)
    channels, *size = network.outputs[0].shape
    images = rng.normal(size=(samples, *network.inputs[0].shape)).astype(np.float32)
    if channels == 1:
        return images, (rng.random((samples, 1, *size)) > 0.6).astype(np.float32)
    return images, rng.integers(channels, size=(samples, *size))


def cut(part, images, masks):
    return [part.cut(images)], [part.cut(masks, axis=2 if masks.ndim == images.ndim else 1)]


def assert_close(found, expected, what, scale=None):
    scale = np.abs(expected).max() if scale is None else scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * scale, err_msg=what)


def assert_gradients_close(found, expected):
    assert found.keys() == expected.keys()
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    for name in expected:
        assert_close(found[name], expected[name], name, largest)


def test_shares_differ_by_one_row_at_most():
    assert cuts(45, 4) == [0, 11, 22, 33, 45]
    assert cuts(4, 4) == [0, 1, 2, 3, 4]
    for rows in range(4, 99):
        shares = np.diff(cuts(rows, 4))
        assert shares.sum() == rows
        assert shares.max() - shares.min() <= 1


def test_four_ranks():
    command = [*mpiexec(4), sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    chosen = "odd or volumes or drawn or fewest"
    result = subprocess.run(
        [*command, "--with-mpi", "-m", "mpi", "-k", chosen, __file__],
        env=environment_for(4, synthetic.clean_environment() | {"OMP_NUM_THREADS": "1"}),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("6 passed") == 4


@pytest.mark.mpi
@pytest.mark.parametrize("name", NETWORKS)
def test_one_network_on_all_ranks(name, world):
    alone, network = built(*NETWORKS[name]), built(*NETWORKS[name])
    part = decompose(network, world)
    images, masks = batch(alone)
    arrays = cut(part, images, masks)
    assert_close(part.gather(part.predict(arrays[0]))[0], alone.predict([images])[0], "prediction")
    assert_gradients_close(part.gradients(*arrays), alone.gradients([images], [masks]))
    for step in range(3):
        found, expected = part.train_batch(*arrays), alone.train_batch([images], [masks])
        assert found.keys() == expected.keys() == {"loss", "accuracy", "dice"}
        for key in found:
            assert found[key] == pytest.approx(expected[key], rel=TOLERANCE), (step, key)
    assert part.evaluate(*arrays, batch_size=1) == pytest.approx(
        alone.evaluate([images], [masks], batch_size=1), rel=TOLERANCE
    )
    # What the part has learned is the network's, and the same on every rank.
    assert_close(network.parameter_vector, alone.parameter_vector, "parameters")
    assert_close(network.statistics_vector, alone.statistics_vector, "statistics", 1)
    assert len(set(world.allgather_object(network.parameter_vector.tobytes()))) == 1


@pytest.mark.mpi
def test_repeated_training_gives_the_same_bits(world):
    results = []
    for _ in range(2):
        network = built(lambda: unet((1, 26, 20), normalization=True), "binary_cross_entropy+dice")
        part = decompose(network, world)
        losses = [part.train_batch(*cut(part, *batch(network)))["loss"] for _ in range(3)]
        results.append((losses, network.parameter_vector.tobytes()))
    assert results[0] == results[1]


def drawn_layer(rng, x, dimensions):
    """A layer over x with options drawn for its rows, and plain ones for the other axes."""
    others = dimensions - 1

    def one(low, high, other):
        return (int(rng.integers(low, high)), *(other,) * others)

    kernel, stride, dilation = one(1, 8, 2), one(1, 4, 1), one(1, 4, 1)
    match rng.integers(5):
        case 0:
            return CONVOLUTIONS[dimensions](x, 3, kernel, stride, one(0, 6, 1), dilation)
        case 1:
            extra = (int(rng.integers(max(stride[0], dilation[0]))), *(0,) * others)
            return TRANSPOSED[dimensions](x, 3, kernel, stride, one(0, 4, 0), dilation, output_padding=extra)
        case 2 | 3 as kind:
            pool = POOLS[("MaxPool", "AveragePool")[kind - 2], dimensions]
            padding = (int(rng.integers(kernel[0] // 2 + 1)), *(1,) * others)
            return pool(x, kernel, stride, padding)
        case _:
            kind = UPSAMPLINGS[dimensions]
            return kind(x, one(1, 5, 2), str(rng.choice(["nearest", kind.linear])))


@pytest.mark.mpi
def test_drawn_layers(world):
    """Also slabs thinner than what a layer needs of its neighbours, so that rows come from several ranks."""
    rng, tried = np.random.default_rng(11), set()
    while len(tried) < 60:
        dimensions = int(rng.integers(1, 4))
        x = eddl.Input((2, int(rng.integers(4, 30)), *(4,) * (dimensions - 1)))
        try:
            y = drawn_layer(rng, CONVOLUTIONS[dimensions](x, 2, 1), dimensions)
        except DhhpcError:  # nothing is left of so few rows
            continue
        network = eddl.Model([x], [y])
        network.build(eddl.SGD(), ["mean_squared_error"])
        if y.shape[1] < world.size:
            continue
        part = decompose(network, world)
        images, targets = (rng.normal(size=(2, *layer.shape)).astype(np.float32) for layer in (x, y))
        what = f"{y} of {x.shape}: {y.configuration()}"
        expected = network.predict([images])[0]
        assert_close(part.predict([part.cut(images)])[0], part.cut(expected), what, np.abs(expected).max())
        gradients = network.gradients([images], [targets])
        assert_gradients_close(part.gradients([part.cut(images)], [part.cut(targets)]), gradients)
        tried.add(what)


@pytest.mark.mpi
@pytest.mark.parametrize("shape", [(3, 512, 512), (1, 128, 64, 64)])
def test_memory_falls_with_the_ranks(shape, world):
    network = built(lambda: unet(shape, channels=[16, 32, 64], normalization=True), "binary_cross_entropy")
    part = decompose(network, world)
    for training, most in ((True, 1.3), (False, 1.8)):
        alone = network.make_plan(1, [shape], training).size
        mine = part.make_plan(1, [part.inputs[0].shape], training).size
        # Beside its share a rank holds other ranks' rows, and for one layer at a time its input again.
        assert mine < most * alone / world.size


@pytest.mark.mpi
def test_images_of_other_sizes(world):
    network = built(lambda: unet((1, 16, 16), channels=[4, 8]), "binary_cross_entropy")
    images = np.random.default_rng(1).normal(size=(1, 1, 38, 22)).astype(np.float32)
    part = decompose(network, world, size=(38, 22))
    predicted = part.gather(part.predict([part.cut(images)]))[0]
    assert_close(predicted, network.predict([images])[0], "prediction")
    with pytest.raises(DhhpcError, match=rf"rank {world.rank} of {world.size} takes \d+ rows, found 38"):
        part.predict([images])


@pytest.mark.mpi
def test_too_few_rows_name_the_fewest(world):
    network = built(lambda: unet((1, 8, 8), channels=[4, 4, 4, 4]), "binary_cross_entropy")
    with pytest.raises(DhhpcError) as error:
        decompose(network, world)
    assert f"too few for {world.size} ranks; give images of at least {8 * world.size} rows" in str(
        error.value
    )
    decompose(network, world, size=(8 * world.size, 8))


@pytest.mark.mpi
def test_what_cannot_be_cut(world):
    x = eddl.Input((2, 16, 16))
    for y in (
        eddl.Dense(eddl.Flatten(x), 3),
        eddl.GlobalAveragePool(x),
        eddl.InstanceNormalization(x),
        eddl.LayerNormalization(x),
        eddl.ReduceMean(x, 1),
    ):
        network = eddl.Model([x], [y])
        network.build()
        with pytest.raises(DhhpcError, match="takes all rows of an image together"):
            decompose(network, world)
    network = eddl.Model([x], [eddl.Conv2D(x, 1, 3)])
    with pytest.raises(DhhpcError, match="call build"):
        decompose(network, world)
    network.build(memory="low")
    with pytest.raises(DhhpcError, match="memory 'low' cannot be decomposed"):
        decompose(network, world)
    dropped = eddl.Model([x], [eddl.Dropout(eddl.Conv2D(x, 1, 3), 0.5)])
    dropped.build(eddl.SGD(), ["mean_squared_error"])
    part, images = decompose(dropped, world), np.ones((1, 2, 16, 16), np.float32)
    assert part.predict([part.cut(images)])[0].shape == (1, 1, 16 // world.size, 16)
    with pytest.raises(DhhpcError, match="leave it out for training"):
        part.gradients([part.cut(images)], [part.cut(images[:, :1])])


@pytest.mark.mpi
@pytest.mark.parametrize("where", ["input", "weight", "target"])
def test_a_loss_that_is_no_number_is_told_alike_everywhere(where, world):
    network = built(lambda: unet((1, 16, 16)), "mean_squared_error")
    images, masks = batch(network)
    if where == "input":
        images[1, 0, -1, 3] = np.nan  # the last rank's
    elif where == "target":
        masks[0, 0, 0, 3] = np.inf
    else:
        network.parameters()["conv2d_3.weight"][0] = np.float32(3e38)
    part = decompose(network, world)
    with pytest.raises(eddl.NotFiniteError) as error:
        part.train_batch(*cut(part, images, masks))
    said = str(error.value)
    assert len(set(world.allgather_object(said))) == 1
    assert {
        "input": "sample 2 of the batch holds NaN or infinity in input image",
        "target": "sample 1 of the batch holds NaN or infinity in the target of mask",
        "weight": "the first NaN or infinity came out of layer conv2d_3 (Conv2D) in the forward pass",
    }[where] in said
