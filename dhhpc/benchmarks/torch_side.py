"""PyTorch's side of every kind of case, in channels_last order, which is its faster one on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from dhhpc import eddl
from dhhpc.benchmarks import own_side
from dhhpc.benchmarks.cases import (
    LEARNING_RATE,
    AdamStep,
    Case,
    Convolution,
    Dropout,
    Inference,
    SoftmaxCrossEntropy,
    StackedLSTM,
    Training,
)
from dhhpc.eddl.graph import Layer
from dhhpc.eddl.layers.convolution import Conv, ConvTranspose

# By the number of axes, the samples' included.
ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}

Call = Callable[[], object]


def set_threads(count: int) -> None:
    torch.set_num_threads(count)


def normal(*shape: int) -> torch.Tensor:
    tensor = torch.from_numpy(own_side.normal(*shape))
    order = ORDERS.get(len(shape))
    return tensor if order is None else tensor.to(memory_format=order)


@singledispatch
def prepare(case: Case) -> Call:
    """The function to time; its tensors are made here."""
    raise NotImplementedError(type(case).__name__)


@prepare.register
def convolution(case: Convolution) -> Call:
    x, weight, out = normal(*case.x_shape), normal(*case.weight_shape), normal(*case.out_shape)
    if case.direction == "forward":

        def forward() -> torch.Tensor:
            with torch.inference_mode():
                return F.conv2d(x, weight, None, case.stride, case.padding, 1, case.groups)

        return forward
    wanted = [case.direction == "backward-data", case.direction == "backward-weights", False]
    return lambda: torch.ops.aten.convolution_backward(
        out, x, weight, None, case.stride, case.padding, (1, 1), False, (0, 0), case.groups, wanted
    )


@prepare.register
def adam(case: AdamStep) -> Call:
    parameters = nn.Parameter(normal(case.parameters))
    parameters.grad = normal(case.parameters)
    return torch.optim.Adam([parameters], fused=True if case.fused else None).step


@prepare.register
def softmax_cross_entropy(case: SoftmaxCrossEntropy) -> Call:
    logits = normal(case.batch, case.classes).requires_grad_()
    targets = torch.from_numpy(own_side.classes(case.batch, case.classes))
    return lambda: torch.autograd.grad(F.cross_entropy(logits, targets), logits)


@prepare.register
def dropout(case: Dropout) -> Call:
    x, gradient = normal(*case.shape).requires_grad_(), normal(*case.shape)
    return lambda: torch.autograd.grad(F.dropout(x, 0.5), x, gradient)


@prepare.register
def stacked_lstm(case: StackedLSTM) -> Call:
    network = nn.LSTM(case.units, case.units, case.layers, batch_first=True)
    sequences = normal(case.batch, case.steps, case.units)

    def gradients() -> None:
        network.zero_grad()
        F.mse_loss(network(sequences)[0], sequences).backward()

    return gradients


@prepare.register
def training(case: Training) -> Call:
    model = case.create()
    wanted = torch.from_numpy(own_side.targets(case, model))
    images = normal(case.batch, *case.input_shape)
    network = channels_last(model)
    del model  # its arrays are not PyTorch's memory
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9)
    loss = F.binary_cross_entropy_with_logits if case.classes == 1 else F.cross_entropy

    def step() -> None:
        optimizer.zero_grad()
        loss(network(images), wanted).backward()
        optimizer.step()

    return step


@prepare.register
def inference(case: Inference) -> Call:
    network = channels_last(case.create()).eval()
    images = normal(case.batch, *case.input_shape)

    def predict() -> torch.Tensor:
        with torch.inference_mode():
            return network(images)

    return predict


def channels_last(model: eddl.Model) -> TorchNetwork:
    order = ORDERS[1 + len(model.inputs[0].shape)]
    network: TorchNetwork = TorchNetwork(model).to(memory_format=order)  # type: ignore[call-overload]
    return network


class TorchNetwork(nn.Module):
    """The same network as `model`, up to the logits, with PyTorch's own initial parameters.

    It keeps no value longer than the layers that read it need, as a network written by hand would.
    """

    def __init__(self, model: eddl.Model) -> None:
        super().__init__()
        layers = [layer for layer in model.layers if not isinstance(layer, eddl.Softmax | eddl.Sigmoid)]
        position = {id(layer): index for index, layer in enumerate(layers)}
        self.steps = nn.ModuleList(module(layer) for layer in layers)
        self.parents = [[position[id(parent)] for parent in layer.parents] for layer in layers]
        last_use = {parent: index for index, parents in enumerate(self.parents) for parent in parents}
        self.finished = [[i for i, last in last_use.items() if last == index] for index in range(len(layers))]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = {0: images}
        for index, step in enumerate(self.steps):
            if index:
                values[index] = step(*[values[parent] for parent in self.parents[index]])
            for parent in self.finished[index]:
                del values[parent]
        return values[len(self.steps) - 1]


def module(layer: Layer) -> nn.Module:
    """The module that computes a layer of the zoo's networks."""
    match layer:
        case eddl.Input():
            return nn.Identity()
        case Conv():
            convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[layer.dimensions - 1]
            return convolution(
                layer.parents[0].shape[0],
                layer.filters,
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
                layer.bias,
            )
        case ConvTranspose():
            transposed: Any = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[
                layer.dimensions - 1
            ]
            return transposed(
                layer.parents[0].shape[0],
                layer.filters,
                layer.kernel,
                layer.stride,
                layer.padding,
                layer.output_padding,
                layer.groups,
                layer.bias,
                layer.dilation,
            )
        case eddl.Dense():
            return nn.Linear(layer.parents[0].shape[0], layer.units, layer.bias)
        case eddl.BatchNormalization():
            normalization = nn.BatchNorm3d if len(layer.shape) == 4 else nn.BatchNorm2d
            return normalization(layer.shape[0], layer.epsilon, layer.momentum)
        case eddl.ReLU():
            return nn.ReLU(inplace=True)
        case eddl.Dropout():
            return nn.Dropout(layer.rate)
        case eddl.MaxPool2D() | eddl.MaxPool3D():
            pool: Any = nn.MaxPool2d if layer.dimensions == 2 else nn.MaxPool3d
            return pool(layer.kernel, layer.stride, layer.padding)
        case eddl.GlobalAveragePool():
            return nn.AdaptiveAvgPool2d(1)
        case eddl.Flatten():
            return nn.Flatten()
        case eddl.Add():
            return Sum()
        case eddl.Concat():
            return Concatenation()
    raise NotImplementedError(f"the PyTorch side has no {type(layer).__name__}")


class Sum(nn.Module):
    def forward(self, first: Any, second: Any) -> Any:
        return first + second


class Concatenation(nn.Module):
    def forward(self, *parts: Any) -> Any:
        return torch.cat(parts, 1)
