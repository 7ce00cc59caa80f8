"""Every kernel once, with the types that models call it with: fills the cache of compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dhhpc.eddl.graph import Layer, Shape
from dhhpc.eddl.layers import (
    Add,
    AveragePool2D,
    BatchNormalization,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Flatten,
    GlobalAveragePool2D,
    Input,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    UpSampling2D,
)
from dhhpc.eddl.losses import LOSSES
from dhhpc.eddl.model import Model
from dhhpc.eddl.optimizers import SGD, Adam, Optimizer

IMAGE: Shape = (4, 8, 8)
MANY_CHANNELS: Shape = (16, 8, 8)
VECTOR: Shape = (4,)

# From a layer of the given shape to one whose forward and backward kernels are wanted.
EXAMPLES: list[tuple[Shape, Callable[[Layer], Layer]]] = [
    (IMAGE, lambda x: Conv2D(x, 4, 3, 2)),  # directly
    (MANY_CHANNELS, lambda x: Conv2D(x, 16, 3)),  # by Winograd's algorithm
    (IMAGE, lambda x: ConvTranspose2D(x, 4, 2, 2)),
    (VECTOR, lambda x: Dense(x, 3)),
    (IMAGE, lambda x: MaxPool2D(x, 2)),
    (IMAGE, lambda x: AveragePool2D(x, 2)),
    (IMAGE, GlobalAveragePool2D),
    (IMAGE, BatchNormalization),
    (IMAGE, ReLU),
    (IMAGE, Sigmoid),
    (IMAGE, Softmax),
    (IMAGE, lambda x: Concat([x, x])),
    (IMAGE, lambda x: Add([x, x])),
    (IMAGE, Flatten),
    (IMAGE, lambda x: UpSampling2D(x, 2, "nearest")),
    (IMAGE, lambda x: UpSampling2D(x, 2, "bilinear")),
]
OPTIMIZERS: list[Callable[[], Optimizer]] = [SGD, lambda: SGD(momentum=0.9), Adam]


def warm_up() -> None:
    """Train and run a small model of each layer, loss and optimizer."""
    for shape, example in EXAMPLES:
        x = Input(shape)
        # Batch normalisation learns, so that gradients are wanted by the example's input.
        run(Model([x], [example(BatchNormalization(x))]), "mean_squared_error", SGD())
    for name, loss in LOSSES.items():
        for activation in (loss.activation or Sigmoid, ReLU):
            x = Input(VECTOR)
            run(Model([x], [activation(Dense(x, 2))]), name, SGD())
    for optimizer in OPTIMIZERS:
        x = Input(VECTOR)
        run(Model([x], [Dense(x, 2)]), "mean_squared_error", optimizer())


def run(model: Model, loss: str, optimizer: Optimizer) -> None:
    model.build(optimizer, [loss])
    inputs: Sequence[np.ndarray] = [np.ones((2, *layer.shape), np.float32) for layer in model.inputs]
    model.train_batch(inputs, [np.ones((2, *layer.shape), np.float32) for layer in model.outputs])
    model.predict(inputs)
