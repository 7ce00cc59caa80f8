"""The energy of runs, where the machine tells it: a counter of the processor, or the accounting of SLURM.

Neither knows of fans, disks and networks, and both count all that runs on the machine meanwhile.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dhhpc.files import read_json, write_json

ENERGY = "energy.json"
# Linux, "Power Capping Framework" (Documentation/power/powercap): Intel's and AMD's RAPL.
POWERCAP = Path("/sys/class/powercap")
SECONDS = 20


class Rapl:
    """The energy of this machine's processor packages and memory, by RAPL.

    The counters start again at zero after some minutes to hours: call `sample` more often than that.

    Args:
        folder: where Linux shows the counters.

    Attributes:
        missing: why there is none to be read, in words; None if there is.
        joules: since this was made, at the last sample.
    """

    def __init__(self, folder: Path = POWERCAP) -> None:
        self.joules, self.missing = 0.0, None if folder.is_dir() else f"there is no {folder}"
        self.counters: list[tuple[Path, int, int]] = []
        if self.missing:
            return
        try:
            # "intel-rapl:0" is a package, and "intel-rapl:0:0" a part of it, of which memory counts apart.
            for counter in sorted(folder.glob("*-rapl:*")):
                name = (counter / "name").read_text().strip()
                if name.startswith("package") or name == "dram":
                    most = int((counter / "max_energy_range_uj").read_text())
                    file = counter / "energy_uj"
                    self.counters.append((file, most, int(file.read_text())))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            self.missing = f"the counters in {folder} cannot be read ({reason})"
        if not self.counters and not self.missing:
            self.missing = f"{folder} has no RAPL counter"

    def sample(self) -> None:
        """Count what was used since the last sample."""
        for number, (file, most, before) in enumerate(self.counters):
            with contextlib.suppress(OSError, ValueError):
                now = int(file.read_text())
                self.joules += (now - before if now >= before else now + most - before) / 1e6
                self.counters[number] = (file, most, now)

    def write(self, run: Path, hosts: Sequence[str]) -> None:
        """Leave in the folder of a run, which was on these machines, what was counted, or why nothing was."""
        self.sample()
        elsewhere = [host for host in hosts if host != socket.gethostname()]
        missing = f"RAPL of this machine does not tell that of {elsewhere[0]}" if elsewhere else self.missing
        if missing:
            write_json(run / ENERGY, {"joules": None, "source": f"not counted: {missing}"})
        else:
            write_json(run / ENERGY, {"joules": self.joules, "source": "RAPL, the whole machine"})


def energy_of(run: Path, content: dict[str, Any]) -> tuple[float | None, str]:
    """Joules of a run, None where unknown, and where they are from or why they are not known.

    Args:
        run: its folder; a study leaves there what it has counted.
        content: of its record, which names its job, if that ran nothing else.
    """
    if (run / ENERGY).is_file():
        found = read_json(run / ENERGY)
        return found["joules"], found["source"]
    job = content.get("slurm_job_id")
    if not job:
        return None, "nothing counted it: `dhhpc scale run` does where RAPL can be read"
    if content.get("resumed"):
        return None, f"the run was resumed, and SLURM could tell the energy of its last job, {job}, alone"
    try:
        command = ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}"]
        result = subprocess.run(
            [*command, "--format=ConsumedEnergyRaw"], capture_output=True, text=True, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"sacct cannot be asked about job {job} ({type(error).__name__})"
    if result.returncode:
        return None, f"sacct knows nothing of job {job}"
    return consumed(result.stdout, job)


def consumed(told: str, job: str) -> tuple[float | None, str]:
    """The joules in what sacct tells of a job: 0 or nothing where AcctGatherEnergyType gathers none."""
    joules = sum(float(line) for line in told.split() if line.isdigit())
    if not joules:
        return None, f"SLURM gathered no energy of job {job} (AcctGatherEnergyType)"
    return joules, f"SLURM, all of job {job}"
