"""Every kernel once, with the types that models call it with: fills the cache of compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dhhpc.eddl import layers
from dhhpc.eddl.graph import Layer, Shape
from dhhpc.eddl.losses import LOSSES
from dhhpc.eddl.model import Model
from dhhpc.eddl.optimizers import SGD, AdaDelta, AdaGrad, Adam, AdaMax, Optimizer, RMSProp

VECTOR: Shape = (4,)
WORDS: Shape = (6,)
SEQUENCE: Shape = (6, 4)
LINE: Shape = (4, 8)
IMAGE: Shape = (4, 8, 8)
MANY_CHANNELS: Shape = (16, 8, 8)
MANY_TILES: Shape = (16, 32, 32)
LARGE: Shape = (32, 128, 128)
WIDE: Shape = (64, 4, 4)
VOLUME: Shape = (4, 8, 8, 8)

# From a layer of the given shape to one whose forward and backward kernels are wanted.
EXAMPLES: list[tuple[Shape, Callable[[Layer], Layer]]] = [
    (LINE, lambda x: layers.Conv1D(x, 4, 3, 2)),
    (IMAGE, lambda x: layers.Conv2D(x, 4, 3, 2)),  # directly
    (IMAGE, lambda x: layers.Conv2D(x, 4, 3, groups=4)),  # depthwise, from copies and straight from x
    (MANY_TILES, lambda x: layers.Conv2D(x, 16, 3, groups=16)),
    # By Winograd's algorithm, in both orders of its products, and at a stride.
    (MANY_CHANNELS, lambda x: layers.Conv2D(x, 16, 3)),
    (MANY_TILES, lambda x: layers.Conv2D(x, 16, 3)),
    (LARGE, lambda x: layers.Conv2D(x, 64, 3, 2)),
    (WIDE, lambda x: layers.Conv2D(x, 64, 3, 2)),  # as an implicit matrix product
    (WIDE, lambda x: layers.Conv2D(x, 64, 1)),  # as a product of pixels
    (WIDE, lambda x: layers.Conv2D(x, 64, 1, 2)),  # by sums along pixels
    (VOLUME, lambda x: layers.Conv3D(x, 4, 3, 2)),
    (LINE, lambda x: layers.ConvTranspose1D(x, 4, 2, 2)),
    (IMAGE, lambda x: layers.ConvTranspose2D(x, 4, 2, 2)),
    (VOLUME, lambda x: layers.ConvTranspose3D(x, 4, 2, 2)),
    (VECTOR, lambda x: layers.Dense(x, 3)),
    (LINE, layers.MaxPool1D),
    (IMAGE, layers.MaxPool2D),
    (VOLUME, layers.MaxPool3D),
    (LINE, layers.AveragePool1D),
    (IMAGE, layers.AveragePool2D),
    (VOLUME, layers.AveragePool3D),
    (IMAGE, layers.GlobalAveragePool),
    (IMAGE, layers.GlobalMaxPool),
    (IMAGE, layers.BatchNormalization),
    (IMAGE, lambda x: layers.GroupNormalization(x, 2)),
    (IMAGE, layers.InstanceNormalization),
    (IMAGE, layers.LayerNormalization),
    (IMAGE, lambda x: layers.ReLU(layers.Sigmoid(x))),  # behind batch normalisation it is a part of it
    (IMAGE, layers.Sigmoid),
    (IMAGE, layers.Softmax),
    (VECTOR, layers.Softmax),
    (IMAGE, layers.ELU),
    (IMAGE, layers.GELU),
    (IMAGE, layers.SELU),
    (IMAGE, layers.Exponential),
    (IMAGE, layers.HardSigmoid),
    (IMAGE, layers.LeakyReLU),
    (IMAGE, layers.SiLU),
    (IMAGE, layers.Softplus),
    (IMAGE, layers.Softsign),
    (IMAGE, layers.Tanh),
    (IMAGE, lambda x: layers.Dropout(x, 0.5)),
    (IMAGE, lambda x: layers.Concat([x, x])),
    (IMAGE, lambda x: layers.Add([x, x])),
    (IMAGE, lambda x: layers.Multiply([x, x])),
    (IMAGE, lambda x: layers.Subtract([x, x])),
    (IMAGE, lambda x: layers.Maximum([x, x])),
    (IMAGE, lambda x: layers.ReduceMax(x, (1,))),
    (IMAGE, lambda x: layers.ReduceMean(x, (1,))),
    (IMAGE, lambda x: layers.ReduceSum(x, (1,))),
    (IMAGE, layers.Flatten),
    (LINE, lambda x: layers.UpSampling1D(x, 2, "linear")),
    (IMAGE, lambda x: layers.UpSampling2D(x, 2, "nearest")),
    (IMAGE, lambda x: layers.UpSampling2D(x, 2, "bilinear")),
    (VOLUME, lambda x: layers.UpSampling3D(x, 2, "trilinear")),
    # Takes whole numbers, so from the Input that comes before.
    (WORDS, lambda x: layers.Embedding(x.parents[0], 4, 3)),
    (SEQUENCE, lambda x: layers.LSTM(x, 3)),
    (SEQUENCE, lambda x: layers.GRU(x, 3)),
    (SEQUENCE, lambda x: layers.RNN(x, 3)),
    (SEQUENCE, lambda x: layers.RNN(x, 3, activation="relu")),
]
OPTIMIZERS: list[Callable[[], Optimizer]] = [
    SGD,
    lambda: SGD(momentum=0.9),
    Adam,
    RMSProp,
    lambda: RMSProp(momentum=0.9),
    AdaGrad,
    AdaDelta,
    AdaMax,
]


def warm_up() -> None:
    """Train and run a small model of each layer, loss and optimizer."""
    from dhhpc_kernels import jobs
    from dhhpc_kernels.cpu.peak import peak_gflops
    from dhhpc_kernels.spinning import spin

    for shape, example in EXAMPLES:
        x = layers.Input(shape)
        # Batch normalisation learns, so that gradients are wanted by the example's input.
        run(Model([x], [example(layers.BatchNormalization(x))]), "mean_squared_error", SGD())
    for name, loss in LOSSES.items():
        for shape in (VECTOR, IMAGE):
            for activation in (loss.activation or layers.Sigmoid, layers.ReLU):
                x = layers.Input(shape)
                model = Model([x], [activation(layers.BatchNormalization(x))])
                run(model, name, SGD())
                if loss.takes_classes:
                    model.train_batch([np.ones((2, *shape))], [np.zeros((2, *shape[1:]), np.int64)])
    for optimizer in OPTIMIZERS:
        x = layers.Input(VECTOR)
        run(Model([x], [layers.Dense(x, 2)]), "mean_squared_error", optimizer())
    peak_gflops(rounds=1, seconds=0)
    desk = jobs.new_desk()
    jobs.call_back(desk)
    jobs.serve(desk, 1)
    jobs.await_end(desk, 1)
    jobs.end(desk)
    jobs.ring(desk)
    spin(desk, 0, 1)


def run(model: Model, loss: str, optimizer: Optimizer) -> None:
    model.build(optimizer, [loss])
    inputs: Sequence[np.ndarray] = [np.ones((2, *layer.shape), np.float32) for layer in model.inputs]
    model.train_batch(inputs, [np.ones((2, *layer.shape), np.float32) for layer in model.outputs])
    model.predict(inputs)
