"""Daemons that end with the process which started them, their output in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from dhhpc.batch import processes
from dhhpc.errors import DhhpcError

# Debian's daemons lie in sbin, which a user's PATH may lack.
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
START_SECONDS = 30.0
STOP_SECONDS = 15.0


class Daemons:
    """The daemons of one cluster, in the order in which they were started.

    Args:
        folder: where each leaves its output, as NAME.output.
        environment: the variables they run with.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, program: str, *options: str) -> None:
        """Start `program`, which must stay in the foreground, as the daemon `name`."""
        path = shutil.which(program, path=SEARCH_PATH)
        assert path is not None  # missing_programs() has looked
        with open(self.folder / f"{name}.output", "ab") as output:
            self.running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", path, *options],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )

    def alive(self, name: str) -> bool:
        return name in self.running and self.running[name].poll() is None

    def wait_until(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait until `condition` tells that the daemon `name` is ready.

        Raises:
            DhhpcError: it is not in time, or a daemon has ended; with its last error line.
        """

        def ready_or_ended() -> bool:
            return condition() or not all(map(self.alive, self.running))

        in_time = processes.wait_until(ready_or_ended, START_SECONDS)
        ended = [daemon for daemon in self.running if not self.alive(daemon)]
        if ended:
            self.fail(ended[0], "has ended")
        if not in_time:
            self.fail(name, f"is not ready after {START_SECONDS:g} s")

    def fail(self, name: str, problem: str) -> None:
        texts = [
            path.read_text(errors="replace")
            for path in (self.folder / f"{name}.log", self.folder / f"{name}.output")
            if path.exists()
        ]
        lines = [line for text in texts for line in text.splitlines() if "error" in line.lower()]
        said = f" ({lines[-1]})" if lines else ""
        raise DhhpcError(f"virtual cluster: {name} {problem}{said}; see the logs in {self.folder}")

    def kill(self, name: str) -> None:
        """Kill one outright, as when its machine fails."""
        daemon = self.running.pop(name)
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        """End all, the last started first, and wait for them."""
        for daemon in reversed(self.running.values()):
            daemon.terminate()
            try:
                daemon.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.running.clear()
