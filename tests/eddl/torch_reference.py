"""An independent reading of a graph: the same layers run by PyTorch in float64, gradients by its autograd."""

from __future__ import annotations

import dhhpc_kernels
import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from dhhpc import eddl
from dhhpc.eddl.layers.activations import PointwiseActivation

FUNCTIONS = {
    eddl.SELU: F.selu,
    eddl.Tanh: torch.tanh,
    eddl.Softplus: F.softplus,
    eddl.Softsign: F.softsign,
    eddl.Exponential: torch.exp,
    eddl.SiLU: F.silu,
    eddl.GELU: F.gelu,
}


def run(net: eddl.Model, inputs, training=True):
    """Outputs of `net` (a list of tensors) and its trained arrays as leaf tensors by name."""
    leaves = {
        name: torch.tensor(array.astype(np.float64), requires_grad=True)
        for name, array in net.parameters().items()
    }
    values = {
        id(layer): torch.tensor(np.asarray(array, np.float64))
        for layer, array in zip(net.inputs, inputs, strict=True)
    }
    for layer in net.layers:
        if id(layer) in values:
            continue
        arrays = {
            name.rsplit(".", 1)[1]: leaf for name, leaf in leaves.items() if name.startswith(f"{layer.name}.")
        }
        parents = [values[id(parent)] for parent in layer.parents]
        if isinstance(layer, eddl.Dropout):
            values[id(layer)] = parents[0] * mask(net, layer, parents[0].shape) if training else parents[0]
        else:
            values[id(layer)] = compute(layer, parents, arrays, training)
    return [values[id(layer)] for layer in net.outputs], leaves


def mask(net, layer, shape):
    """What dropout multiplies by: tests/kernels/test_dropout.py says what the kernel draws."""
    out = np.empty(shape, np.float32)
    steps = net.optimizer.step_count
    place = net.layers.index(layer)
    dhhpc_kernels.backend("cpu").dropout(
        np.ones_like(out), out, layer.rate, net.randomness.seed, place, steps
    )
    return torch.tensor(out.astype(np.float64))


