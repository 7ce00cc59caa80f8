"""`parallel.method: spatial`: every rank trains on its rows of every image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dhhpc.mpi import World
from dhhpc.training.averaging import Averaging
from dhhpc.training.combinations import Array
from dhhpc.training.meeting import Meeting

if TYPE_CHECKING:
    from dhhpc.eddl import Model


class SpatialTraining(Averaging):
    """The ranks compute every batch together, each the rows that it holds of every activation, so that images
    may be too large for one of them; see `dhhpc.eddl.spatial.decompose`."""

    averages_gradients = True
    cuts_images = True

    def __init__(self, world: World, model: Model, meeting: Meeting) -> None:
        from dhhpc.eddl.spatial import decompose

        super().__init__(world, model, meeting)
        self.part = decompose(model, world)
        self.network = self.part

    def share_of(self, array: Array) -> Array:
        return self.part.cut(array)

    def after_gradients(self, samples: int, global_samples: int) -> None:
        """The network's part has summed them."""
        self.meeting.meet()

    def after_batch(self, samples: int, global_samples: int) -> bool:
        self.averagings += 1
        return True

    def end_of_epoch(self, last: bool) -> None:
        self.meeting.meet()
