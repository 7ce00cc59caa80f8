"""Our side of every kind of case: from a case to a function whose call is one repetition."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

import numpy as np

from dhhpc import eddl
from dhhpc.benchmarks.cases import (
    LEARNING_RATE,
    AdamStep,
    Case,
    Convolution,
    Dropout,
    Inference,
    Network,
    SoftmaxCrossEntropy,
    StackedLSTM,
    Training,
)
from dhhpc.eddl.graph import Layer
from dhhpc.eddl.storage import aligned_bytes

Call = Callable[[], object]


def set_threads(count: int) -> None:
    import dhhpc_kernels

    dhhpc_kernels.set_threads(count)


def normal(*shape: int) -> np.ndarray:
    """Normal numbers, float32, whose address is a cache line's as in a network's memory and in PyTorch's."""
    array = aligned_bytes(4 * math.prod(shape)).view(np.float32).reshape(shape)
    np.random.default_rng(shape).standard_normal(dtype=np.float32, out=array)
    return array


def as_in_a_step(call: Call) -> Call:
    """The kernels of a call, run again without it as in the steps of a network."""
    from dhhpc_kernels import cpu

    replay = cpu.record(call)
    assert replay is not None
    return replay.run


@singledispatch
def prepare(case: Case) -> Call:
    """The function to time; its arrays are made here."""
    raise NotImplementedError(type(case).__name__)


@prepare.register
def convolution(case: Convolution) -> Call:
    from dhhpc_kernels import cpu

    options = (case.stride, case.padding, (1, 1), case.groups)
    x, weight, out = normal(*case.x_shape), normal(*case.weight_shape), normal(*case.out_shape)
    workspace = np.empty(cpu.convolution_workspace(case.x_shape, case.weight_shape, *options), np.float32)
    match case.direction:
        case "forward":
            return as_in_a_step(lambda: cpu.convolution_forward(x, weight, None, out, workspace, *options))
        case "backward-data":
            return as_in_a_step(lambda: cpu.convolution_backward_data(out, weight, x, workspace, *options))
    return as_in_a_step(lambda: cpu.convolution_backward_weights(x, out, weight, None, workspace, *options))


@prepare.register
def adam(case: AdamStep) -> Call:
    from dhhpc_kernels import cpu

    parameters, gradients = normal(case.parameters), normal(case.parameters)
    optimizer = eddl.Adam()
    optimizer.build(case.parameters)
    return lambda: optimizer.step(cpu, parameters, gradients)


@prepare.register
def softmax_cross_entropy(case: SoftmaxCrossEntropy) -> Call:
    from dhhpc_kernels import cpu

    logits = normal(case.batch, case.classes)
    targets = classes(case.batch, case.classes)
    gradient = np.empty_like(logits)
    return lambda: cpu.softmax_cross_entropy(logits, targets, gradient)


@prepare.register
def dropout(case: Dropout) -> Call:
    from dhhpc_kernels import cpu

    x, gradient = normal(*case.shape), normal(*case.shape)
    out = np.empty_like(x)

    def both() -> None:
        cpu.dropout(x, out, 0.5, 1, 1, 1)
        cpu.dropout(gradient, out, 0.5, 1, 1, 1)

    return both


@prepare.register
def stacked_lstm(case: StackedLSTM) -> Call:
    x = eddl.Input((case.steps, case.units))
    y: Layer = x
    for _ in range(case.layers):
        y = eddl.LSTM(y, case.units, return_sequences=True)
    model = eddl.Model([x], [y])
    model.build(losses=["mean_squared_error"])
    sequences = normal(case.batch, case.steps, case.units)
    return lambda: model.compute_gradients([sequences], [sequences])


@prepare.register
def training(case: Training) -> Call:
    model = case.create()
    loss = "binary_cross_entropy" if case.classes == 1 else "categorical_cross_entropy"
    model.build(eddl.SGD(LEARNING_RATE, momentum=0.9), [loss])
    images = normal(case.batch, *case.input_shape)
    wanted = targets(case, model)
    return lambda: model.train_batch([images], [wanted])


@prepare.register
def inference(case: Inference) -> Call:
    model = case.create()
    model.build()
    images = normal(case.batch, *case.input_shape)
    return lambda: model.predict([images])


def targets(case: Network, model: eddl.Model) -> np.ndarray:
    """Classes (batch,), or with one output a mask of its shape."""
    if case.classes == 1:
        return (normal(case.batch, *model.outputs[0].shape) > 0).astype(np.float32)
    return classes(case.batch, case.classes)


def classes(batch: int, count: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, count, batch)
