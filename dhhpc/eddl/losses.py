"""Losses: the mean over the batch of a loss per sample, so that ranks can average gradients exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from dhhpc.eddl.graph import Array, Layer
from dhhpc.eddl.layers import Sigmoid, Softmax
from dhhpc.eddl.layers.activations import ActivationLayer
from dhhpc.errors import DhhpcError


@dataclass(frozen=True)
class Loss:
    """One loss.

    Attributes:
        kernel: name of the kernel (prediction, target, gradient) -> loss.
        activation: the output layer with which it can be computed from logits, which is stable where the
            probabilities saturate.
        logits_kernel: name of that kernel.
        takes_classes: that kernel also takes class indices for targets.
        sums_kernel, of_sums_kernel: of a loss that is no mean over pixels: what it is a function of, and that
            function; both of parts of an image.
    """

    kernel: str
    activation: type[ActivationLayer] | None = None
    logits_kernel: str = ""
    takes_classes: bool = False
    sums_kernel: str = ""
    of_sums_kernel: str = ""


LOSSES = {
    "categorical_cross_entropy": Loss("cross_entropy", Softmax, "softmax_cross_entropy", True),
    "softmax_cross_entropy": Loss("cross_entropy", Softmax, "softmax_cross_entropy", True),
    "binary_cross_entropy": Loss("binary_cross_entropy", Sigmoid, "sigmoid_binary_cross_entropy"),
    "dice": Loss("dice", sums_kernel="dice_sums", of_sums_kernel="dice_of_sums"),
    "mean_squared_error": Loss("mean_squared_error"),
    "mean_absolute_error": Loss("mean_absolute_error"),
    "huber": Loss("huber"),
}


class OutputLoss:
    """The sum of one or more losses on one output of a network.

    Args:
        names: names joined by "+", such as "binary_cross_entropy+dice".
        output: the output layer; when it is the activation that one of the losses knows, the plan leaves its
            backward out and the gradient is taken with respect to its input.

    Raises:
        DhhpcError: a name is unknown.
    """

    def __init__(self, names: str, output: Layer) -> None:
        self.names = names
        self.losses: list[Loss] = []
        for name in names.split("+"):
            if name.strip() not in LOSSES:
                raise DhhpcError(f"loss {name.strip()!r} is unknown; choose one of {', '.join(LOSSES)}")
            self.losses.append(LOSSES[name.strip()])
        self.output = output
        self.fused = any(loss.activation is type(output) for loss in self.losses)
        self.takes_classes = self.fused and all(loss.takes_classes for loss in self.losses)
        self.addend = np.empty(0, np.float32)

    def gradient(
        self, kernels: ModuleType, prediction: Array, target: Array, out: Array, logits: Array | None
    ) -> float:
        """Write the gradient of the sum into `out` and return the sum.

        `logits` are the output activation's input when the loss is fused with it, and `out` is then the
        gradient with respect to them.
        """
        total = 0.0
        for number, loss in enumerate(self.losses):
            if number and self.addend.shape != out.shape:
                self.addend = np.empty_like(out)
            into = self.addend if number else out
            if logits is not None and loss.activation is type(self.output):
                total += self.compute(kernels, loss, loss.logits_kernel, logits, target, into)
            else:
                total += self.compute(kernels, loss, loss.kernel, prediction, target, into)
                if logits is not None:
                    self.through_activation(kernels)(prediction, into, into)
            if number:
                kernels.accumulate(self.addend, out)
        return total

    def through_activation(self, kernels: ModuleType) -> Callable[[Array, Array, Array], None]:
        assert isinstance(self.output, ActivationLayer)
        backward: Callable[[Array, Array, Array], None] = getattr(kernels, f"{self.output.function}_backward")
        return backward

    def value(self, kernels: ModuleType, prediction: Array, target: Array) -> float:
        """The loss alone, from probabilities."""
        scratch = np.empty_like(prediction)
        values = [
            self.compute(kernels, loss, loss.kernel, prediction, target, scratch) for loss in self.losses
        ]
        return sum(values)

    def compute(
        self, kernels: ModuleType, loss: Loss, kernel: str, prediction: Array, target: Array, out: Array
    ) -> float:
        """One of the losses by one of its kernels, and its gradient in `out`."""
        return float(getattr(kernels, kernel)(prediction, target, out))


def as_target(target: Array, shape: tuple[int, ...], what: str, keep_classes: bool = False) -> Array:
    """`target` as float32 of the prediction's `shape`; whole-number class indices become one-hot, unless they
    are to be kept.

    Raises:
        DhhpcError: its shape does not fit, or a class index is out of range.
    """
    target = np.asarray(target)
    if target.shape == shape:
        return np.ascontiguousarray(target, dtype=np.float32)
    if np.issubdtype(target.dtype, np.integer) and target.shape == shape[:1] + shape[2:]:
        classes = shape[1]
        if target.size and not (int(target.min()) >= 0 and int(target.max()) < classes):
            found = int(target.max()) if int(target.max()) >= classes else int(target.min())
            raise DhhpcError(f"{what}: class index {found} is outside 0 to {classes - 1}")
        if keep_classes and classes > 1:  # metrics compare a single channel with 0.5
            return target
        one_hot = np.zeros(shape, np.float32)
        np.put_along_axis(one_hot, np.expand_dims(target, 1), 1, axis=1)
        return one_hot
    raise DhhpcError(f"{what}: targets of shape {target.shape} do not fit predictions of shape {shape}")
