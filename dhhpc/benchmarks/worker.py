"""One side of the comparison in a process of its own, which times what it is told to.

It reads commands from stdin, a JSON list a line, and answers each with a line of JSON on stdout. Processes
keep the thread pools of the two sides apart and make the peak memory of each one's own.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from dhhpc.benchmarks.cases import CASES

SIDES = {"dhhpc": "dhhpc.benchmarks.own_side", "torch": "dhhpc.benchmarks.torch_side"}


class Worker:
    """What a side can be told to do; each method is a command."""

    def __init__(self, side: str, threads: int) -> None:
        self.side = importlib.import_module(SIDES[side])
        self.side.set_threads(threads)
        self.call: Any = None

    def prepare(self, name: str) -> float:
        """Make the case ready, compile and warm up; returns the seconds of one call."""
        self.call = None  # frees the last case's arrays first
        (case,) = [case for case in CASES if case.name == name]
        self.call = self.side.prepare(case)
        self.call()
        return self.run(1)

    def run(self, repetitions: int) -> float:
        """Mean seconds of a call. Short calls are warmed up by one more: threads fell asleep meanwhile."""
        if repetitions > 1:
            self.call()
        started = time.perf_counter()
        for _ in range(repetitions):
            self.call()
        return (time.perf_counter() - started) / repetitions

    def peak_gflops(self) -> float:
        """The machine's measured peak, on our kernels' threads."""
        from dhhpc_kernels.cpu.peak import peak_gflops

        return peak_gflops()

    def peak_memory(self) -> int:
        """The largest resident size so far, in bytes.

        Not getrusage's ru_maxrss, which a process takes over from the one that started it.
        """
        status = Path("/proc/self/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024


def main() -> None:
    side, threads = sys.argv[1], int(sys.argv[2])
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(side, threads)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(getattr(worker, command)(*arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
