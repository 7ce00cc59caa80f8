"""How much of the communication of gradients lies under the backward pass, on a link of a given speed:

    mpiexec -n 2 python -m dhhpc.benchmarks.overlap [--bucket-megabytes 2] [--gigabits 1] [--latency 0.001]

The step of U-Net (2 x 1 x 256 x 256 a rank, one thread a rank) without communication, with gradients sent in
buckets during the backward pass, and with all of them sent after it, in turn. The link is a model: every sum
is done no earlier than a ring over such links would have done it, one after the other. So what is measured is
the order of work, not a network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import numpy as np

from dhhpc import eddl
from dhhpc.benchmarks import own_side
from dhhpc.benchmarks.cases import CASES, Training
from dhhpc.mpi import Pending, World, connect
from dhhpc.training.averaging import GradientAveraging
from dhhpc.training.meeting import Meeting

ROUNDS = 7


class Delayed(Pending):
    """A sum that has not arrived before a time."""

    def __init__(self, pending: Pending, arrival: float) -> None:
        self.pending, self.arrival = pending, arrival

    def arrived(self) -> bool:
        return time.perf_counter() >= self.arrival and self.pending.arrived()

    def wait(self) -> None:
        time.sleep(max(0.0, self.arrival - time.perf_counter()))
        self.pending.wait()


class SlowWorld(World):
    """The same ranks, on links of a given speed.

    Args:
        gigabits: a second, each way.
        latency: of a sum, in seconds.
    """

    def __init__(self, world: World, gigabits: float, latency: float) -> None:
        super().__init__(world.communicator, world.launcher)
        self.rate, self.latency = gigabits * 1e9 / 8, latency
        self.free_at = 0.0

    def seconds_of(self, size: int) -> float:
        """Of a sum of so many bytes: a ring sends and receives 2 (n - 1) / n of them."""
        return 2 * (self.size - 1) / self.size * size / self.rate + self.latency

    def begin_sum(self, array: Any) -> Pending:
        pending = super().begin_sum(array)
        self.free_at = max(self.free_at, time.perf_counter()) + self.seconds_of(array.nbytes)
        return Delayed(pending, self.free_at)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bucket-megabytes", type=float, default=2.0)
    parser.add_argument("--gigabits", type=float, default=1.0)
    parser.add_argument("--latency", type=float, default=1e-3)
    options = parser.parse_args()
    import dhhpc_kernels

    world = SlowWorld(connect(), options.gigabits, options.latency)
    dhhpc_kernels.set_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[world.local_rank % len(cores)]})
    cases = [case for case in CASES if isinstance(case, Training)]
    (case,) = [case for case in cases if case.name.startswith("training unet 2")]
    network = case.create()
    network.build(eddl.SGD(1e-4, momentum=0.9), ["binary_cross_entropy"], seed=1)
    images = own_side.normal(case.batch, *case.input_shape)
    targets = own_side.targets(case, network)
    count = len(images)
    meeting = Meeting(world)
    bucket = int(options.bucket_megabytes * 2**18)
    during, after = (GradientAveraging(world, network, meeting, size) for size in (bucket, 0))

    def step(method: GradientAveraging | None) -> float:
        world.barrier()
        started = time.perf_counter()
        if method is None:
            network.compute_gradients([images], [targets])
        else:
            completed = method.while_computing(count, count * world.size)
            network.compute_gradients([images], [targets], 0, completed)
            method.after_gradients(count, count * world.size)
        network.apply_gradients()
        world.barrier()
        return time.perf_counter() - started

    for method in (None, during, after):
        step(method)
    rounds = np.array([[step(method) for method in (None, during, after)] for _ in range(ROUNDS)])
    if world.rank:
        return
    alone, hiding, blocking = np.median(rounds, axis=0)
    hidden = statistics.median(1 - (rounds[:, 1] - rounds[:, 0]) / (rounds[:, 2] - rounds[:, 0]))
    sent = world.seconds_of(network.gradient_vector.nbytes)
    print(f"U-Net, {network.parameter_count} parameters: {sent:.3f} s on the modelled link")
    print(f"medians of {ROUNDS} steps: {alone:.3f} s without communication, {hiding:.3f} s with buckets of")
    print(f"{options.bucket_megabytes:g} MB during the backward pass, {blocking:.3f} s with all after it")
    print(f"hidden: {hidden:.0%}")


if __name__ == "__main__":
    main()
