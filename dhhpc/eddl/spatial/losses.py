"""Losses of whole images from predictions that are cut over ranks."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from dhhpc.eddl.graph import Array, Layer
from dhhpc.eddl.losses import Loss, OutputLoss
from dhhpc.eddl.spatial.exchange import Ranks


class SlabLoss(OutputLoss):
    """`OutputLoss` of one rank's rows: its value is that of the whole images, alike on every rank, and its
    gradient the part of the whole's.

    Args:
        names: see `OutputLoss`.
        output: of this rank.
        share: of the images' pixels that this rank has.
        ranks: all of them compute a loss together.
    """

    def __init__(self, names: str, output: Layer, share: float, ranks: Ranks) -> None:
        super().__init__(names, output)
        self.share, self.ranks = share, ranks

    def compute(
        self, kernels: ModuleType, loss: Loss, kernel: str, prediction: Array, target: Array, out: Array
    ) -> float:
        if loss.sums_kernel:
            sums = getattr(kernels, loss.sums_kernel)(prediction, target)
            self.ranks.allreduce_sum(sums)
            return float(getattr(kernels, loss.of_sums_kernel)(target, sums, out))
        # The others are means over pixels.
        total = np.array([super().compute(kernels, loss, kernel, prediction, target, out) * self.share])
        np.multiply(out, np.float32(self.share), out=out)
        self.ranks.allreduce_sum(total)
        return float(total[0])
