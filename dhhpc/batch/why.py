"""What became of a job and why, in plain words: from its scheduler, or from its log alone."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dhhpc.batch.job_log import LastWords, read_last_words
from dhhpc.batch.jobs import JobRecord, JobStatus, job_records
from dhhpc.batch.pbs_reasons import explain_code, explain_comment
from dhhpc.batch.reasons import explain_reason
from dhhpc.batch.schedulers import scheduler_for
from dhhpc.errors import DhhpcError

# What ranks end with when they can go on from a checkpoint (EX_TEMPFAIL of sysexits.h).
TRY_AGAIN = 75
SIGNALLED = 128
STATES = {
    "TIMEOUT": "time limit",
    "DEADLINE": "time limit",
    "OUT_OF_MEMORY": "memory",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "PREEMPTED": "preemption",
    "CANCELLED": "cancelled",
    "COMPLETED": "completed",
}
CODES = {
    1: "a failure that its last error line tells",
    2: "dhhpc was called wrongly",
    126: "a program of the job script may not be run",
    127: "a program of the job script was not found: a module or an environment may be missing on the node",
}
SIGNALS = {
    signal.SIGKILL: "killed outright, as happens when a node runs out of memory",
    signal.SIGSEGV: "a crash in compiled code",
    signal.SIGABRT: "a library gave up",
    signal.SIGBUS: "a crash, as happens when /dev/shm or a disk is full",
    signal.SIGILL: "an instruction that the node's processor does not have",
    signal.SIGTERM: "it was asked to end",
    signal.SIGINT: "it was interrupted",
    signal.SIGUSR1: "it was warned of its end, and did not heed",
}
MENDS = {
    "time limit": "--resume goes on from the last checkpoint; a longer --time needs fewer turns",
    "memory": "ask for more memory or fewer ranks a node, or train with a smaller batch_size or memory: low",
    "node failure": "nothing of yours to mend; --resume goes on from the last checkpoint",
    "preemption": "nothing of yours to mend; --resume goes on from the last checkpoint",
    "rank lost": "--resume goes on from the last checkpoint",
    "stopped": "--resume goes on from the last checkpoint",
    "cancelled": "--resume goes on from the last checkpoint",
    "parent": "mend the other job first",
    "signal": "look at the end of the log",
    "exit code": "mend what the last error line names",
    "unknown": "look at the log",
}
# A job in what squeue tells of dependencies, "afterok:12_*(unfulfilled)"; of PBS it has a server, "12[].pbs".
PARENT = r":(\d+(?:\[\])?(?:\.[\w.-]+)?)(?:_[\d*]+)?(?:\+\d+)?(?:\((\w+)\))?"
# Where a job's script says what was asked for.
OPTIONS = {
    "slurm": {name: rf"^#SBATCH --{name}=(\S+)$" for name in ("time", "partition", "account", "array")},
    "pbs": {
        "time": r"^#PBS -l walltime=(\S+)$",
        "partition": r"^#PBS -q (\S+)$",
        "account": r"^#PBS -A (\S+)$",
        "array": r"^#PBS -J (\S+)$",
        "threads": r"^#PBS -l select=.*:ompthreads=(\d+)",
    },
}


@dataclass(frozen=True)
class Explanation:
    """What became of a job, or of some tasks of an array.

    Attributes:
        tasks: of an array, those with this fate.
        state: in SLURM's words; what the log lets one conclude where no scheduler knows.
        cause: "pending", "running", "completed", "time limit", "memory", "node failure", "preemption",
            "cancelled", "parent" (a job that it waited for failed), "rank lost" or "stopped" (to be resumed),
            "signal", "exit code" or "unknown".
        summary: what happened, a sentence without a full stop.
        mend: what helps, "" for nothing to do.
        reason: SLURM's own word.
        exit_code: once it is over.
        error: the last error line of the failing rank, with that rank and its host.
        restarts: how often it was queued again.
        source: "scheduler", or "log" where that alone tells.
        logs: what it has written, those that exist.
        next: a command to give now.
    """

    state: str
    cause: str
    summary: str
    mend: str = ""
    tasks: list[int] = field(default_factory=list)
    reason: str = ""
    exit_code: int | None = None
    error: str | None = None
    rank: int | None = None
    host: str | None = None
    restarts: int = 0
    source: str = "scheduler"
    logs: list[str] = field(default_factory=list)
    next: str = ""


def explain(job: JobRecord, task: int | None = None) -> list[Explanation]:
    """What became of `job` and why; of an array, tasks with the same fate stand together."""
    told = ""
    try:
        status = scheduler_for(job.scheduler, job.site).status(job)
    except DhhpcError as error:
        told, status = str(error), JobStatus("UNREACHABLE")
    if job.tasks is None:
        return [explain_one(job, None, status, told)]
    statuses = status.tasks or (status,) * job.tasks
    chosen = range(job.tasks) if task is None else [task]
    return grouped([explain_one(job, number, statuses[number], told) for number in chosen])


def grouped(explanations: Sequence[Explanation]) -> list[Explanation]:
    groups: dict[str, list[Explanation]] = {}
    for one in explanations:
        fate = repr(replace(one, tasks=[], logs=[], host=None, restarts=0))
        groups.setdefault(fate, []).append(one)
    return [
        replace(
            group[0],
            tasks=[task for one in group for task in one.tasks],
            logs=[log for one in group for log in one.logs],
            restarts=sum(one.restarts for one in group),
        )
        for group in groups.values()
    ]


def explain_one(job: JobRecord, task: int | None, status: JobStatus, told: str) -> Explanation:
    log = job.logs[task or 0]
    words = read_last_words(log)
    found = Explanation(
        state=status.state,
        cause="unknown",
        summary="",
        tasks=[] if task is None else [task],
        reason=status.reason,
        exit_code=status.exit_code,
        restarts=status.restarts,
        logs=[str(log)] if log.is_file() else [],
    )
    if status.state in ("UNKNOWN", "UNREACHABLE"):
        return from_log_alone(job, found, words, told)
    if not status.finished:
        return unfinished(job, task, found, status, words)
    return finished(job, task, found, status, words or LastWords())


def unfinished(
    job: JobRecord, task: int | None, found: Explanation, status: JobStatus, words: LastWords | None
) -> Explanation:
    name = job.id if task is None else f"{job.id}_{task}"
    again = ""
    if status.restarts:
        after = f", after {words.cause}" if words and words.cause else ""
        again = f"; it has been queued again {times(status.restarts)}{after}"
    if status.state != "PENDING":
        # The tasks of an array stand together if nothing parts them.
        where = f" on {status.nodes}" if status.nodes and task is None else ""
        summary = f"it is {status.state.lower()}{where}{again}"
        return replace(found, cause="running", summary=summary, next=f"dhhpc jobs logs {job.id} --follow")
    in_plain_words = explain_comment if job.scheduler == "pbs" else explain_reason
    meaning, mend = in_plain_words(status.reason, name)
    waits_for = parents(status)
    if waits_for and status.reason.startswith("Dependency"):
        meaning = f"{meaning} ({', '.join(waits_for.values())})"
    starts = f"; it is expected to start at {status.starts}" if status.starts else ""
    hopeless = "cancel it" in mend
    chosen = "" if task is None else f" --task {task}"
    return replace(
        found,
        cause="pending",
        summary=f"it is pending: {meaning}{starts}{again}",
        mend=mend,
        next=f"dhhpc jobs cancel {job.id}{chosen}" if hopeless else "",
    )


def parents(status: JobStatus) -> dict[str, str]:
    """The jobs that a job waits for, each in words."""
    names = {record.id: record.name for record in job_records()}
    found = {}
    for identifier, how in re.findall(PARENT, status.dependency):
        name = f" {names[identifier]}" if identifier in names else ""
        state = {"failed": "has not ended as it should", "unfulfilled": "is not over"}.get(how, "")
        found[identifier] = f"job {identifier}{name} {state}".rstrip()
    return found


def finished(
    job: JobRecord, task: int | None, found: Explanation, status: JobStatus, words: LastWords
) -> Explanation:
    cause = STATES.get(status.state) or cause_of_failure(status, words)
    if cause == "cancelled" and status.reason.startswith("Dependency"):
        cause = "parent"
    if cause == "cancelled" and words.cause in ("memory", "time limit"):
        cause = words.cause
    who = scheduler_for(job.scheduler, job.site).canceller(job, task) if cause == "cancelled" else None
    found = replace(found, cause=cause)
    if cause in ("memory", "rank lost", "exit code", "signal", "stopped"):
        found = replace(found, error=words.line or words.last, rank=words.rank, host=words.host)
    if cause == "completed":
        return replace(found, summary="it has completed")
    return replace(
        found,
        summary=in_words(cause, job, found, status, words, who),
        mend=MENDS[cause],
        next=f"dhhpc jobs why {next(iter(parents(status)), 'ID')}"
        if cause == "parent"
        else submit_again(job),
    )


def cause_of_failure(status: JobStatus, words: LastWords) -> str:
    """Why a job has failed of itself: SLURM without control groups tells of memory in the log alone."""
    if words.cause in ("memory", "rank lost"):
        return words.cause
    if status.exit_code == TRY_AGAIN:
        return "stopped"
    if status.exit_code is None or status.exit_code == 0:
        return words.cause or "unknown"
    by_signal = words.signal or status.exit_code - SIGNALLED
    return "signal" if by_signal in set(signal.Signals) else "exit code"


def in_words(
    cause: str, job: JobRecord, found: Explanation, status: JobStatus, words: LastWords, who: str | None
) -> str:
    """What happened, a sentence without a full stop."""
    code = status.exit_code
    where = f" on {words.node or status.nodes}" if words.node or status.nodes else ""
    after = f" after it had been queued again {times(status.restarts)}" if status.restarts else ""
    if cause == "time limit":
        limit = option_of(job, "time")
        text = f"it ran into its time limit{f' of {limit}' if limit else ''}"
    elif cause == "memory":
        amounts = ""
        if words.memory:
            taken, limit_bytes = words.memory
            amounts = f" ({taken / 2**20:.0f} MB taken, {limit_bytes / 2**20:.0f} MB allowed)"
        text = f"it took more memory than it was given{amounts}{where}"
    elif cause == "node failure":
        text = f"a node of it failed{f': it ran on {status.nodes}' if status.nodes else ''}"
    elif cause == "preemption":
        text = "a job of higher priority took its nodes"
    elif cause == "cancelled":
        text = f"it was cancelled by {who}" if who else "it was cancelled; nobody has noted by whom"
    elif cause == "parent":
        text = "it was cancelled since what it waited for did not end well"
        text += "".join(f"; {parent}" for parent in parents(status).values())
    elif cause == "rank lost":
        text = "a rank was lost, and all others ended to be resumed"
    elif cause == "stopped":
        text = f"it was stopped, or lost a rank (exit code {TRY_AGAIN}), and can be resumed"
    elif cause == "signal":
        number = signal.Signals(words.signal or (code or 0) - SIGNALLED)
        text = f"a process of it was ended by {number.name}"
        text += f": {SIGNALS[number]}" if number in SIGNALS else ""
    elif cause == "exit code":
        text = f"it failed with exit code {code}" + (f": {CODES[code]}" if code in CODES else "")
    else:
        text = explain_code(found.reason) or "it failed, and neither its scheduler nor its log tells why"
    return text + after


def from_log_alone(job: JobRecord, found: Explanation, words: LastWords | None, told: str) -> Explanation:
    """What the log tells of a job that no scheduler knows."""
    whence = told or "its scheduler has forgotten it"
    found = replace(found, source="log", next=submit_again(job))
    if words is None:
        return replace(found, summary=f"{whence}, and it has written nothing", mend="submit it again")
    if words.cause is not None:
        state = next((state for state, cause in STATES.items() if cause == words.cause), "FAILED")
        status = JobStatus(state)
        text = in_words(words.cause, job, found, status, words, None)
        shows = replace(found, state=state, cause=words.cause, mend=MENDS[words.cause])
    elif words.line is not None:
        text, shows = "it ended with an error", replace(found, cause="exit code", mend=MENDS["exit code"])
    else:
        text, shows = "there is no error in it", replace(found, mend=MENDS["unknown"])
    return replace(
        shows,
        summary=f"{whence}; going by its log alone, {text}",
        error=words.line or words.last,
        rank=words.rank,
        host=words.host,
    )


def times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def option_of(job: JobRecord, name: str) -> str | None:
    """The value of an option in the directives of the job's script."""
    pattern = OPTIONS.get(job.scheduler, {}).get(name)
    if pattern is None:
        return None
    try:
        text = job.script.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else None


def submit_again(job: JobRecord) -> str:
    """The command that submits the job again, to go on where it has stopped."""
    verb, *arguments = job.arguments
    words = ["dhhpc", "submit", verb, *(argument for argument in arguments if argument != "--resume")]
    array = (option_of(job, "array") or "").partition("%")
    options = {
        "site": job.site,
        "nodes": job.nodes if job.nodes > 1 else None,
        "ranks-per-node": job.ranks // job.nodes if job.ranks > job.nodes else None,
        "partition": option_of(job, "partition"),
        "account": option_of(job, "account"),
        "threads": option_of(job, "threads"),
        "time": option_of(job, "time"),
        "at-once": array[2],
    }
    for name, value in options.items():
        words += [f"--{name}", str(value)] if value else []
    return shlex.join([*words, "--resume"])
