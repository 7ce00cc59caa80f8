"""What the end of a log tells: the last error, the rank that it is of, and who ended the job.

Known are the words of dhhpc's ranks, of Python's tracebacks, of srun and slurmstepd, of pbs_mom, and of the
mpiexec of MPICH and Open MPI.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dhhpc.batch.jobs import words_of_pbs

# What is read of a log's end, in bytes.
END_BYTES = 1 << 18

# slurmstepd tells when a job, or a step of it, is ended from outside; its name may carry the node's.
ENDED = re.compile(
    r"^slurmstepd\S*: error: \*\*\* (?P<what>JOB|STEP) \S+ ON (?P<node>\S+) CANCELLED AT \S+"
    r"(?: DUE TO (?P<why>[A-Z ]+))?"
)
QUEUED_AGAIN = ("JOB REQUEUE", "PREEMPTION", "NODE FAILURE")
CAUSES = {"TIME LIMIT": "time limit", "PREEMPTION": "preemption", "NODE FAILURE": "node failure"}
MEMORY = re.compile(
    r"exceeded (?:job |step )?memory limit|\boom[-_]kill|out[ -]of[ -]memory|MemoryError\b|std::bad_alloc"
    r"|Cannot allocate memory",
    re.IGNORECASE,
)
MEMORY_LIMIT = re.compile(r"exceeded memory limit \((?P<taken>\d+) > (?P<limit>\d+)\)")
# pbs_mom tells why it has killed a job.
KILLED_BY_PBS = re.compile(r"^=>> PBS: job killed: (?P<what>\w+) .*exceeded limit")
LIMITS_OF_PBS = {"walltime": "time limit", "cput": "time limit", "mem": "memory", "vmem": "memory"}
# What a job's script says when SLURM has told it so.
PREEMPTED = "job: a job of higher priority takes its nodes"
RANK_LOST = re.compile(r"^dhhpc: .*; all ranks end, go on with --resume")

# "rank 1 on node2: message" is the rank's own word, "rank 1 on node2 (pid 7) has died" that of another.
RANK = re.compile(r"^dhhpc: rank (?P<rank>\d+) on (?P<host>[^\s:]+)(?P<own>: )?")
TASK = re.compile(r"^srun: error: (?P<host>\S+): tasks? (?P<rank>\d+)[\d,-]*: (?P<how>.*)")
HYDRA_PLACE = re.compile(r"^=\s+(?:RANK (?P<rank>\d+) )?PID \d+ RUNNING AT (?P<host>\S+)")
HYDRA_SIGNAL = re.compile(r"TERMINATED WITH THE EXIT STRING: (?P<name>.*) \(signal (?P<signal>\d+)\)")
OPEN_MPI = re.compile(
    r"process rank (?P<rank>\d+) with PID \S+ on node (?P<host>\S+) exited on (?P<how>.*?)\.?$"
)
EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(?:: .*)?$")
TRACEBACK = "Traceback (most recent call last):"
ERROR = re.compile(
    r"error:|not found|no such file|denied|cannot|failed|fatal|aborted|fault\b|terminate called",
    re.IGNORECASE,
)
# Ranks that are ended because another one failed.
CONSEQUENCE = re.compile(r"Terminated|Killed|SIGCONT|SIGTERM")
LAUNCHER = re.compile(
    r"^Terminated$|^(?:srun|slurmstepd\S*): |^=|^YOUR APPLICATION|^This typically|^Please see the FAQ"
)


@dataclass(frozen=True)
class LastWords:
    """What a log tells of a job's end; None for what it does not.

    Attributes:
        line: the last error line, of the failing rank where it can be told.
        last: the last line of all.
        rank, host: whose it is.
        cause: "memory", "time limit", "preemption", "node failure", "cancelled" or "rank lost".
        node: the node on which SLURM ended the job.
        memory: bytes taken and bytes allowed, where SLURM names them.
        signal: the number of the signal that ended the rank, where only mpiexec tells.
    """

    line: str | None = None
    last: str | None = None
    rank: int | None = None
    host: str | None = None
    cause: str | None = None
    node: str | None = None
    memory: tuple[int, int] | None = None
    signal: int | None = None


def read_last_words(log: Path) -> LastWords | None:
    """The last words of a job's last attempt, then what PBS says of it; None when nothing is written."""
    text = "\n".join(end_of(path) for path in (log, words_of_pbs(log)))
    return last_words(text) if text.strip() else None


