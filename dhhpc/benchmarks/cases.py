"""What is measured: a line a case. `own_side` and `torch_side` know how each kind of case is run.

A case is data only, so that each side can look it up by its name in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from dhhpc.eddl import Model
from dhhpc.eddl.graph import Layer, Shape
from dhhpc.eddl.layers import Dense
from dhhpc.eddl.layers.convolution import Conv, ConvTranspose

Pair = tuple[int, int]
FLOAT_BYTES = 4
# Of the training cases: noise must not drive a network without normalisation to infinity.
LEARNING_RATE = 1e-4
DIRECTIONS = ("forward", "backward-data", "backward-weights")


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        name: of its own; `--only` selects by parts of it.
        own_processes: it is run in processes of its own, whose peak memory is reported.
    """

    name: str
    own_processes: ClassVar[bool] = False

    def operations(self) -> int:
        """Additions and multiplications of one call by the definition; 0 where memory is the limit."""
        return 0

    def bytes(self) -> int:
        """Bytes of the arrays that one call must read or write, each counted once."""
        raise NotImplementedError


@dataclass(frozen=True)
class Convolution(Case):
    """One direction of a two-dimensional convolution, padded by kernel // 2."""

    direction: str
    batch: int
    channels: int
    kernels: int
    size: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    groups: int = 1

    @property
    def padding(self) -> Pair:
        return self.kernel[0] // 2, self.kernel[1] // 2

    @property
    def x_shape(self) -> Shape:
        return self.batch, self.channels, *self.size

    @property
    def weight_shape(self) -> Shape:
        return self.kernels, self.channels // self.groups, *self.kernel

    @property
    def out_shape(self) -> Shape:
        rows, columns = (
            (self.size[i] + 2 * self.padding[i] - self.kernel[i]) // self.stride[i] + 1 for i in (0, 1)
        )
        return self.batch, self.kernels, rows, columns

    def operations(self) -> int:
        _, *taps = self.weight_shape
        return 2 * product(self.out_shape) * product(taps)

    def bytes(self) -> int:
        return FLOAT_BYTES * sum(map(product, (self.x_shape, self.weight_shape, self.out_shape)))


@dataclass(frozen=True)
class AdamStep(Case):
    """One step of Adam over a flat vector. `fused`: against the peer's fused variant, not its default."""

    parameters: int
    fused: bool = False

    def bytes(self) -> int:
        return 7 * FLOAT_BYTES * self.parameters  # 4 vectors read, 3 of them written


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Case):
    """Loss and gradient from logits (batch, classes) and class indices."""

    batch: int
    classes: int

    def bytes(self) -> int:
        return 2 * FLOAT_BYTES * self.batch * self.classes


@dataclass(frozen=True)
class Dropout(Case):
    """Forward and backward, at rate 0.5."""

    shape: Shape

    def bytes(self) -> int:
        return 4 * FLOAT_BYTES * product(self.shape)


@dataclass(frozen=True)
class StackedLSTM(Case):
    """Forward, mean squared error and backward of so many LSTM layers, as wide as their input."""

    layers: int
    units: int
    batch: int
    steps: int

    def operations(self) -> int:
        forward = 2 * self.batch * self.steps * 4 * self.units * 2 * self.units
        return 3 * self.layers * forward - forward // 2  # nobody asks for the gradient by the sequences

    def bytes(self) -> int:
        states = self.batch * self.steps * self.units * 6  # input, four gates, output
        return 3 * FLOAT_BYTES * self.layers * (states + 8 * self.units**2)


@dataclass(frozen=True)
class Network(Case):
    """A network of the zoo."""

    network: str
    batch: int
    input_shape: Shape
    classes: int
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    def create(self) -> Model:
        from dhhpc import zoo

        return zoo.create(self.network, self.input_shape, self.classes, **self.options)

    def forward_operations(self, model: Model) -> list[int]:
        """Operations of each layer that multiplies, in order."""
        return [self.batch * count for count in map(layer_operations, model.layers) if count]

    def forward_bytes(self, model: Model) -> int:
        """Bytes of every layer's inputs, output and parameters."""
        arrays = [
            self.batch * sum(product(parent.shape) for parent in (*layer.parents, layer))
            + sum(product(parameter.shape) for parameter in layer.parameters())
            for layer in model.layers
            if layer.parents and not layer.view
        ]
        return FLOAT_BYTES * sum(arrays)


