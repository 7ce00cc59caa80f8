"""The model: a graph with its parameters, trained a batch at a time."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import dhhpc_kernels
import numpy as np

from dhhpc.eddl import finiteness, initializers
from dhhpc.eddl.arrays import as_inputs, as_targets
from dhhpc.eddl.graph import Array, Layer, Randomness, Shape, SumOverRanks, name_layers, topological_order
from dhhpc.eddl.losses import OutputLoss, as_target
from dhhpc.eddl.metrics import metric
from dhhpc.eddl.optimizers import Optimizer
from dhhpc.eddl.plan import Plan
from dhhpc.eddl.state import load_state, read_state, state_views
from dhhpc.eddl.stepping import CompletedTail, EarlyStep
from dhhpc.eddl.storage import aligned_bytes, allocate, views
from dhhpc.eddl.summary import summarize
from dhhpc.errors import DhhpcError

# Plans kept: the batch, the last smaller batch, and the same two for evaluation.
KEPT_PLANS = 4


class Model:
    """A network from its input layers to its output layers.

    Args:
        inputs: Input layers.
        outputs: the layers whose values `predict` returns and the losses compare.
        name: for summaries and exports.

    Attributes:
        layers: in topological order, each with a name that is its own.
        parameter_vector, gradient_vector: flat float32 of every trained parameter, in the order of `layers`.
            `parameters()` and the layers see the same memory, so writing here changes the network.
        statistics_vector: flat float32 of the running statistics of batch normalisation.
        sum_over_ranks: has batch normalisation take the statistics of all ranks' batches, if `add` is set.
        optimizer: given to `build`.
    """

    def __init__(self, inputs: Sequence[Layer], outputs: Sequence[Layer], name: str = "model") -> None:
        self.inputs, self.outputs, self.name = list(inputs), list(outputs), name
        self.layers = topological_order(self.inputs, self.outputs)
        name_layers(self.layers)
        self.position = {id(layer): index for index, layer in enumerate(self.layers)}
        self.parameter_vector, self.parameter_views = allocate([layer.parameters() for layer in self.layers])
        self.statistics_vector, self.statistic_views = allocate([layer.statistics() for layer in self.layers])
        self.statistics_before = np.zeros_like(self.statistics_vector)
        # Not zeros_like: memory that no gradient is written to is never taken from the system.
        self.gradient_vector = np.zeros(self.parameter_vector.size, np.float32)
        self.gradient_views = views(self.gradient_vector, [layer.parameters() for layer in self.layers])
        self.randomness = Randomness()
        self.sum_over_ranks = SumOverRanks()
        self.optimizer: Optimizer | None = None
        self.losses: list[OutputLoss] = []
        self.metrics: list[str] = []
        self.plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        self.arena: Array = np.empty(0, np.uint8)
        self.device, self.memory = "cpu", "full"
        self.built = False

    def build(
        self,
        optimizer: Optimizer | None = None,
        losses: Sequence[str] = (),
        metrics: Sequence[str] = (),
        device: str = "cpu",
        seed: int | None = 1,
        memory: str = "full",
    ) -> None:
        """Choose the backend, draw the parameters and prepare the optimizer.

        Args:
            optimizer: leave out for a network that only predicts.
            losses: one an output, names of `dhhpc.eddl.losses.LOSSES` joined by "+".
            metrics: names of `dhhpc.eddl.metrics.METRICS`, of the first output.
            device: "cpu".
            seed: of the parameters and of dropout; the same seed gives the same ones bit for bit. None keeps
                those it has.
            memory: "full", or "low" to compute values again for the backward pass in place of keeping them:
                less memory, the same numbers bit for bit, up to one more forward pass a step.

        Raises:
            DhhpcError: an unknown name, or another number of losses than outputs.
        """
        if losses and len(losses) != len(self.outputs):
            raise DhhpcError(
                f"{self.name}: {len(losses)} losses for {len(self.outputs)} outputs; give one an output"
            )
        if memory not in ("full", "low"):
            raise DhhpcError(f"{self.name}: memory {memory!r} is unknown; choose full or low")
        self.memory = memory
        try:
            dhhpc_kernels.check_device(device)
        except ValueError as error:
            raise DhhpcError(f"device {device!r}: {error}") from None
        self.device = device
        self.losses = [OutputLoss(names, output) for names, output in zip(losses, self.outputs, strict=False)]
        self.metrics = list(metrics)
        for name in self.metrics:
            metric(name)
        self.plans.clear()
        if seed is not None:
            self.draw_parameters(seed)
            self.randomness.seed = seed % 2**64
        self.optimizer = optimizer
        if optimizer is not None:
            optimizer.build(self.parameter_count)
        self.built = True

    @property
    def kernels(self) -> ModuleType:
        """Those of the device; loaded once something is computed, as checking a network needs none."""
        return dhhpc_kernels.backend(self.device)

    def draw_parameters(self, seed: int) -> None:
        """Fill parameters and statistics with their starting values."""
        pairs = [
            (parameter, view)
            for layer, trained, running in zip(
                self.layers, self.parameter_views, self.statistic_views, strict=True
            )
            for parameter, view in zip(
                layer.parameters() + layer.statistics(), trained + running, strict=True
            )
        ]
        for number, (parameter, view) in enumerate(pairs):
            initializers.fill(parameter, view, np.random.default_rng([seed, number]))

    # -- arrays --------------------------------------------------------------------------------------------

    @property
    def parameter_count(self) -> int:
        """Number of trained numbers."""
        return int(self.parameter_vector.size)

    def parameters(self) -> dict[str, Array]:
        """Every trained array and running statistic by name, `conv2d_1.weight`; views, not copies."""
        named = {}
        for layer, trained, running in zip(
            self.layers, self.parameter_views, self.statistic_views, strict=True
        ):
            for parameter, view in zip(
                layer.parameters() + layer.statistics(), trained + running, strict=True
            ):
                named[f"{layer.name}.{parameter.name}"] = view
        return named

    def gradients(self, inputs: Sequence[Array], targets: Sequence[Array]) -> dict[str, Array]:
        """The loss's gradient with respect to every trained array, by name; copies."""
        self.compute_gradients(inputs, targets)
        return {
            f"{layer.name}.{parameter.name}": view.copy()
            for layer, arrays in zip(self.layers, self.gradient_views, strict=True)
            for parameter, view in zip(layer.parameters(), arrays, strict=True)
        }

    def state(self) -> dict[str, Array]:
        """Copies of everything that training changes; `load_state` with it goes on bit for bit."""
        return {name: array.copy() for name, array in state_views(self).items()}

    def load_state(self, state: dict[str, Array], what: str = "state") -> None:
        """Take over what `state()` returned; without its optimizer part the optimizer stays as it is.

        Raises:
            DhhpcError: an array is missing, too many, or of another shape; nothing is changed then.
        """
        load_state(self, state, what)

    def save(self, path: Path | str) -> None:
        """Write `state()` to `path` as NumPy's .npz, whole or not at all. For the graph too, export ONNX."""
        from dhhpc.files import replacing

        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **self.state())

    def load(self, path: Path | str) -> None:
        """Take over what `save` wrote.

        Raises:
            DhhpcError: the file is missing or damaged, or belongs to another network.
        """
        self.load_state(read_state(path), str(path))

    # -- running -------------------------------------------------------------------------------------------

    def plan(self, inputs: Sequence[Array], training: bool) -> Plan:
        """The plan for a batch like `inputs` (of `as_inputs`), bound to the arena and ready to run."""
        if not self.built:
            raise DhhpcError(f"{self.name}: call build() before training or predicting")
        batch = len(inputs[0])
        shapes = [tuple(array.shape[1:]) for array in inputs]
        key = (batch, training, *shapes)
        plan = self.plans.pop(key, None)
        if plan is None:
            plan = self.make_plan(batch, shapes, training)
            while len(self.plans) >= KEPT_PLANS:
                self.plans.popitem(last=False)
        self.plans[key] = plan
        if plan.size > self.arena.size:
            self.arena = aligned_bytes(plan.size)
        views_of_all = self.parameter_views, self.gradient_views, self.statistic_views
        plan.bind(self.arena, *views_of_all, self.randomness, self.sum_over_ranks)
        return plan

    def make_plan(self, batch: int, shapes: Sequence[Shape], training: bool) -> Plan:
        outputs = [self.position[id(output)] for output in self.outputs]
        consumed = [id(parent) for layer in self.layers for parent in layer.parents]
        fused = frozenset(
            output
            for output, loss in zip(outputs, self.losses, strict=False)
            if training
            and loss.fused
            and consumed.count(id(self.layers[output])) == 0
            and consumed.count(id(self.layers[output].parents[0])) == 1
            and self.layers[output].parents[0] not in self.outputs
        )
        inputs = [self.position[id(layer)] for layer in self.inputs]
        return Plan(self.layers, inputs, outputs, shapes, batch, training, fused, self.kernels, self.memory)

    def compute_gradients(
        self,
        inputs: Sequence[Array],
        targets: Sequence[Array],
        first_sample: int = 0,
        completed: Callable[[int], None] | None = None,
    ) -> dict[str, float]:
        """Forward, loss and backward on one batch: fills `gradient_vector`, updates no parameter.

        Called again before the next step, it draws the same random numbers.

        Args:
            inputs: an array an input, (samples, channels, height, width).
            targets: an array an output, of its shape, or whole-number class indices without the class axis.
            first_sample: where this batch begins in the batch of all ranks.
            completed: called during the backward pass with a place in `gradient_vector`, from the last to the
                first, from which on the gradients are there.

        Returns:
            "loss" and each metric, means over the samples.

        Raises:
            NotFiniteError: the loss is NaN or infinite; names the layer that was the first to produce such a
                number. Parameters, statistics and gradients are then as before.
            NotFiniteElsewhereError: the same on another rank, with statistics over the ranks.
            DhhpcError: the arrays do not fit the network.
        """
        plan, results = self.forward_with_loss(inputs, targets, first_sample)
        plan.backward(completed=CompletedTail(self.gradient_vector, completed) if completed else None)
        return results

    def forward_with_loss(
        self, inputs: Sequence[Array], targets: Sequence[Array], first_sample: int
    ) -> tuple[Plan, dict[str, float]]:
        """The plan, which has run forward and holds the losses' gradients, and the results."""
        if not self.losses:
            raise DhhpcError(f"{self.name}: built without losses; give build() one an output")
        inputs = as_inputs(inputs, self.inputs, self.name)
        targets = as_targets(targets, self.outputs, self.name, inputs)
        plan = self.plan(inputs, training=True)
        self.randomness.step = self.optimizer.step_count if self.optimizer is not None else 0
        self.randomness.first_sample = first_sample
        np.copyto(self.statistics_before, self.statistics_vector)
        predictions = plan.forward(inputs)
        results = {"loss": 0.0}
        for number, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
            logits = plan.logits(number) if plan.outputs[number] in plan.fused else None
            keep_classes = logits is not None and self.losses[number].takes_classes
            expected = as_target(target, prediction.shape, self.outputs[number].describe(), keep_classes)
            if number == 0:
                results |= self.metric_values(prediction, expected)
            gradient = plan.loss_gradient(number)
            results["loss"] += self.losses[number].gradient(
                self.kernels, prediction, expected, gradient, logits
            )
        finiteness.check_loss(self, plan, inputs, targets, results["loss"])
        return plan, results

    def metric_values(self, prediction: Array, target: Array) -> dict[str, float]:
        """Each metric of a batch."""
        return {name: metric(name)(prediction, target) for name in self.metrics}

    def not_finite(
        self, plan: Plan, inputs: Sequence[Array], targets: Sequence[Array], loss: float
    ) -> finiteness.NotFiniteError:
        """The error for the loss of a batch on which `plan` has just run, that is NaN or infinite."""
        return finiteness.not_finite_loss(self, plan, inputs, targets, loss)

    def apply_gradients(self) -> None:
        """One step of the optimizer along `gradient_vector`."""
        self.get_optimizer().step(self.kernels, self.parameter_vector, self.gradient_vector)

    def get_optimizer(self) -> Optimizer:
        if self.optimizer is None:
            raise DhhpcError(f"{self.name}: built without an optimizer; give build() one")
        return self.optimizer

    def train_batch(
        self, inputs: Sequence[Array], targets: Sequence[Array], first_sample: int = 0
    ) -> dict[str, float]:
        """`compute_gradients` and `apply_gradients` in one: the same but for rounding, in less memory, as the
        gradients of large dense layers are used up piece by piece and not left in `gradient_vector`."""
        optimizer = self.get_optimizer()
        plan, results = self.forward_with_loss(inputs, targets, first_sample)
        step = EarlyStep(optimizer, self.kernels, self.parameter_vector, self.gradient_vector)
        plan.backward(step)
        step.finish()
        return results

    def predict(self, inputs: Sequence[Array], batch_size: int | None = None) -> list[Array]:
        """The outputs for `inputs`, in batches of `batch_size` (all at once unless given).

        Images may have another size than Input declared where every layer allows it.
        """
        inputs = as_inputs(inputs, self.inputs, self.name)
        count = len(inputs[0])
        size = batch_size or count
        parts: list[list[Array]] = []
        for start in range(0, count, size):
            batch = [array[start : start + size] for array in inputs]
            parts.append([output.copy() for output in self.plan(batch, training=False).forward(batch)])
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def evaluate(
        self, inputs: Sequence[Array], targets: Sequence[Array], batch_size: int = 32
    ) -> dict[str, float]:
        """Loss and metrics over all samples, each counted alike.

        Raises:
            NotFiniteError: a loss is NaN or infinite.
        """
        inputs = as_inputs(inputs, self.inputs, self.name)
        targets = as_targets(targets, self.outputs, self.name, inputs)
        count = len(inputs[0])
        totals: dict[str, float] = {}
        for start in range(0, count, batch_size):
            batch = [array[start : start + batch_size] for array in inputs]
            plan = self.plan(batch, training=False)
            predictions = plan.forward(batch)
            weight = len(batch[0]) / count
            for number, prediction in enumerate(predictions):
                part = targets[number][start : start + batch_size]
                expected = as_target(part, prediction.shape, self.outputs[number].describe())
                found = {"loss": self.losses[number].value(self.kernels, prediction, expected)}
                if not math.isfinite(found["loss"]):
                    raise self.not_finite(plan, batch, [part], found["loss"])
                if number == 0:
                    found |= self.metric_values(prediction, expected)
                for name, value in found.items():
                    totals[name] = totals.get(name, 0.0) + weight * value
        return totals

    def fit(
        self,
        inputs: Sequence[Array],
        targets: Sequence[Array],
        batch_size: int = 32,
        epochs: int = 1,
        seed: int = 1,
        report: Callable[[int, dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Train on arrays in memory, shuffled every epoch; returns each epoch's mean loss and metrics.

        `report(epoch, results)` is called after each epoch. For shards, ranks and checkpoints there is
        `dhhpc.training`.
        """
        inputs = as_inputs(inputs, self.inputs, self.name)
        targets = as_targets(targets, self.outputs, self.name, inputs)
        count = len(inputs[0])
        history = []
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(count)
            totals: dict[str, float] = {}
            for start in range(0, count, batch_size):
                chosen = order[start : start + batch_size]
                found = self.train_batch(
                    [array[chosen] for array in inputs], [array[chosen] for array in targets]
                )
                for name, value in found.items():
                    totals[name] = totals.get(name, 0.0) + value * len(chosen) / count
            history.append(totals)
            if report is not None:
                report(epoch, totals)
        return history

    # -- describing ----------------------------------------------------------------------------------------

    def summary(self, batch: int = 1) -> str:
        """A table of the layers, the number of parameters, and the memory of a step on `batch` samples."""
        return summarize(self, batch)
