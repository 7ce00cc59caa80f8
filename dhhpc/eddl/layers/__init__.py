"""The layers, one file a family; `LAYERS` maps a class name, `OPERATORS` an ONNX operator, to its class."""

from dhhpc.eddl.graph import Layer
from dhhpc.eddl.layers.activations import (
    ELU,
    GELU,
    SELU,
    Exponential,
    HardSigmoid,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Softsign,
    Tanh,
)
from dhhpc.eddl.layers.convolution import (
    Conv1D,
    Conv2D,
    Conv3D,
    ConvTranspose1D,
    ConvTranspose2D,
    ConvTranspose3D,
)
from dhhpc.eddl.layers.dense import Dense
from dhhpc.eddl.layers.dropout import Dropout
from dhhpc.eddl.layers.embedding import Embedding
from dhhpc.eddl.layers.merging import Add, Concat, Maximum, Multiply, Subtract
from dhhpc.eddl.layers.normalization import (
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
)
from dhhpc.eddl.layers.pooling import (
    AveragePool1D,
    AveragePool2D,
    AveragePool3D,
    GlobalAveragePool,
    GlobalAveragePool2D,
    GlobalMaxPool,
    MaxPool1D,
    MaxPool2D,
    MaxPool3D,
)
from dhhpc.eddl.layers.recurrent import GRU, LSTM, RNN
from dhhpc.eddl.layers.reduction import ReduceMax, ReduceMean, ReduceSum
from dhhpc.eddl.layers.reshaping import Flatten, Input
from dhhpc.eddl.layers.upsampling import UpSampling1D, UpSampling2D, UpSampling3D

ALL: tuple[type[Layer], ...] = (
    Input,
    Conv1D,
    Conv2D,
    Conv3D,
    ConvTranspose1D,
    ConvTranspose2D,
    ConvTranspose3D,
    Dense,
    MaxPool1D,
    MaxPool2D,
    MaxPool3D,
    AveragePool1D,
    AveragePool2D,
    AveragePool3D,
    GlobalAveragePool,
    GlobalMaxPool,
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    ReLU,
    Sigmoid,
    Softmax,
    ELU,
    GELU,
    SELU,
    Exponential,
    HardSigmoid,
    LeakyReLU,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
    Dropout,
    Concat,
    Add,
    Multiply,
    Subtract,
    Maximum,
    ReduceMax,
    ReduceMean,
    ReduceSum,
    Flatten,
    UpSampling1D,
    UpSampling2D,
    UpSampling3D,
    Embedding,
    LSTM,
    GRU,
    RNN,
)
OPERATORS = {layer.operator: layer for layer in ALL if layer.operator}

__all__ = ["ALL", "OPERATORS", "GlobalAveragePool2D", *(layer.__name__ for layer in ALL)]
