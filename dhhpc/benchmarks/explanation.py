"""Which algorithms the kernels choose for the convolutions of the benchmark's networks."""

from __future__ import annotations

from collections.abc import Sequence

from dhhpc.benchmarks.cases import Case, Convolution, Network
from dhhpc.eddl.graph import Shape
from dhhpc.eddl.layers.convolution import Conv


def explain(cases: Sequence[Case]) -> list[dict[str, str]]:
    """A row a convolution of `cases`: where it stands, its shapes, and the algorithm of each direction."""
    rows = []
    for case in cases:
        if isinstance(case, Network):
            model = case.create()
            rows += [
                {"case": case.name, "layer": layer.describe()}
                | explain_one((case.batch, *layer.parents[0].shape), layer.weight_shape(), *layer.geometry())
                for layer in model.layers
                if isinstance(layer, Conv)
            ]
        elif isinstance(case, Convolution) and case.direction == "forward":
            geometry = (case.stride, case.padding, (1, 1), case.groups)
            name = case.name.removesuffix(" forward")
            rows.append({"case": name, "layer": ""} | explain_one(case.x_shape, case.weight_shape, *geometry))
    return rows


def explain_one(
    x_shape: Shape,
    weight_shape: Shape,
    stride: Shape,
    padding: Shape,
    dilation: Shape,
    groups: int,
) -> dict[str, str]:
    import dhhpc_kernels

    shapes = {
        "input": "x".join(map(str, x_shape)),
        "weights": "x".join(map(str, weight_shape)),
        "stride": "x".join(map(str, stride)),
    }
    kernels = dhhpc_kernels.backend("cpu")
    return shapes | kernels.explain_convolution(x_shape, weight_shape, stride, padding, dilation, groups)
