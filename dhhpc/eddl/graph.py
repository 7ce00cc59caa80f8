"""The static graph: a layer is a node that knows its shape rule, forward, backward and ONNX name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dhhpc.errors import DhhpcError

Array = NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """What a layer asks for: a trained array, or a running statistic when `initializer` is a constant.

    Attributes:
        name: local name, `weight` in `conv2d_1.weight`.
        shape: of the array.
        initializer: a name of `dhhpc.eddl.initializers`.
        fan: (fan in, fan out), what the initializers scale by.
    """

    name: str
    shape: Shape
    initializer: str
    fan: tuple[int, int] = (1, 1)


@dataclass
class Randomness:
    """What the random numbers of a training step depend on, beside layer and element. One object a model.

    Attributes:
        seed: given to `Model.build`; saved with the model.
        step: steps that the optimizer has made, so a resumed run draws what the run would have drawn.
        first_sample: place of the batch's first sample in the batch of all ranks, so ranks draw what one rank
            with the whole batch would.
    """

    seed: int = 1
    step: int = 0
    first_sample: int = 0


@dataclass
class SumOverRanks:
    """How layers whose statistics are those of the batches of all ranks learn them. One object a model.

    All ranks run the same layers, so that their sums meet.

    Attributes:
        add: replaces a float64 vector in place by its sum over the ranks; None if every rank is by itself.
        share: what this rank's gradients are multiplied by before those of all ranks are summed; 0 if its
            batch stands for none.
    """

    add: Callable[[Array], None] | None = None
    share: float = 1.0

    def __call__(self, vector: Array) -> None:
        assert self.add is not None
        if self.share == 0:
            vector.fill(0)
        self.add(vector)

    def everywhere(self, condition: bool) -> bool:
        """Whether a condition holds on every rank."""
        failures = np.array([0.0 if condition else 1.0])
        if self.add is not None:
            self.add(failures)
        return not failures[0]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While inside, this rank is by itself."""
        add, self.add = self.add, None
        try:
            yield
        finally:
            self.add = add


@dataclass
class Buffers:
    """The arrays of one layer in one plan. A gradient is None where nothing needs it.

    `position` is the layer's among the model's layers. `grad_addend` is a second part of the output's
    gradient, which a layer that `adds_gradients` adds itself.
    """

    inputs: list[Array] = field(default_factory=list)
    output: Array = field(default_factory=lambda: np.empty(0, np.float32))
    grad_inputs: list[Array | None] = field(default_factory=list)
    grad_output: Array = field(default_factory=lambda: np.empty(0, np.float32))
    grad_addend: Array | None = None
    parameters: list[Array] = field(default_factory=list)
    gradients: list[Array] = field(default_factory=list)
    statistics: list[Array] = field(default_factory=list)
    saved: list[Array] = field(default_factory=list)
    workspace: Array = field(default_factory=lambda: np.empty(0, np.float32))
    randomness: Randomness = field(default_factory=Randomness)
    sum_over_ranks: SumOverRanks = field(default_factory=SumOverRanks)
    position: int = 0


