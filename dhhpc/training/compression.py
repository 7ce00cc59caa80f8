"""`parallel.compression`: what ranks tell each other is sent in fewer bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import pydantic

from dhhpc.documents import Document
from dhhpc.mpi import BFloat16, CompressedSum, Compression, Float16, TopK, World
from dhhpc.training.combinations import Array

if TYPE_CHECKING:
    from dhhpc.eddl import Model

RATIO = 0.01


class CompressionChoice(Document):
    """Gradients, or how far parameters have come, are sent compressed, and what that leaves over is added to
    what is sent the next time (see `CompressedSum`). Batch-norm statistics, the state of optimizers and
    counts are sent as they are.

    Attributes:
        method: `fp16` and `bf16`: two bytes a number, so half the bytes; `fp16` rounds to 11 bits of the
            largest number's range, `bf16` to 8 bits of any number. `top-k`: the largest ones alone.
        ratio: the share of the numbers that `top-k` sends, 0.01 unless given; 8 bytes each, to all ranks, so
            it saves bytes below 1/ranks.
    """

    method: Literal["fp16", "bf16", "top-k"]
    ratio: float | None = pydantic.Field(default=None, gt=0, le=1)

    @pydantic.model_validator(mode="after")
    def _check_ratio(self) -> Self:
        if self.ratio is not None and self.method != "top-k":
            raise ValueError(f"ratio is of top-k, {self.method} sends all numbers; leave ratio out")
        return self

    def create(self) -> Compression:
        if self.method == "top-k":
            return TopK(RATIO if self.ratio is None else self.ratio)
        return Float16() if self.method == "fp16" else BFloat16()


class CompressedMean:
    """The mean of vectors from which ranks start alike: what is sent is how far each has come.

    Local SGD with compression and memory (Basu et al., 2019, "Qsparse-local-SGD").

    Args:
        differs: vectors are differences already, of ranks that do not start alike.

    Attributes:
        reference: from where the ranks started, alike on all of them; None where vectors are differences.
    """

    def __init__(self, world: World, model: Model, compression: Compression, differs: bool) -> None:
        self.model = model
        self.sum = CompressedSum(world, model.parameter_vector.size, compression)
        self.reference: Array | None = None if differs else model.parameter_vector.copy()

    def begin(self) -> None:
        """All ranks hold the same model, and nothing is left over."""
        self.sum.unsent.fill(0)
        self.starts()

    def starts(self) -> None:
        """The ranks start from the model's parameters now."""
        if self.reference is not None:
            self.reference[:] = self.model.parameter_vector

    def average(self, vector: Array, share: float) -> None:
        """Replace `vector` by its mean over the ranks, whose shares of it sum to 1."""
        way = vector.copy() if self.reference is None else vector - self.reference
        way *= np.float32(share)
        self.sum.begin(way).wait()
        np.copyto(vector, way)
        if self.reference is not None:
            vector += self.reference
