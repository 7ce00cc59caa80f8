"""ONNX: the graph maps one to one on its operators, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import dhhpc
from dhhpc.eddl.graph import AXES, Layer, OnnxNode
from dhhpc.eddl.layers import OPERATORS, Add, Dense, Flatten, Input, LayerNormalization
from dhhpc.eddl.model import Model
from dhhpc.eddl.onnx_sequences import RECURRENT, Sequences
from dhhpc.errors import DhhpcError
from dhhpc.files import replacing

if TYPE_CHECKING:
    import onnx

# Read by every onnxruntime since 1.14. A layer may need a newer one.
OPSET = 18


def to_onnx(net: Model) -> onnx.ModelProto:
    """The ONNX model of `net` for inference, with a batch of any size, and images of any size where every
    layer allows it."""
    import onnx
    from onnx import helper, numpy_helper

    names = {id(layer): layer.describe() for layer in net.layers}
    convolutional = not any(isinstance(layer, Dense | Flatten | LayerNormalization) for layer in net.layers)
    nodes: list[Any] = []
    initializers = []
    for layer, trained, running in zip(net.layers, net.parameter_views, net.statistic_views, strict=True):
        arrays = []
        for parameter, array in zip(layer.parameters() + layer.statistics(), trained + running, strict=True):
            arrays.append(f"{layer.name}.{parameter.name}")
            initializers.append(numpy_helper.from_array(array, arrays[-1]))
        sources = [names[id(parent)] for parent in layer.parents]
        nodes.extend(layer.to_onnx(sources, names[id(layer)], arrays))

    def value(layer: Layer, number: int) -> Any:
        axes = AXES.get(len(layer.shape) - 1, ())
        free = convolutional and len(axes) > 1
        size: list[Any] = [f"{axis}_{number}" for axis in axes] if free else list(layer.shape[1:])
        return helper.make_tensor_value_info(
            names[id(layer)], onnx.TensorProto.FLOAT, ["batch", layer.shape[0], *size]
        )

    count = len(net.inputs)
    graph = helper.make_graph(
        nodes,
        net.name,
        [value(layer, number) for number, layer in enumerate(net.inputs)],
        [value(layer, count + number) for number, layer in enumerate(net.outputs)],
        initializers,
    )
    # What Input declared: the sizes above may be free.
    shapes = {f"input.{layer.describe()}": ",".join(map(str, layer.shape)) for layer in net.inputs}
    opset = [helper.make_opsetid("", max(OPSET, *(layer.opset for layer in net.layers)))]
    model = helper.make_model(
        graph,
        opset_imports=opset,
        ir_version=helper.find_min_ir_version_for(opset),
        producer_name="dhhpc",
        producer_version=dhhpc.__version__,
    )
    helper.set_model_props(model, shapes)
    return model


def export_onnx(net: Model, path: Path | str) -> None:
    """Write `net` to `path` as ONNX, checked by onnx's checker before it gets its name.

    Raises:
        DhhpcError: the file cannot be written.
    """
    import onnx

    with replacing(path) as temporary:
        onnx.save(to_onnx(net), str(temporary))
        onnx.checker.check_model(str(temporary), full_check=True)


def import_onnx(path: Path | str, input_shape: tuple[int, ...] | None = None) -> Model:
    """The network in an ONNX file, with its parameters; call `build(seed=None, …)` to keep them.

    Args:
        path: the file.
        input_shape: of one sample, for a file that leaves image sizes free and was not written by dhhpc.

    Raises:
        DhhpcError: no ONNX, or an operator or option that eddl does not have.
    """
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError:
        raise DhhpcError(f"{path}: no such file; check the path") from None
    except Exception as error:  # protobuf and the checker raise several kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DhhpcError(f"{path}: not a valid ONNX model ({reason}); export it anew") from None
    try:
        return from_onnx(model, input_shape)
    except DhhpcError as error:
        raise DhhpcError(f"{path}: {error}") from None


def from_onnx(model: onnx.ModelProto, input_shape: tuple[int, ...] | None = None) -> Model:
    """The network that `model` describes."""
    from onnx import helper, numpy_helper

    graph = model.graph
    declared = {entry.key.removeprefix("input."): entry.value for entry in model.metadata_props}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    layers: dict[str, Layer] = {}
    for entry in graph.input:
        if entry.name in constants:
            continue
        layers[entry.name] = Input(input_extents(entry, declared, input_shape), name=entry.name)
    inputs = list(layers.values())
    sequences = Sequences(graph, layers, constants)
    values: list[tuple[Layer, list[np.ndarray[Any, Any]]]] = []
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
            continue
        if sequences.take(node, attributes):
            continue
        kind: type[Layer] | None = Add if node.op_type == "Sum" else OPERATORS.get(node.op_type)
        if kind is None:
            raise DhhpcError(
                f"ONNX operator {node.op_type} is not supported; known: {', '.join(sorted(OPERATORS))}"
            )
        if node.op_type in RECURRENT:
            seen = sequences.recurrent(node, attributes)
            layer = kind.from_onnx(seen)
            sequences.put(node, layer, seen.attributes["return_sequences"])
        else:
            seen = plain_node(node, attributes, layers, constants)
            layer = kind.from_onnx(seen)
            layer.name = node.output[0]
            layers[node.output[0]] = layer
        if layer.parameters():
            values.append((layer, seen.constants))
    net = Model(inputs, [layers[entry.name] for entry in graph.output], name=graph.name or "model")
    for layer, arrays in values:
        index = net.position.get(id(layer))
        if index is None:
            continue
        for view, array in zip(net.parameter_views[index] + net.statistic_views[index], arrays, strict=True):
            view[...] = array.reshape(view.shape)
    return net


def plain_node(
    node: Any,
    attributes: dict[str, Any],
    layers: dict[str, Layer],
    constants: dict[str, np.ndarray[Any, Any]],
) -> OnnxNode:
    """A node as `from_onnx` of its layer takes it."""
    sources = [layers[name] for name in node.input if name in layers]
    arrays = [constants[name] for name in node.input if name in constants]
    unknown = [name for name in node.input if name and name not in layers and name not in constants]
    if unknown or not sources:
        raise DhhpcError(f"ONNX node {node.name or node.op_type}: input {unknown or 'list'} is no layer")
    return OnnxNode(node.op_type, attributes, sources, arrays)


def input_extents(
    entry: Any, declared: dict[str, str], input_shape: tuple[int, ...] | None
) -> tuple[int, ...]:
    """The shape of one sample of an ONNX input."""
    if input_shape is not None:
        return input_shape
    if entry.name in declared:
        return tuple(int(extent) for extent in declared[entry.name].split(","))
    extents = tuple(int(extent.dim_value) for extent in entry.type.tensor_type.shape.dim[1:])
    if not extents or min(extents) < 1:
        raise DhhpcError(f"ONNX input {entry.name} leaves its size free; give input_shape")
    return extents