class Layer:
    """A node of the graph. Shapes leave the batch out: (channels, height, width) or (features,).

    A subclass stores its options as attributes before it calls `super().__init__(*parents)`, lists them in
    `options`, and defines `output_shape`, `forward`, `backward`, `to_onnx` and `from_onnx`.

    Attributes:
        options: names of the constructor's options, which rebuild the layer.
        backward_uses: which of "inputs", "last input" and "output" `backward` reads; the plan keeps only
            those alive.
        in_place: the output may overwrite the first input, and the first input's gradient the output's.
        view: the output is the first input in another shape.
        writes_every_gradient: `backward` writes the gradient of every input, wanted or not.
        shares_gradient: the inputs have one gradient, which may lie in one place for all of them.
        adds_gradients: `backward` takes the output's gradient in two parts, see `Buffers`. If the layer is
            `in_place` too, the second input's gradient may overwrite the second part.
        operator, opset: of ONNX, and the first operator set whose definition fits.
    """

    options: ClassVar[tuple[str, ...]] = ()
    backward_uses: ClassVar[frozenset[str]] = frozenset()
    in_place: ClassVar[bool] = False
    view: ClassVar[bool] = False
    writes_every_gradient: ClassVar[bool] = False
    shares_gradient: ClassVar[bool] = False
    adds_gradients: ClassVar[bool] = False
    operator: ClassVar[str] = ""
    opset: ClassVar[int] = 1

    def __init__(self, *parents: Layer, name: str | None = None) -> None:
        for parent in parents:
            if not isinstance(parent, Layer):
                kind = type(self).__name__
                raise TypeError(f"{kind}: expected a layer as input, found {type(parent).__name__}")
        self.parents = parents
        self.name = name
        self.shape: Shape = self.output_shape(*(parent.shape for parent in parents))

    # -- what a subclass defines ---------------------------------------------------------------------------

    def output_shape(self, *shapes: Shape) -> Shape:
        """The output's shape for these input shapes; raises DhhpcError where they do not fit."""
        raise NotImplementedError

    def parameters(self) -> list[Parameter]:
        """The trained arrays, in the order in which `Buffers.parameters` holds them."""
        return []

    def statistics(self) -> list[Parameter]:
        """Arrays that training updates without a gradient."""
        return []

    def saved(self, batch: int, shapes: Sequence[Shape]) -> list[tuple[Shape, Any]]:
        """(shape, dtype) of what forward hands to backward beside inputs and output."""
        return []

    def workspace(self, kernels: ModuleType, batch: int, shapes: Sequence[Shape]) -> int:
        """Scratch that forward and backward need, in float32 numbers."""
        return 0

    @property
    def updates_early(self) -> bool:
        """Whether `backward_updating` may take the place of `backward`."""
        return False

    def repeats(self, buffers: Buffers) -> bool:
        """Whether all that `forward` and `backward` do is to call kernels, each time the same ones with the
        same arrays and numbers, so that a plan need not call the layer again to have them run."""
        return False

    def forward(self, kernels: ModuleType, buffers: Buffers, training: bool) -> None:
        raise NotImplementedError

    def backward(self, kernels: ModuleType, buffers: Buffers) -> None:
        raise NotImplementedError

    def backward_updating(
        self, kernels: ModuleType, buffers: Buffers, update: Callable[[Array, Array], None]
    ) -> None:
        """As `backward`, but calls update(a piece of a parameter, its gradient) in place of keeping gradients
        of large parameters. The pieces are contiguous; what is updated is not read any more."""
        raise NotImplementedError

    def to_onnx(self, inputs: list[str], output: str, parameters: list[str]) -> list[Any]:
        """The ONNX nodes that compute this layer at inference."""
        raise NotImplementedError

    @classmethod
    def from_onnx(cls, node: OnnxNode) -> Layer:
        """The layer that an ONNX node describes."""
        raise NotImplementedError

    # -- what every layer has ------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Layer, ...]:
        """The layers of the model that this one stands for in a plan, see `fusion`."""
        return (self,)

    @property
    def class_name(self) -> str:
        """The class of the layer of the network that this one is, or runs."""
        return type(self).__name__

    def keeps_input(self, number: int) -> bool:
        """Whether `backward` reads that input."""
        last = number == len(self.parents) - 1
        return "inputs" in self.backward_uses or (last and "last input" in self.backward_uses)

    def configuration(self) -> dict[str, Any]:
        """The options that rebuild this layer."""
        return {option: getattr(self, option) for option in self.options}

    def describe(self) -> str:
        return self.name or type(self).__name__

    def refuse(self, problem: str) -> DhhpcError:
        return DhhpcError(f"{self.describe()}: {problem}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()}, {'x'.join(map(str, self.shape))})"


@dataclass
class OnnxNode:
    """An ONNX node as `Layer.from_onnx` sees it: attributes decoded, constant inputs apart from layers."""

    operator: str
    attributes: dict[str, Any]
    layers: list[Layer]
    constants: list[Array]

    def numbers(self, name: str, count: int, default: int) -> tuple[int, ...]:
        """An attribute of `count` numbers such as `strides`."""
        value = tuple(int(number) for number in self.attributes.get(name, (default,) * count))
        if len(value) != count:
            raise self.refuse(f"{name} {list(value)} does not fit an input of {count} dimensions")
        return value

    def symmetric_padding(self, count: int) -> tuple[int, ...]:
        """`pads` of `count` dimensions, which must be symmetric."""
        pads = self.numbers("pads", 2 * count, 0)
        if (
            self.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
            or pads[:count] != pads[count:]
        ):
            raise self.refuse(f"padding {list(pads)} is not symmetric; export it with explicit equal pads")
        return pads[:count]

    def refuse(self, problem: str) -> DhhpcError:
        return DhhpcError(f"ONNX operator {self.operator}: {problem}")


# What an axis of a sample is called, by the number of axes behind the channels.
AXES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


def extents(value: int | Sequence[int], dimensions: int, what: str) -> tuple[int, ...]:
    """`value` as one number an axis; a single number stands for all."""
    if isinstance(value, int | np.integer):
        return (int(value),) * dimensions
    values = tuple(int(number) for number in value)
    if len(values) != dimensions:
        axes = ", ".join(AXES[dimensions])
        raise DhhpcError(f"{what}: {list(values)} must be one number or {dimensions} ({axes})")
    return values


def topological_order(inputs: Sequence[Layer], outputs: Sequence[Layer]) -> list[Layer]:
    """Every layer that the outputs depend on, parents first; inputs in the given order at the front.

    Raises:
        DhhpcError: an output depends on an Input that is not in `inputs`.
    """
    order: list[Layer] = list(inputs)
    seen = {id(layer) for layer in inputs}
    # Iterative: networks are deeper than Python's recursion limit.
    stack = [(layer, False) for layer in reversed(outputs)]
    while stack:
        layer, expanded = stack.pop()
        if id(layer) in seen:
            continue
        if expanded:
            seen.add(id(layer))
            order.append(layer)
            continue
        if not layer.parents:
            raise DhhpcError(f"{layer.describe()}: an output depends on it; list it in the model's inputs")
        stack.append((layer, True))
        stack.extend((parent, False) for parent in reversed(layer.parents))
    return order


def name_layers(layers: Sequence[Layer]) -> None:
    """Name the nameless conv2d_1, conv2d_2, …, by the kind of each.

    Raises:
        DhhpcError: a name is given twice.
    """
    taken = [layer.name for layer in layers if layer.name]
    for name in taken:
        if taken.count(name) > 1:
            raise DhhpcError(f"layer name {name!r} is given {taken.count(name)} times; give each its own")
    counts: dict[str, int] = {}
    for layer in layers:
        kind = type(layer).__name__.lower()
        while not layer.name:
            counts[kind] = counts.get(kind, 0) + 1
            if f"{kind}_{counts[kind]}" not in taken:
                layer.name = f"{kind}_{counts[kind]}"
