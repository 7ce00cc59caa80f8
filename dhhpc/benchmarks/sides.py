"""The parent's end of a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from dhhpc.errors import DhhpcError


class Side:
    """A worker process; use it in a `with`.

    Args:
        name: of `worker.SIDES`.
        threads: for its kernels.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dhhpc.benchmarks.worker", name, str(threads)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str, *arguments: Any) -> Any:
        """The worker's answer to a command.

        Raises:
            DhhpcError: the worker ended instead; its traceback is on stderr.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # told below, with the exit code
        answer = self.process.stdout.readline()
        if not answer:
            what = " ".join(map(str, (command, *arguments)))
            code = self.process.wait()
            raise DhhpcError(f"benchmark of {self.name}: {what!r} ended with exit code {code}; see above why")
        return json.loads(answer)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()
