"""Naming the layer that first produced a NaN or an infinity, once a loss is no number.

Nothing is looked for before that: the good case costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dhhpc.eddl.graph import Array, Layer
from dhhpc.eddl.plan import Plan
from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    from dhhpc.eddl.model import Model


class NotFiniteError(DhhpcError):
    """A loss, or a trained number, is NaN or infinite.

    Attributes:
        layer: name of the layer that was the first to produce such a number; an input when it came with the
            batch; None when the predictions are finite and the target or the loss itself is not.
        phase: "input", "forward", "backward", "update", "target" or "loss".
        sample: number of the batch's first sample with such a number, for "input" and "target".
    """

    def __init__(
        self, message: str, layer: str | None = None, phase: str = "", sample: int | None = None
    ) -> None:
        super().__init__(message)
        self.layer, self.phase, self.sample = layer, phase, sample

    def told(self, message: str) -> NotFiniteError:
        """The same in other words."""
        return NotFiniteError(message, self.layer, self.phase, self.sample)


class NotFiniteElsewhereError(DhhpcError):
    """A loss is NaN or infinite on another rank, which tells where."""

    def __init__(self) -> None:
        super().__init__("the loss of another rank is no longer finite")


def first_bad_sample(array: Array) -> int | None:
    """Number of the first sample with a NaN or an infinity; None if all are finite."""
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    return int(bad[0]) if bad.size else None


def check_loss(
    model: Model, plan: Plan, inputs: Sequence[Array], targets: Sequence[Array], loss: float
) -> None:
    """Refuse a training batch whose loss is no number, here or, with statistics over the ranks, on any rank.

    Such statistics spread what is no number over all ranks, so the ranks where it began are the ones to tell.
    The arguments are those of `not_finite_loss`.

    Raises:
        NotFiniteError, NotFiniteElsewhereError: running statistics are then as before the batch.
    """
    ranks, finite = model.sum_over_ranks, math.isfinite(loss)
    if ranks.everywhere(finite):
        return
    error = None
    if not finite:
        with ranks.alone():
            error = model.not_finite(plan, inputs, targets, loss)
    began_here = error is not None and error.phase != "loss"
    nowhere = ranks.everywhere(not began_here)
    np.copyto(model.statistics_vector, model.statistics_before)
    if error is not None and (began_here or nowhere):
        raise error
    raise NotFiniteElsewhereError


def not_finite_loss(
    model: Model,
    plan: Plan,
    inputs: Sequence[Array],
    targets: Sequence[Array],
    loss: float,
    first: Callable[[Plan, Sequence[Array]], Layer | None] | None = None,
) -> NotFiniteError:
    """The error for a loss of a batch that is no number: looks for what happened first.

    Args:
        plan: has run forward on `inputs`; runs again, a layer at a time, as its buffers are reused.
        targets: as the losses took them; empty where there are none.
        first: finds the first layer whose output is not finite, unless given `first_in_forward`.
    """
    what = f"the loss is {loss}"
    for layer, array in zip(model.inputs, inputs, strict=True):
        sample = first_bad_sample(np.asarray(array))
        if sample is not None:
            cause = f"sample {sample + 1} of the batch holds NaN or infinity in input {layer.describe()}"
            return NotFiniteError(f"{what}: {cause}", layer.describe(), "input", sample)
    earlier = not_finite_state(model, what, statistics=not plan.training)
    if earlier is not None:
        return earlier
    found = (first or first_in_forward)(plan, inputs)
    if found is not None:
        cause = f"the first NaN or infinity came out of {describe(found)} in the forward pass"
        return NotFiniteError(f"{what}: {cause}", found.describe(), "forward")
    for output, target in zip(model.outputs, targets, strict=False):
        name, sample = output.describe(), first_bad_sample(np.asarray(target))
        if sample is not None:
            cause = f"sample {sample + 1} of the batch holds NaN or infinity in the target of {name}"
            return NotFiniteError(f"{what}: {cause}", None, "target", sample)
    cause = "every layer's output is finite, but not the loss itself"
    return NotFiniteError(f"{what}: {cause}", None, "loss")


def not_finite_state(model: Model, what: str, statistics: bool = True) -> NotFiniteError | None:
    """The error for a trained number that is NaN or infinite; None if all are finite.

    `model.gradient_vector` still holds the last step's gradients, which tell whether the backward pass or the
    update produced it; of those that were used up piece by piece the numbers themselves must do.

    Args:
        what: the message's first words.
        statistics: look at the running statistics too.
    """
    bad: list[tuple[Layer, str]] = []
    for layer, trained, running in zip(
        model.layers, model.parameter_views, model.statistic_views, strict=True
    ):
        arrays = zip(layer.parameters() + layer.statistics(), trained + running, strict=True)
        wanted = len(trained) + (len(running) if statistics else 0)
        bad += [
            (layer, parameter.name)
            for parameter, array in list(arrays)[:wanted]
            if not np.isfinite(array).all()
        ]
    if not bad:
        return None
    for layer, gradients in reversed(list(zip(model.layers, model.gradient_views, strict=True))):
        if layer.updates_early and any(layer is one for one, _ in bad):
            where = "the last backward pass or update"
        elif not all(np.isfinite(gradient).all() for gradient in gradients):
            where = "the last backward pass"
        else:
            continue
        cause = f"the first NaN or infinity came out of {describe(layer)} in {where}"
        return NotFiniteError(f"{what}: {cause}", layer.describe(), "backward")
    layer, name = bad[0]
    cause = f"the last update made {layer.describe()}.{name} NaN or infinite, though its gradient is finite"
    return NotFiniteError(f"{what}: {cause}", layer.describe(), "update")


def first_in_forward(plan: Plan, inputs: Sequence[Array], to_the_end: bool = False) -> Layer | None:
    """The first layer whose output for `inputs` is not finite; of layers that run as one, their first.

    to_the_end: run the layers behind it too, where other ranks wait for what they send.
    """
    bad: list[int] = []

    def watch(index: int) -> bool:
        if not bad and not np.isfinite(plan.bound[index].output).all():
            bad.append(index)
        return bool(bad) and not to_the_end

    plan.forward(inputs, watch)
    return plan.layers[bad[0]].members[0] if bad else None


def describe(layer: Layer) -> str:
    return f"layer {layer.describe()} ({layer.class_name})"