@dataclass(frozen=True)
class Training(Network):
    """One step: forward, loss, backward, and SGD with momentum.

    Bytes are those of a step whose layers are not fused: forward each array once, backward twice.
    """

    own_processes = True

    def operations(self) -> int:
        first, *others = self.forward_operations(self.create())
        return 2 * first + 3 * sum(others)  # nobody asks for the gradient by the images

    def bytes(self) -> int:
        return 3 * self.forward_bytes(self.create())


@dataclass(frozen=True)
class Inference(Network):
    """One prediction."""

    own_processes = True

    def operations(self) -> int:
        return sum(self.forward_operations(self.create()))

    def bytes(self) -> int:
        return self.forward_bytes(self.create())


def product(extents: Sequence[int]) -> int:
    return int(np.prod(extents, dtype=np.int64))


def layer_operations(layer: Layer) -> int:
    """Operations of a layer that multiplies, forward, for one sample; 0 for any other."""
    match layer:
        case Conv():
            return 2 * product(layer.shape[1:]) * product(layer.weight_shape())
        case ConvTranspose():
            return 2 * product(layer.parents[0].shape[1:]) * product(layer.weight_shape())
        case Dense():
            return 2 * layer.parents[0].shape[0] * layer.units
    return 0


def convolutions(
    batch: int, channels: int, kernels: int, size: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[Case]:
    """The three directions of a square convolution."""
    by = f"/{stride}" if stride > 1 else ""
    kind = "depthwise " if groups > 1 else ""
    name = f"{kind}convolution {kernel}x{kernel}{by} {channels}-{kernels}@{size}"
    return [
        Convolution(
            f"{name} {direction}",
            direction,
            batch,
            channels,
            kernels,
            (size, size),
            (kernel, kernel),
            (stride, stride),
            groups,
        )
        for direction in DIRECTIONS
    ]


CASES: list[Case] = [
    *convolutions(8, 64, 64, 112, 3),
    *convolutions(8, 64, 64, 56, 3),
    *convolutions(8, 128, 128, 56, 3),
    *convolutions(8, 256, 256, 28, 3),
    *convolutions(8, 512, 512, 14, 3),
    *convolutions(8, 512, 512, 7, 3),
    *convolutions(4, 3, 64, 224, 3),
    *convolutions(8, 3, 64, 224, 7, stride=2),
    *convolutions(8, 64, 128, 56, 3, stride=2),
    *convolutions(8, 256, 512, 14, 3, stride=2),
    *convolutions(8, 64, 256, 56, 1),
    *convolutions(8, 256, 64, 56, 1),
    *convolutions(8, 512, 512, 14, 1),
    *convolutions(8, 64, 128, 56, 1, stride=2),
    *convolutions(8, 64, 64, 112, 3, groups=64),
    *convolutions(8, 256, 256, 28, 3, groups=256),
    *convolutions(8, 128, 128, 56, 3, stride=2, groups=128),
    AdamStep("adam 25M", 25_000_000),
    AdamStep("adam 25M fused", 25_000_000, fused=True),
    SoftmaxCrossEntropy("softmax cross-entropy 4096x10000", 4096, 10_000),
    Dropout("dropout 8x64x112x112", (8, 64, 112, 112)),
    StackedLSTM("lstm 2x512 batch 32 steps 50", 2, 512, 32, 50),
    Training("training resnet18 8x3x224x224", "resnet18", 8, (3, 224, 224), 1000),
    Training("training unet 2x1x256x256", "unet", 2, (1, 256, 256), 1),
    Training("training vgg16 4x3x224x224", "vgg16", 4, (3, 224, 224), 1000),
    Training("training mnist 100x1x28x28", "convnet", 100, (1, 28, 28), 10),
    Training("training unet 1x1x64x64x64", "unet", 1, (1, 64, 64, 64), 1, {"channels": [16, 32, 64, 128]}),
    Inference("inference resnet18 1x3x224x224", "resnet18", 1, (3, 224, 224), 1000),
    Inference("inference unet 1x1x256x256", "unet", 1, (1, 256, 256), 1),
]
