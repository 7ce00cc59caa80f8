"""What all methods by which ranks learn together have in common, as keys of `parallel` in an experiment."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

import pydantic

from dhhpc.documents import Document
from dhhpc.errors import DhhpcError
from dhhpc.mpi import Compression, World
from dhhpc.training.averaging import Averaging
from dhhpc.training.compression import CompressionChoice
from dhhpc.training.meeting import Meeting

if TYPE_CHECKING:
    from dhhpc.eddl import Model


def check_split(value: object) -> object:
    weights = value if isinstance(value, list) else []
    numbers = [weight for weight in weights if isinstance(weight, int | float) and 0 < weight < math.inf]
    if value not in ("equal", "measured") and (not weights or len(numbers) < len(weights)):
        raise ValueError("choose `equal`, `measured`, or a list of a weight above 0 for each rank")
    return value


Split = Annotated[Literal["equal", "measured"] | list[float], pydantic.BeforeValidator(check_split)]


class Method(Document, ABC):
    """What all methods share.

    Attributes:
        batch: `multiply`: every rank takes `batch_size` samples, so the global batch grows with the ranks;
            `divide`: the ranks share `batch_size`.
        scale_learning_rate: with the ranks: `linear` (Goyal et al., 2017) or `square_root` (Krizhevsky,
            2014) for a global batch that grows; `schedule.warmup_epochs` eases it in.
        split: `equal`: every rank takes as much of a batch; `measured`: in proportion to its speed, measured
            before the first epoch, and again in each epoch, for ranks on unlike or busy nodes; or a list of a
            weight for each rank, such as the samples of a batch that `dhhpc scale allocate` gives it.
        compression: of what ranks send; see `CompressionChoice`.
        hierarchy: `flat`: sums are MPI's own, which may or may not heed what ranks share; `nodes`: ranks of a
            node combine in memory that they share, and one of them talks to other nodes (see `Hierarchy`).
        ranks_per_node: with `nodes`, so many ranks with neighbouring numbers combine in place of those that
            share memory, for instance those of a socket.
    """

    compresses: ClassVar[bool] = True
    sums_by_nodes: ClassVar[bool] = True

    batch: Literal["multiply", "divide"] = "multiply"
    scale_learning_rate: Literal["none", "linear", "square_root"] = "none"
    split: Split = "equal"
    compression: CompressionChoice | None = None
    hierarchy: Literal["flat", "nodes"] = "flat"
    ranks_per_node: pydantic.PositiveInt | None = None

    @pydantic.field_validator("compression")
    @classmethod
    def _check_compression(cls, value: CompressionChoice | None) -> CompressionChoice | None:
        if value is not None and not cls.compresses:
            name = cls.model_fields["method"].annotation
            raise ValueError(f"method {get_args(name)[0]} compresses nothing; leave compression out")
        return value

    @pydantic.field_validator("hierarchy")
    @classmethod
    def _check_hierarchy(cls, value: str, info: pydantic.ValidationInfo) -> str:
        if value == "nodes" and not cls.sums_by_nodes:
            raise ValueError("method two-level has one of its own; leave hierarchy out")
        if value == "nodes" and info.data.get("compression") is not None:
            raise ValueError("does not go with parallel.compression; leave one of them out")
        return value

    @pydantic.field_validator("ranks_per_node")
    @classmethod
    def _check_ranks_per_node(cls, value: int | None, info: pydantic.ValidationInfo) -> int | None:
        if value is not None and info.data.get("hierarchy") == "flat":
            raise ValueError("is of parallel.hierarchy: nodes; set that too, or leave this out")
        return value

    def compress(self) -> Compression | None:
        """How, if ranks do."""
        return None if self.compression is None else self.compression.create()

    def dealt(self, ranks: int) -> int:
        """Among how many the samples of a batch are dealt out: the ranks, or 1 if each gets all."""
        return ranks

    def learning_rate_factor(self, ranks: int) -> float:
        """What the experiment's learning rate is multiplied by."""
        count = self.dealt(ranks)
        return {"none": 1.0, "linear": float(count), "square_root": math.sqrt(count)}[
            self.scale_learning_rate
        ]

    def check(self, model: Model, ranks: int) -> None:
        """Refuse a built network with which the method does not work on so many ranks.

        Raises:
            DhhpcError: it does not, or `split` is for another number of ranks.
        """
        if isinstance(self.split, list) and len(self.split) != ranks:
            raise DhhpcError(
                f"parallel.split: has weights for {len(self.split)} ranks, but there are {ranks}; start "
                f"{len(self.split)} ranks, give a weight for each, or choose `measured`"
            )

    def growth(self, ranks: int) -> float:
        """How many times as far as one rank's the steps of all ranks together should go, with methods that
        lengthen them: a rank that takes its share of the samples makes a share of the steps, unless the
        learning rate makes up for that."""
        steps = ranks if self.batch == "multiply" else 1
        return max(1.0, steps / self.learning_rate_factor(ranks))

    @abstractmethod
    def create(self, world: World, model: Model, meeting: Meeting, batches: int) -> Averaging:
        """The method on this rank.

        Args:
            batches: of the whole run.
        """
