"""Kernels of the CPU: C-contiguous float32 arrays in NCHW order, written into given output arrays.

`stride`, `padding`, `dilation` and `kernel` are (height, width) tuples. Gradients are overwritten, never
added to.
"""

from dhhpc_kernels.cpu.activations import (
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
)
from dhhpc_kernels.cpu.batch_normalization import (
    batch_normalization_backward,
    batch_normalization_inference,
    batch_normalization_training,
)
from dhhpc_kernels.cpu.concatenation import concatenate_backward, concatenate_forward
from dhhpc_kernels.cpu.convolution import (
    convolution_backward_data,
    convolution_backward_weights,
    convolution_forward,
    convolution_workspace,
    explain_convolution,
)
from dhhpc_kernels.cpu.dense import dense_backward_data, dense_backward_weights, dense_forward
from dhhpc_kernels.cpu.dropout import dropout
from dhhpc_kernels.cpu.elementwise import (
    accumulate,
    add_forward,
    maximum_backward,
    maximum_forward,
    multiply,
    negate,
    subtract,
)
from dhhpc_kernels.cpu.embedding import embedding_backward, embedding_forward
from dhhpc_kernels.cpu.group_normalization import (
    group_normalization_backward,
    group_normalization_forward,
)
from dhhpc_kernels.cpu.losses import (
    binary_cross_entropy,
    cross_entropy,
    dice,
    dice_of_sums,
    dice_sums,
    huber,
    mean_absolute_error,
    mean_squared_error,
    sigmoid_binary_cross_entropy,
)
from dhhpc_kernels.cpu.optimizers import (
    adadelta_step,
    adagrad_step,
    adam_step,
    adamax_step,
    rmsprop_step,
    sgd_step,
)
from dhhpc_kernels.cpu.pointwise_activations import activation_backward, activation_forward
from dhhpc_kernels.cpu.pooling import (
    average_pooling_backward,
    average_pooling_forward,
    max_pooling_backward,
    max_pooling_forward,
)
from dhhpc_kernels.cpu.recurrent import recurrent_backward, recurrent_forward, recurrent_workspace
from dhhpc_kernels.cpu.reductions import (
    reduce_max_backward,
    reduce_max_forward,
    reduce_sum_backward,
    reduce_sum_forward,
)
from dhhpc_kernels.cpu.resampling import upsample_backward, upsample_forward
from dhhpc_kernels.cpu.softmax import softmax_backward, softmax_forward
from dhhpc_kernels.cpu.softmax_cross_entropy import softmax_cross_entropy
from dhhpc_kernels.cpu.transposed_convolution import (
    transposed_convolution_backward_data,
    transposed_convolution_backward_weights,
    transposed_convolution_forward,
    transposed_convolution_workspace,
)
from dhhpc_kernels.replay import record

__all__ = [
    "accumulate",
    "activation_backward",
    "activation_forward",
    "adadelta_step",
    "adagrad_step",
    "adam_step",
    "adamax_step",
    "add_forward",
    "average_pooling_backward",
    "average_pooling_forward",
    "batch_normalization_backward",
    "batch_normalization_inference",
    "batch_normalization_training",
    "binary_cross_entropy",
    "concatenate_backward",
    "concatenate_forward",
    "convolution_backward_data",
    "convolution_backward_weights",
    "convolution_forward",
    "convolution_workspace",
    "cross_entropy",
    "dense_backward_data",
    "dense_backward_weights",
    "dense_forward",
    "dice",
    "dice_of_sums",
    "dice_sums",
    "dropout",
    "embedding_backward",
    "embedding_forward",
    "explain_convolution",
    "group_normalization_backward",
    "group_normalization_forward",
    "huber",
    "max_pooling_backward",
    "max_pooling_forward",
    "maximum_backward",
    "maximum_forward",
    "mean_absolute_error",
    "mean_squared_error",
    "multiply",
    "negate",
    "record",
    "recurrent_backward",
    "recurrent_forward",
    "recurrent_workspace",
    "reduce_max_backward",
    "reduce_max_forward",
    "reduce_sum_backward",
    "reduce_sum_forward",
    "relu_backward",
    "relu_forward",
    "rmsprop_step",
    "sgd_step",
    "sigmoid_backward",
    "sigmoid_binary_cross_entropy",
    "sigmoid_forward",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_forward",
    "subtract",
    "transposed_convolution_backward_data",
    "transposed_convolution_backward_weights",
    "transposed_convolution_forward",
    "transposed_convolution_workspace",
    "upsample_backward",
    "upsample_forward",
]
