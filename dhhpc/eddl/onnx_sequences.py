"""Reading recurrent operators of ONNX, which have the time before the samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dhhpc.eddl.graph import Array, Layer, OnnxNode

RECURRENT = ("LSTM", "GRU", "RNN")
TURNED = [1, 0, 2]


class Sequences:
    """Follows values between a graph's transpositions, recurrent operators and squeezes, none of which is a
    layer of its own but the recurrent ones.

    Args:
        graph: an ONNX graph.
        layers: the layers by the names of their values, samples first; `take` adds to it.
        constants: by name.
    """

    def __init__(self, graph: Any, layers: dict[str, Layer], constants: Mapping[str, Array]) -> None:
        self.layers, self.constants = layers, constants
        self.read = {name for node in graph.node for name in node.input}
        self.read |= {entry.name for entry in graph.output}
        # Values by name: (time, samples, features); behind a recurrent operator (time, 1, samples, units), or
        # (1, samples, units) after the last step.
        self.time_first: dict[str, Layer] = {}
        self.steps: dict[str, Layer] = {}
        self.last: dict[str, Layer] = {}

    def take(self, node: Any, attributes: dict[str, Any]) -> bool:
        """Follow a node that only rearranges a value; False when it must become a layer."""
        name = node.input[0] if node.input else ""
        kind, output = node.op_type, node.output[0] if node.output else ""
        if kind == "Cast" and name in self.layers:
            self.layers[output] = self.layers[name]
        elif kind == "Transpose" and list(attributes.get("perm", ())) == TURNED and name in self.layers:
            self.time_first[output] = self.layers[name]
        elif kind == "Transpose" and list(attributes.get("perm", ())) == TURNED and name in self.time_first:
            self.name(output, self.time_first[name])
        elif kind == "Squeeze" and name in self.steps and self.axes(node, attributes) == [1]:
            self.time_first[output] = self.steps[name]
        elif kind == "Squeeze" and name in self.last and self.axes(node, attributes) == [0]:
            self.name(output, self.last[name])
        else:
            return False
        return True

    def name(self, output: str, layer: Layer) -> None:
        layer.name = output
        self.layers[output] = layer

    def axes(self, node: Any, attributes: dict[str, Any]) -> list[int]:
        """The axes of a Squeeze: an input since opset 13, an attribute before."""
        if len(node.input) > 1:
            return [int(axis) for axis in np.atleast_1d(self.constants[node.input[1]])]
        return [int(axis) for axis in attributes.get("axes", ())]

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
        used = [place for place, output in enumerate(node.output) if output in self.read]
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