def compute(layer, x, arrays, training):
    match layer:
        case eddl.Conv1D() | eddl.Conv2D() | eddl.Conv3D():
            return {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[layer.dimensions](
                x[0],
                arrays["weight"],
                arrays.get("bias"),
                layer.stride,
                layer.padding,
                layer.dilation,
                layer.groups,
            )
        case eddl.ConvTranspose1D() | eddl.ConvTranspose2D() | eddl.ConvTranspose3D():
            kinds = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
            return kinds[layer.dimensions](
                x[0],
                arrays["weight"],
                arrays.get("bias"),
                layer.stride,
                layer.padding,
                layer.output_padding,
                layer.groups,
                layer.dilation,
            )
        case eddl.Dense():
            return F.linear(x[0], arrays["weight"], arrays.get("bias"))
        case eddl.MaxPool1D() | eddl.MaxPool2D() | eddl.MaxPool3D():
            pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[layer.dimensions]
            return pool(x[0], layer.kernel, layer.stride, layer.padding)
        case eddl.AveragePool1D() | eddl.AveragePool2D() | eddl.AveragePool3D():
            pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[layer.dimensions]
            return pool(x[0], layer.kernel, layer.stride, layer.padding, count_include_pad=False)
        case eddl.GlobalAveragePool():
            return x[0].mean(dim=tuple(range(2, x[0].ndim)), keepdim=True)
        case eddl.GlobalMaxPool():
            return x[0].amax(dim=tuple(range(2, x[0].ndim)), keepdim=True)
        case eddl.BatchNormalization():
            return F.batch_norm(
                x[0],
                arrays["running_mean"].detach().clone(),
                arrays["running_variance"].detach().clone(),
                arrays["gamma"],
                arrays["beta"],
                training,
                layer.momentum,
                layer.epsilon,
            )
        case eddl.GroupNormalization():
            return F.group_norm(x[0], layer.groups, arrays["gamma"], arrays["beta"], layer.epsilon)
        case eddl.InstanceNormalization():
            return F.group_norm(x[0], layer.shape[0], arrays["gamma"], arrays["beta"], layer.epsilon)
        case eddl.LayerNormalization():
            shape = layer.shape[-layer.dimensions :]
            return F.layer_norm(x[0], shape, arrays["gamma"], arrays["beta"], layer.epsilon)
        case eddl.ReLU():
            return torch.relu(x[0])
        case eddl.Sigmoid():
            return torch.sigmoid(x[0])
        case eddl.Softmax():
            return torch.softmax(x[0], 1)
        case eddl.LeakyReLU():
            return F.leaky_relu(x[0], layer.alpha)
        case eddl.ELU():
            return F.elu(x[0], layer.alpha)
        case eddl.HardSigmoid():
            return torch.clamp(0.2 * x[0] + 0.5, 0, 1)
        case PointwiseActivation():
            return FUNCTIONS[type(layer)](x[0])
        case eddl.ReduceSum() | eddl.ReduceMean() | eddl.ReduceMax():
            reduce = {eddl.ReduceSum: torch.sum, eddl.ReduceMean: torch.mean, eddl.ReduceMax: torch.amax}
            axes = tuple(axis + 1 for axis in layer.axes)
            return reduce[type(layer)](x[0], axes, keepdim=layer.keep_dimensions)
        case eddl.Multiply():
            return x[0] * x[1]
        case eddl.Subtract():
            return x[0] - x[1]
        case eddl.Maximum():
            return torch.maximum(*x)
        case eddl.Concat():
            return torch.cat(x, 1)
        case eddl.Add():
            return sum(x[1:], x[0])
        case eddl.Flatten():
            return torch.flatten(x[0], 1)
        case eddl.Embedding():
            return F.embedding(x[0].long(), arrays["weight"])
        case eddl.LSTM() | eddl.GRU() | eddl.RNN():
            return recurrent(layer, x[0], arrays)
        case eddl.UpSampling1D() | eddl.UpSampling2D() | eddl.UpSampling3D():
            options = {} if layer.mode == "nearest" else {"align_corners": False}
            return F.interpolate(x[0], scale_factor=layer.scale, mode=layer.mode, **options)
    raise AssertionError(f"no reference for {layer}")


def recurrent(layer, x, arrays):
    """torch.nn's layer with the same weights, whose gates PyTorch has in another order."""
    order = {eddl.LSTM: [0, 2, 3, 1], eddl.GRU: [1, 0, 2], eddl.RNN: [0]}[type(layer)]
    rows = torch.cat([torch.arange(layer.units) + layer.units * gate for gate in order])
    options = {"nonlinearity": layer.activation} if isinstance(layer, eddl.RNN) else {}
    kind = getattr(torch.nn, type(layer).__name__)
    module = kind(x.shape[2], layer.units, batch_first=True, **options).double()
    bias = arrays["bias"][0].reshape(2, -1)
    given = [arrays["weight"][0], arrays["recurrent_weight"][0], bias[0], bias[1]]
    named = {name: array[rows] for (name, _), array in zip(module.named_parameters(), given, strict=True)}
    steps, _ = torch.func.functional_call(module, named, (x,))
    return steps if layer.return_sequences else steps[:, -1]


def loss(names: str, prediction, target):
    """The sum of the named losses, by PyTorch or by the formula."""
    total = 0
    for name in names.split("+"):
        match name:
            case "binary_cross_entropy":
                total = total + F.binary_cross_entropy(prediction, target)
            case "categorical_cross_entropy" | "softmax_cross_entropy":
                total = total - (target * torch.log(prediction)).sum(1).mean()
            case "mean_squared_error":
                total = total + F.mse_loss(prediction, target)
            case "mean_absolute_error":
                total = total + F.l1_loss(prediction, target)
            case "huber":
                total = total + F.huber_loss(prediction, target)
            case "dice":
                axes = tuple(range(2, prediction.ndim))
                both = (prediction * target).sum(axes)
                total = total + 1 - ((2 * both + 1) / (prediction.sum(axes) + target.sum(axes) + 1)).mean()
    return total
