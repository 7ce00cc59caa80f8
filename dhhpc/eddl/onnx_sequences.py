"""Reading recurrent operators of ONNX, which have the time before the samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Layer, OnnxNode
from dhhpc.eddl.layers.recurrent import RecurrentLayer

RECURRENT = ("LSTM", "GRU", "RNN")
TURNED = [1, 0, 2]
# What exporters compute the shape of the initial states by.
OF_SHAPES = ("Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Cast")


class Sequences:
    """Follows values between transpositions, recurrent operators and squeezes. Of these only the recurrent
    ones are layers, which have the samples first.

    Args:
        graph: an ONNX graph.
        layers: by the names of their values; `take` adds to it.
        constants: by name; `take` adds initial states of zero to it.
    """

    def __init__(self, graph: Any, layers: dict[str, Layer], constants: dict[str, Array]) -> None:
        self.layers, self.constants = layers, constants
        self.reads = Counter(name for node in graph.node for name in node.input)
        self.reads.update(entry.name for entry in graph.output)
        # Values by name: (time, samples, features); behind a recurrent operator (time, 1, samples, units), or
        # (1, samples, units) after the last step.
        self.time_first: dict[str, Layer] = {}
        self.steps: dict[str, Layer] = {}
        self.last: dict[str, Layer] = {}
        self.shapes: set[str] = set()

    def take(self, node: Any, attributes: dict[str, Any]) -> bool:
        """Follow a node that is no layer of its own; False if it must become one."""
        kind, name, output = node.op_type, [*node.input, ""][0], node.output[0]
        turned = kind == "Transpose" and list(attributes.get("perm", ())) == TURNED
        if kind == "Cast" and name in self.layers:
            self.layers[output] = self.layers[name]
        elif turned and name in self.layers:
            self.time_first[output] = self.layers[name]
        elif turned and name in self.time_first:
            self.rename(self.time_first[name], output)
        elif kind == "Squeeze" and name in self.steps and self.axes(node, attributes) == [1]:
            self.time_first[output] = self.steps[name]
        elif kind == "Squeeze" and name in self.last and self.axes(node, attributes) == [0]:
            self.rename(self.last[name], output)
        elif kind == "Shape" or (kind in OF_SHAPES and self.of_shapes(node.input)):
            self.shapes.add(output)
        elif kind == "Expand" and name in self.constants and self.of_shapes(node.input[1:]):
            self.constants[output] = self.constants[name]
        elif kind == "Gather" and self.takes_last_step(node, attributes):
            layer = self.layers[name]
            assert isinstance(layer, RecurrentLayer)
            layer.return_sequences = False
            layer.shape = layer.output_shape(*(parent.shape for parent in layer.parents))
            self.rename(layer, output)
        else:
            return False
        return True

    def takes_last_step(self, node: Any, attributes: dict[str, Any]) -> bool:
        """Whether a Gather takes the last step of a recurrent layer whose other steps nobody reads."""
        layer, index = self.layers.get(node.input[0]), self.constants.get(node.input[1])
        if not isinstance(layer, RecurrentLayer) or index is None or attributes.get("axis", 0) != 1:
            return False
        names = [
            name
            for values in (self.steps, self.time_first, self.layers)
            for name, found in values.items()
            if found is layer
        ]
        last = index.ndim == 0 and int(index) in (-1, layer.shape[0] - 1)
        return last and layer.return_sequences and all(self.reads[name] == 1 for name in names)

    def rename(self, layer: Layer, output: str) -> None:
        layer.name = output
        self.layers[output] = layer

    def of_shapes(self, names: Any) -> bool:
        """Whether these hold the extents of some value, and constants."""
        return any(name in self.shapes for name in names) and all(
            name in self.shapes or name in self.constants for name in names
        )

    def axes(self, node: Any, attributes: dict[str, Any]) -> list[int]:
        """The axes of a Squeeze: an input since opset 13, an attribute before."""
        given = self.constants[node.input[1]] if len(node.input) > 1 else attributes.get("axes", ())
        return [int(axis) for axis in np.atleast_1d(given)]

    def recurrent(self, node: Any, attributes: dict[str, Any]) -> OnnxNode:
        """A recurrent node as `from_onnx` of its layer takes it; tell `put` that layer.

        Raises:
            DhhpcError: the network does not have its samples first, or weights, states or lengths are given
                in a way that the layers do not have.
        """
        seen = OnnxNode(node.op_type, dict(attributes), [], [])
        name, *others = node.input
        weights, lengths, states = others[:3], others[3:4], others[4:]
        if attributes.get("layout", 0) or name not in self.time_first:
            raise seen.refuse(f"input {name} is not turned from samples first; export with batch_first")
        if any(lengths) or any(state and not self.zero(state) for state in states):
            raise seen.refuse("sequence lengths and initial states are not supported; export without them")
        if any(weight and weight not in self.constants for weight in weights):
            raise seen.refuse(f"weights {', '.join(weights)} are not all constant; export a trained network")
        used = [place for place, output in enumerate(node.output) if self.reads[output]]
        if used not in ([0], [1]):
            raise seen.refuse("either all steps or the last hidden state can be read, not both; export one")
        seen.attributes["return_sequences"] = used == [0]
        seen.layers = [self.time_first[name]]
        seen.constants = [self.constants[weight] for weight in weights if weight]
        return seen

    def put(self, node: Any, layer: Layer, sequences: bool) -> None:
        """Remember the layer that a recurrent node became."""
        if sequences:
            self.steps[node.output[0]] = layer
        else:
            self.last[node.output[1]] = layer

    def zero(self, name: str) -> bool:
        return name in self.constants and not self.constants[name].any()
