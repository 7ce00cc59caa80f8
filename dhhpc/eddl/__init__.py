"""eddl: networks as static graphs, after the European Distributed Deep Learning Library's functional API."""

from dhhpc.eddl.layers import (
    Add,
    AveragePool2D,
    BatchNormalization,
    Concat,
    Conv2D,
    ConvTranspose2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GroupNormalization,
    Input,
    InstanceNormalization,
    LayerNormalization,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    UpSampling2D,
)
from dhhpc.eddl.model import Model
from dhhpc.eddl.onnx_format import export_onnx, import_onnx
from dhhpc.eddl.optimizers import SGD, Adam, Optimizer

__all__ = [
    "SGD",
    "Adam",
    "Add",
    "AveragePool2D",
    "BatchNormalization",
    "Concat",
    "Conv2D",
    "ConvTranspose2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePool2D",
    "GroupNormalization",
    "Input",
    "InstanceNormalization",
    "LayerNormalization",
    "MaxPool2D",
    "Model",
    "Optimizer",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "UpSampling2D",
    "export_onnx",
    "import_onnx",
]
