"""Convolution and transposed convolution in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

from dhhpc.eddl.graph import AXES, Buffers, Layer, OnnxNode, Parameter, Shape, extents


class ConvolutionLayer(Layer):
    """What both convolutions share: options, parameters, and the four kernels of their family."""

    backward_uses = frozenset({"inputs"})
    family: ClassVar[str]
    dimensions: ClassVar[int]

    filters: int
    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    bias: bool
    initializer: str

    def spatial_size(self, shape: Shape) -> Shape:
        raise NotImplementedError

    def weight_shape(self) -> Shape:
        raise NotImplementedError

    def fan(self) -> tuple[int, int]:
        raise NotImplementedError

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 1 + self.dimensions:
            axes = ", ".join(("channels", *AXES[self.dimensions]))
            raise self.refuse(f"input of shape {shape} where ({axes}) is expected")
        if self.groups < 1 or shape[0] % self.groups or self.filters % self.groups:
            raise self.refuse(
                f"groups {self.groups} must divide {shape[0]} channels and {self.filters} filters"
            )
        size = self.spatial_size(shape)
        if min(size) < 1:
            found = "x".join(map(str, shape[1:]))
            raise self.refuse(f"nothing is left of an input of {found}; give a larger one")
        return (self.filters, *size)

    def check_options(self) -> None:
        positive = self.kernel + self.stride + self.dilation + (self.filters, self.groups)
        if min(positive) < 1 or min(self.padding) < 0:
            raise self.refuse("filters, kernel, stride, dilation and groups start at 1, padding at 0")

    def parameters(self) -> list[Parameter]:
        weight = Parameter("weight", self.weight_shape(), self.initializer, self.fan())
        return [weight, Parameter("bias", (self.filters,), "zeros")] if self.bias else [weight]

    def geometry(self) -> tuple[Shape, Shape, Shape, int]:
        return self.stride, self.padding, self.dilation, self.groups

    def workspace(self, kernels: ModuleType, batch: int, shapes: Sequence[Shape]) -> int:
        size = getattr(kernels, f"{self.family}_workspace")
        return int(size((batch, *shapes[0]), self.weight_shape(), *self.geometry()))

    def repeats(self, buffers: Buffers) -> bool:
        return True

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        weight, *bias = buffers.parameters
        forward = getattr(kernels, f"{self.family}_forward")
        forward(
            buffers.inputs[0],
            weight,
            bias[0] if bias else None,
            buffers.output,
            buffers.workspace,
            *self.geometry(),
        )

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        x, grad_output, workspace = buffers.inputs[0], buffers.grad_output, buffers.workspace
        grad_weight, *grad_bias = buffers.gradients
        backward_weights = getattr(kernels, f"{self.family}_backward_weights")
        backward_weights(
            x, grad_output, grad_weight, grad_bias[0] if grad_bias else None, workspace, *self.geometry()
        )
        if buffers.grad_inputs[0] is not None:
            backward_data = getattr(kernels, f"{self.family}_backward_data")
            backward_data(
                grad_output, buffers.parameters[0], buffers.grad_inputs[0], workspace, *self.geometry()
            )

    def onnx_attributes(self) -> dict[str, Any]:
        return {
            "kernel_shape": self.kernel,
            "strides": self.stride,
            "pads": self.padding * 2,
            "dilations": self.dilation,
            "group": self.groups,
        }

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        attributes = self.onnx_attributes()
        return [make_node(self.operator, inputs + parameters, [output], name=self.name, **attributes)]


class Conv(ConvolutionLayer):
    """Cross-correlation of the input with `filters` kernels, plus a bias a filter.

    Output extent along each axis: floor((extent + 2 padding - dilation (kernel - 1) - 1) / stride) + 1
    (Dumoulin and Visin, A guide to convolution arithmetic, 2016).

    Args:
        parent: layer of shape (channels, length), (channels, height, width) or (channels, depth, height,
            width).
        filters: number of output channels.
        kernel, stride, dilation: one number or one an axis.
        padding: zeros on each side, one number or one an axis, or "same": dilation (kernel - 1) / 2, which
            keeps the size at stride 1 and needs an odd kernel.
        groups: the channels fall into this many groups that are convolved apart; `channels` is depthwise.
        bias: add a bias; leave it out before a batch normalisation.
        initializer: a name of `dhhpc.eddl.initializers`.

    Raises:
        DhhpcError: the options do not fit the input's shape.
    """

    options = ("filters", "kernel", "stride", "padding", "dilation", "groups", "bias", "initializer")
    operator = "Conv"
    family = "convolution"

    def __init__(
        self,
        parent: Layer,
        filters: int,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = "same",
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        initializer: str = "he_normal",
        name: str | None = None,
    ) -> None:
        self.name = name
        self.filters, self.groups, self.bias, self.initializer = int(filters), int(groups), bias, initializer
        self.kernel = extents(kernel, self.dimensions, "kernel")
        self.stride = extents(stride, self.dimensions, "stride")
        self.dilation = extents(dilation, self.dimensions, "dilation")
        spans = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        if isinstance(padding, str):
            if padding != "same":
                raise self.refuse(f"padding {padding!r} is unknown; give 'same', a number or one an axis")
            if any(span % 2 for span in spans):
                raise self.refuse(f"padding 'same' needs an odd kernel, found {self.kernel}; give numbers")
            padding = [span // 2 for span in spans]
        self.padding = extents(padding, self.dimensions, "padding")
        self.check_options()
        super().__init__(parent, name=name)

    def spatial_size(self, shape: Shape) -> Shape:
        return tuple(
            (extent + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for extent, padding, dilation, kernel, stride in zip(
                shape[1:], self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    def weight_shape(self) -> Shape:
        return (self.filters, self.parents[0].shape[0] // self.groups, *self.kernel)

    def fan(self) -> tuple[int, int]:
        taps = math.prod(self.kernel)
        return self.weight_shape()[1] * taps, self.filters // self.groups * taps

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        weight, *bias = node.constants
        count = weight.ndim - 2
        return kind_of(cls, node, count)(
            node.layers[0],
            weight.shape[0],
            weight.shape[2:],
            node.numbers("strides", count, 1),
            node.symmetric_padding(count),
            node.numbers("dilations", count, 1),
            node.attributes.get("group", 1),
            bias=bool(bias),
        )


class ConvTranspose(ConvolutionLayer):
    """Transposed convolution: the gradient of a convolution with respect to its input, plus a bias a filter.

    Output extent along each axis: (extent - 1) stride - 2 padding + dilation (kernel - 1) + output_padding +
    1 (Dumoulin and Visin, A guide to convolution arithmetic, 2016).

    Args:
        parent: layer of shape (channels, length), (channels, height, width) or (channels, depth, height,
            width).
        filters: number of output channels.
        kernel, stride, padding, dilation, output_padding: one number or one an axis.
        groups, bias, initializer: as in Conv.

    Raises:
        DhhpcError: the options do not fit the input's shape.
    """

    options = (
        "filters",
        "kernel",
        "stride",
        "padding",
        "dilation",
        "groups",
        "output_padding",
        "bias",
        "initializer",
    )
    operator = "ConvTranspose"
    family = "transposed_convolution"

    def __init__(
        self,
        parent: Layer,
        filters: int,
        kernel: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        output_padding: int | Sequence[int] = 0,
        bias: bool = True,
        initializer: str = "he_normal",
        name: str | None = None,
    ) -> None:
        self.name = name
        self.filters, self.groups, self.bias, self.initializer = int(filters), int(groups), bias, initializer
        self.kernel = extents(kernel, self.dimensions, "kernel")
        self.stride = extents(stride, self.dimensions, "stride")
        self.padding = extents(padding, self.dimensions, "padding")
        self.dilation = extents(dilation, self.dimensions, "dilation")
        self.output_padding = extents(output_padding, self.dimensions, "output_padding")
        self.check_options()
        for extra, steps in zip(
            self.output_padding, zip(self.stride, self.dilation, strict=True), strict=True
        ):
            if not 0 <= extra < max(steps):
                raise self.refuse(
                    f"output_padding {self.output_padding} must be smaller than stride or dilation"
                )
        super().__init__(parent, name=name)

    def spatial_size(self, shape: Shape) -> Shape:
        return tuple(
            (extent - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
            for extent, stride, padding, dilation, kernel, extra in zip(
                shape[1:],
                self.stride,
                self.padding,
                self.dilation,
                self.kernel,
                self.output_padding,
                strict=True,
            )
        )

    def weight_shape(self) -> Shape:
        return (self.parents[0].shape[0], self.filters // self.groups, *self.kernel)

    def fan(self) -> tuple[int, int]:
        # Each output pixel receives kernel / stride taps a dimension from every input channel of its group.
        taps = max(1, math.prod(self.kernel) // math.prod(self.stride))
        return self.parents[0].shape[0] // self.groups * taps, self.filters // self.groups * taps

    def onnx_attributes(self) -> dict[str, Any]:
        return super().onnx_attributes() | {"output_padding": self.output_padding}

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        weight, *bias = node.constants
        groups = node.attributes.get("group", 1)
        count = weight.ndim - 2
        return kind_of(cls, node, count)(
            node.layers[0],
            weight.shape[1] * groups,
            weight.shape[2:],
            node.numbers("strides", count, 1),
            node.symmetric_padding(count),
            node.numbers("dilations", count, 1),
            groups,
            node.numbers("output_padding", count, 0),
            bias=bool(bias),
        )


class Conv1D(Conv):
    """`Conv` of lines, (channels, length)."""

    dimensions = 1


class Conv2D(Conv):
    """`Conv` of images, (channels, height, width)."""

    dimensions = 2


class Conv3D(Conv):
    """`Conv` of volumes, (channels, depth, height, width)."""

    dimensions = 3


class ConvTranspose1D(ConvTranspose):
    """`ConvTranspose` of lines, (channels, length)."""

    dimensions = 1


class ConvTranspose2D(ConvTranspose):
    """`ConvTranspose` of images, (channels, height, width)."""

    dimensions = 2


class ConvTranspose3D(ConvTranspose):
    """`ConvTranspose` of volumes, (channels, depth, height, width)."""

    dimensions = 3


CONVOLUTIONS: dict[tuple[str, int], type[Any]] = {
    (kind.operator, kind.dimensions): kind
    for kind in (Conv1D, Conv2D, Conv3D, ConvTranspose1D, ConvTranspose2D, ConvTranspose3D)
}


def kind_of(family: type[ConvolutionLayer], node: OnnxNode, dimensions: int) -> type[Any]:
    """The layer of a family for so many dimensions.

    Raises:
        DhhpcError: there is none.
    """
    kind = CONVOLUTIONS.get((family.operator, dimensions))
    if kind is None:
        raise node.refuse(f"{dimensions} dimensions; 1 to 3 are supported")
    return kind
