"""Upsampling in one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from dhhpc.eddl.graph import AXES, Buffers, Layer, OnnxNode, Shape, extents
from dhhpc.eddl.layers.reshaping import constant_node


class UpSampling(Layer):
    """Enlarges by a whole factor.

    Args:
        parent: layer of shape (channels, length), (channels, height, width) or (channels, depth, height,
            width).
        scale: one number or one an axis.
        mode: "nearest", or linear along each axis ("linear" of lines, "bilinear" of images, "trilinear" of
            volumes) with pixel centres at half-integers (PyTorch's align_corners=False).
    """

    options = ("scale", "mode")
    operator = "Resize"
    dimensions: ClassVar[int]
    linear: ClassVar[str]

    def __init__(
        self, parent: Layer, scale: int | Sequence[int] = 2, mode: str = "nearest", name: str | None = None
    ) -> None:
        self.name = name
        self.scale, self.mode = extents(scale, self.dimensions, "scale"), mode
        if mode not in ("nearest", self.linear):
            raise self.refuse(f"mode {mode!r} is unknown; choose nearest or {self.linear}")
        if min(self.scale) < 1:
            raise self.refuse(f"scale {self.scale} must be at least 1")
        super().__init__(parent, name=name)

    def output_shape(self, *shapes: Shape) -> Shape:
        (shape,) = shapes
        if len(shape) != 1 + self.dimensions:
            axes = ", ".join(("channels", *AXES[self.dimensions]))
            raise self.refuse(f"input of shape {shape} where ({axes}) is expected")
        return (shape[0], *(extent * scale for extent, scale in zip(shape[1:], self.scale, strict=True)))

    def repeats(self, buffers: Buffers) -> bool:
        return True

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        kernels.upsample_forward(buffers.inputs[0], buffers.output, self.mode)

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        kernels.upsample_backward(buffers.grad_output, buffers.grad_inputs[0], self.mode)

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        from onnx.helper import make_node

        scales = f"{output}.scales"
        linear = self.mode == self.linear
        values = np.array([1, 1, *self.scale], np.float32)
        return [
            constant_node(scales, values),
            make_node(
                self.operator,
                [inputs[0], "", scales],
                [output],
                name=self.name,
                mode="linear" if linear else "nearest",
                coordinate_transformation_mode="half_pixel" if linear else "asymmetric",
                nearest_mode="floor",
            ),
        ]

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        axes = len(node.layers[0].shape) + 1
        scales = next((constant for constant in node.constants if constant.size == axes), None)
        whole = scales is not None and np.array_equal(scales, np.round(scales)) and np.all(scales[:2] == 1)
        expected = {b"linear": b"half_pixel", b"nearest": b"asymmetric"}
        mode = node.attributes.get("mode", b"nearest")
        transformation = node.attributes.get("coordinate_transformation_mode", b"half_pixel")
        kind = UPSAMPLINGS.get(axes - 2)
        if scales is None or kind is None or not whole or expected.get(mode) != transformation:
            raise node.refuse(
                "only nearest (asymmetric) and linear (half_pixel) upsampling by whole factors is read"
            )
        scale = [int(number) for number in scales[2:]]
        return kind(node.layers[0], scale, kind.linear if mode == b"linear" else "nearest")


class UpSampling1D(UpSampling):
    """`UpSampling` of lines, (channels, length)."""

    dimensions, linear = 1, "linear"


class UpSampling2D(UpSampling):
    """`UpSampling` of images, (channels, height, width)."""

    dimensions, linear = 2, "bilinear"


class UpSampling3D(UpSampling):
    """`UpSampling` of volumes, (channels, depth, height, width)."""

    dimensions, linear = 3, "trilinear"


UPSAMPLINGS: dict[int, type[UpSampling]] = {1: UpSampling1D, 2: UpSampling2D, 3: UpSampling3D}
