"""Rows: which of them a rank holds, and which it needs of a layer's input for those of its output.

Rows lie along the first axis behind the channels: of an image's height, a volume's depth, a line's length.
Places are those of the whole image, also outside of it, where a layer pads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dhhpc.eddl.graph import Layer
from dhhpc.eddl.layers.activations import ActivationLayer
from dhhpc.eddl.layers.convolution import Conv, ConvTranspose
from dhhpc.eddl.layers.dropout import Dropout
from dhhpc.eddl.layers.merging import MergingLayer
from dhhpc.eddl.layers.normalization import BatchNormalization
from dhhpc.eddl.layers.pooling import PoolingLayer
from dhhpc.eddl.layers.reshaping import Input
from dhhpc.eddl.layers.upsampling import UpSampling

# Each row of the output is made of the same row of the inputs, and of statistics that the ranks sum.
BY_ROW: tuple[type[Layer], ...] = (Input, ActivationLayer, MergingLayer, BatchNormalization, Dropout)


def cuts(rows: int, ranks: int) -> list[int]:
    """Where each rank's rows begin, and at the end the number of rows.

    It depends on nothing else, so arrays with equally many rows are cut alike wherever they stand in a
    network, and can be added or joined. The ranks' shares differ by one row at most.
    """
    return [rank * rows // ranks for rank in range(ranks + 1)]


@dataclass(frozen=True)
class Window:
    """What a layer computes some rows of its output from.

    Attributes:
        start, stop: rows of the input; none if they are equal.
        above, below: rows of zeros around them, which take the place of the layer's padding.
        first: the row of the whole output that is the first of what the layer makes of this; those before
            and behind the wanted ones are to be dropped.
    """

    start: int
    stop: int
    above: int
    below: int
    first: int

    @property
    def extent(self) -> int:
        """Rows that the layer gets."""
        return self.above + self.stop - self.start + self.below


def convolution_window(layer: Any, rows: int, first: int, last: int) -> Window:
    """A convolution gets what it pads as rows, and is to pad none itself: so it makes no row in vain."""
    start = first * layer.stride[0] - layer.padding[0]
    stop = (last - 1) * layer.stride[0] - layer.padding[0] + layer.dilation[0] * (layer.kernel[0] - 1) + 1
    above, below = max(0, min(stop, 0) - start), max(0, stop - max(start, rows))
    real = min(max(start, 0), rows)
    return Window(real, real + stop - start - above - below, above, below, first)


def pooling_window(layer: Any, rows: int, first: int, last: int) -> Window:
    """A pooling layer pads as ever: what it pads counts for nothing. Windows that lack rows are dropped."""
    kernel, stride, padding = layer.kernel[0], layer.stride[0], layer.padding[0]
    begin = max(0, first - -(-padding // stride))
    return Window(begin * stride, min(rows, (last - 1) * stride - padding + kernel), 0, 0, begin)


def transposed_window(layer: Any, rows: int, first: int, last: int) -> Window:
    """Row i of the input is spread over the rows i stride - padding + dilation tap of the output."""
    stride, padding = layer.stride[0], layer.padding[0]
    span = layer.dilation[0] * (layer.kernel[0] - 1)
    # The rows that are spread over the wanted ones, and at least as many as make them exist.
    start = max(0, min(-((span - padding - first) // stride), first // stride, rows - 1))
    end = span + layer.output_padding[0] + 1 - 2 * padding
    stop = max((last - 1 + padding) // stride + 1, -((end - last) // stride) + 1, start + 1)
    return Window(start, min(rows, stop), 0, 0, start * stride)


def upsampling_window(layer: Any, rows: int, first: int, last: int) -> Window:
    scale = layer.scale[0]
    if layer.mode == "nearest":
        return Window(first // scale, (last - 1) // scale + 1, 0, 0, first // scale * scale)
    # Row i lies between the rows floor((i + 1/2) / scale - 1/2) and the next; see `UpSampling`.
    above, below = ((2 * row + 1 - scale) // (2 * scale) for row in (first, last - 1))
    start = max(0, above)
    return Window(start, min(rows, below + 2), 0, 0, start * scale)


WINDOWS: list[tuple[type[Layer], Callable[[Any, int, int, int], Window]]] = [
    (Conv, convolution_window),
    (ConvTranspose, transposed_window),
    (PoolingLayer, pooling_window),
    (UpSampling, upsampling_window),
]


def window(layer: Layer, rows: int, first: int, last: int) -> Window:
    """What `layer`, one of `WINDOWS`, needs of an input with so many rows for the rows `first` to `last`
    (excluded) of its output."""
    find = next(find for kind, find in WINDOWS if isinstance(layer, kind))
    return find(layer, rows, first, last)


def check_layer(layer: Layer) -> None:
    """Refuse a layer that needs all rows of an image at once.

    Raises:
        DhhpcError: names it.
    """
    if not isinstance(layer, (*BY_ROW, *(kind for kind, _ in WINDOWS))):
        raise layer.refuse(
            f"{layer.class_name} takes all rows of an image together, so the image cannot be cut; choose "
            "a network without it, or train on patches"
        )