def end_of(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - END_BYTES))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def last_words(text: str) -> LastWords:
    lines = last_attempt([line.rstrip() for line in text.splitlines() if line.strip()])
    words = LastWords(last=lines[-1].strip())
    # The later, the surer.
    for find in (any_error, error_of_launcher, error_of_python, error_of_dhhpc):
        words = find(lines, words)
    return cause_of_end(lines, words)


def last_attempt(lines: list[str]) -> list[str]:
    """The lines since SLURM queued the job again; those before if nothing but its own words came since."""
    begin = 0
    for number, line in enumerate(lines):
        match = ENDED.match(line)
        if match and match["what"] == "JOB" and (match["why"] or "").startswith(QUEUED_AGAIN):
            # What the launcher has to say of the end comes after it.
            later = range(number + 1, len(lines))
            begin = next((after for after in later if not LAUNCHER.match(lines[after])), begin)
    return lines[begin:]


def cause_of_end(lines: list[str], words: LastWords) -> LastWords:
    cause = node = memory = None
    for line in lines:
        ended = ENDED.match(line)
        if ended:
            why = next((CAUSES[key] for key in CAUSES if (ended["why"] or "").startswith(key)), "cancelled")
            # What SLURM says of a step that it has killed for its memory is that it was cancelled.
            if cause is None or why != "cancelled":
                cause, node = why, ended["node"]
        if MEMORY.search(line):
            cause = "memory"
            found = MEMORY_LIMIT.search(line)
            memory = (int(found["taken"]), int(found["limit"])) if found else memory
            if words.line is None or CONSEQUENCE.search(words.line):
                words = replace(words, line=line)
        if RANK_LOST.match(line):
            cause = "rank lost"
        if line == PREEMPTED:
            cause = "preemption"
        if killed := KILLED_BY_PBS.match(line):
            cause = LIMITS_OF_PBS.get(killed["what"], cause)
    return replace(words, cause=cause, node=node, memory=memory)


def error_of_launcher(lines: list[str], words: LastWords) -> LastWords:
    """Which rank srun, mpiexec or mpirun say to have failed first."""
    tasks = [match for line in lines if (match := TASK.match(line))]
    first = next((match for match in tasks if not CONSEQUENCE.search(match["how"])), None)
    for match in (first or (tasks[0] if tasks else None), *map(OPEN_MPI.search, lines)):
        if match:
            # An error in words tells more than an exit code.
            bare = words.line and match["how"].startswith("Exited with exit code")
            line = words.line if bare else match["how"]
            words = replace(words, line=line, rank=int(match["rank"]), host=match["host"])
    for line in lines:
        if match := HYDRA_PLACE.match(line):
            words = replace(words, rank=int(match["rank"]) if match["rank"] else None, host=match["host"])
        if match := HYDRA_SIGNAL.search(line):
            words = replace(words, line=match["name"], signal=int(match["signal"]))
    return words


def any_error(lines: list[str], words: LastWords) -> LastWords:
    """The last line that sounds like an error, of a shell or of a library."""
    for line in reversed(lines):
        if ERROR.search(line) and not LAUNCHER.match(line):
            return replace(words, line=line.strip())
    return words


def error_of_python(lines: list[str], words: LastWords) -> LastWords:
    """The exception below the last traceback."""
    for number in reversed(range(len(lines))):
        if TRACEBACK in lines[number]:
            for line in lines[number + 1 :]:
                if EXCEPTION.match(line) and not LAUNCHER.match(line):
                    return replace(words, line=line, **place_of(lines[number]))
    return words


def error_of_dhhpc(lines: list[str], words: LastWords) -> LastWords:
    """The last line in which dhhpc names a failure; a defect's traceback follows such a line."""
    for line in reversed(lines):
        if line.startswith("dhhpc: "):
            if line.endswith(TRACEBACK):
                return words
            match = RANK.match(line)
            begin = match.end() if match and match["own"] else len("dhhpc: ")
            return replace(words, line=line[begin:], **place_of(line))
    return words


def place_of(line: str) -> dict[str, Any]:
    match = RANK.match(line)
    return {"rank": int(match["rank"]), "host": match["host"]} if match else {}


def last_error_line(log: Path) -> str:
    """The last error line of a log, in words where there is none."""
    words = read_last_words(log)
    return (words and (words.line or words.last)) or "it wrote nothing"


def ending(code: int) -> str:
    """How a process ended, in words; shells and mpiexec report signal n as 128 + n, subprocess as -n."""
    number = -code if code < 0 else code - 128
    if number in set(signal.Signals):
        return f"ended by {signal.Signals(number).name}"
    return f"exit code {code}"
