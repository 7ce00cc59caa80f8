"""A stand-in for PBS: qsub, qstat, qdel and qrerun as their manuals (OpenPBS, doc/man1) have them.

Called by one of these names, with the folder of its jobs in PBS_STAND_IN. Jobs are real processes in sessions
of their own, as many at once as there are; each has a keeper, this program too. Of the site it takes:

    PBS_STAND_IN_HISTORY   0: the server keeps no history of jobs that are over
    PBS_STAND_IN_QRERUN    0: users may not queue jobs again, as PBS has it unless they are operators
    PBS_STAND_IN_COMMENT   the scheduler starts no job, and says this
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(os.environ["PBS_STAND_IN"])
SERVER = "pbs01.cluster"
# What pbs_mom leaves between SIGTERM and SIGKILL; 10 seconds unless the site says otherwise.
KILL_DELAY = 10.0
WALLTIME_EXCEEDED = -29


@contextlib.contextmanager
def jobs() -> Iterator[dict[str, dict[str, Any]]]:
    """What the server knows, by number; subjobs as NUMBER[INDEX]."""
    with open(ROOT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = ROOT / "jobs.json"
        before = path.read_text() if path.exists() else "{}"
        known = json.loads(before)
        yield known
        if (after := json.dumps(known)) != before:
            path.write_text(after)


def qsub(words: list[str]) -> int:
    script = Path(words[-1])
    options = list(words[:-1])
    prefix = options[options.index("-C") + 1] if "-C" in options else os.environ.get("PBS_DPREFIX", "#PBS")
    for line in script.read_text().splitlines():
        if line.startswith(prefix):
            options += shlex.split(line.removeprefix(prefix), comments=False)
    given: dict[str, list[str]] = {}
    for option, value in zip(options[::2], options[1::2], strict=True):
        if not re.fullmatch(r"-[ACJNSWjloqr]", option):
            print(f"qsub: illegal option {option}", file=sys.stderr)
            return 2
        given.setdefault(option, []).append(value)
    if given.get("-q") == ["no-such-queue"]:
        print("qsub: Unknown queue", file=sys.stderr)
        return 170
    resources = dict(each.split("=", 1) for each in given["-l"])
    hours, minutes, seconds = map(int, resources["walltime"].split(":"))
    shape = {
        "Job_Name": given["-N"][0],
        "script": script.read_text(),  # what is submitted does not change with the file
        "walltime": hours * 3600 + minutes * 60 + seconds,
        "output": given["-o"][0],
        "depend": [value.removeprefix("depend=afterok:").split(":") for value in given.get("-W", [])],
        "job_state": "Q",
        "run_count": 0,
    }
    with jobs() as known:
        number = 100 + len([name for name in known if "[" not in name or name.endswith("[]")])
        array = re.fullmatch(r"(\d+)-(\d+)(?:%(\d+))?", given["-J"][0]) if "-J" in given else None
        names = [str(number)]
        if array:
            known[f"{number}[]"] = shape | {"job_state": "B", "at_once": int(array[3] or 10**6)}
            names = [f"{number}[{index}]" for index in range(int(array[1]), int(array[2]) + 1)]
        known |= {name: dict(shape) for name in names}
    for name in names:
        with open(ROOT / "keepers", "ab") as errors:
            subprocess.Popen(
                [sys.executable, __file__, "keep", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
    print(f"{number}{'[]' if array else ''}.{SERVER}")
    return 0


def keep(name: str) -> None:
    """One job from its queue to its end."""
    while may_begin(name):
        with jobs() as known:
            job = known[name]
            if not has_room(name, known):
                job = {}
            if job:
                job |= {"job_state": "R", "run_count": job["run_count"] + 1, "exec_host": "n1/0*2+n2/0*2"}
        if not job:
            time.sleep(0.05)
            continue
        code = run(name, job)
        with jobs() as known:
            job = known[name]
            if job.pop("rerun", False):
                job |= {
                    "job_state": "Q",
                    "exec_host": "",
                    "comment": "Not Running: Job has been queued again",
                }
                continue
            job |= {"job_state": "F", "Exit_status": code, "substate": 91 if job.get("deleted") else 92}
            return


def may_begin(name: str) -> bool:
    """Wait until nothing holds the job; False once it is deleted."""
    while True:
        with jobs() as known:
            job = known[name]
            parents = [known.get(parent.split(".")[0], {}) for ids in job["depend"] for parent in ids]
            states = [whole_state(parent, known) for parent in parents]
            failed = any(state == "F" and code != 0 for state, code in states)
            if failed or job.get("deleted"):
                job |= {"job_state": "F", "substate": 91 if job.get("deleted") else 93}
                return False
            waits = any(state != "F" for state, _ in states)
            job["job_state"] = "H" if waits else "Q"
            job["comment"] = os.environ.get("PBS_STAND_IN_COMMENT", "")
            if not waits and not job["comment"]:
                return True
        time.sleep(0.05)


def whole_state(job: dict[str, Any], known: dict[str, dict[str, Any]]) -> tuple[str, int]:
    """Of an array: over when all its subjobs are, with the worst exit status of them."""
    parts = [each for name, each in known.items() if "at_once" in job and is_part(name, job, known)]
    if not parts:
        return job.get("job_state", "F"), job.get("Exit_status", 1)
    over = all(part["job_state"] == "F" for part in parts)
    return "F" if over else "B", max(abs(part.get("Exit_status", 1)) for part in parts)


def is_part(name: str, array: dict[str, Any], known: dict[str, dict[str, Any]]) -> bool:
    match = re.fullmatch(r"(\d+)\[\d+\]", name)
    return match is not None and known[f"{match[1]}[]"] is array


def has_room(name: str, known: dict[str, dict[str, Any]]) -> bool:
    match = re.fullmatch(r"(\d+)\[\d+\]", name)
    if match is None:
        return True
    running = [each for other, each in known.items() if other.startswith(f"{match[1]}[") and other != name]
    most = known[f"{match[1]}[]"]["at_once"]
    return sum(each["job_state"] == "R" for each in running) < most


def run(name: str, job: dict[str, Any]) -> int:
    """Run the script as pbs_mom does; its exit status, 256 more than a signal's number, or PBS's own."""
    index = re.search(r"\[(\d+)\]", name)
    copy = ROOT / f"{name}.SC"
    copy.write_text(job["script"])
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "PBS_STAND_IN": str(ROOT),
        "PBS_JOBID": f"{name}.{SERVER}",
        "PBS_ENVIRONMENT": "PBS_BATCH",
        **({"PBS_ARRAY_INDEX": index[1]} if index else {}),
        **{key: os.environ[key] for key in os.environ if key.startswith(("PBS_STAND_IN_", "XDG_", "PYTHON"))},
    }
    with open(ROOT / f"{name}.OU", "wb") as spool:
        process = subprocess.Popen(
            ["/bin/bash", str(copy)],
            stdin=subprocess.DEVNULL,
            stdout=spool,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
        began, over_time, told_at = time.monotonic(), False, 0.0
        while process.poll() is None:
            time.sleep(0.05)
            with jobs() as known:
                ordered = known[name].get("deleted") or known[name].get("rerun")
            if not over_time and not ordered and time.monotonic() - began > job["walltime"]:
                over_time = True
                words = f"walltime {job['walltime'] + 1} exceeded limit {job['walltime']}"
                spool.write(f"=>> PBS: job killed: {words}\n".encode())
            if (over_time or ordered) and not told_at:
                told_at = time.monotonic()
                signal_session(process.pid, signal.SIGTERM)
            if told_at and time.monotonic() - told_at > KILL_DELAY:
                signal_session(process.pid, signal.SIGKILL)
    signal_session(process.pid, signal.SIGKILL)
    # Output is handed over when the job is over, and takes the place of what was there.
    output = Path(job["output"].replace("^array_index^", index[1] if index else ""))
    output.write_bytes((ROOT / f"{name}.OU").read_bytes())
    if over_time:
        return WALLTIME_EXCEEDED
    return process.returncode if process.returncode >= 0 else 256 - process.returncode


def signal_session(session: int, number: int) -> None:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(int(path.name)) == session:
                os.kill(int(path.name), number)


def qstat(words: list[str]) -> int:
    if words == ["--version"]:
        print("pbs_version = 23.06.06")
        return 0
    if words == ["-B"]:
        print("Server             Max   Tot   Que   Run   Hld   Wat   Trn   Ext Status")
        return 0
    history = os.environ.get("PBS_STAND_IN_HISTORY", "1") == "1"
    if "-x" in words and not history:
        print("qstat: PBS is not configured to maintain job history", file=sys.stderr)
        return 1
    code = 0
    with jobs() as known:
        for identifier in [word for word in words if not word.startswith("-")]:
            number = identifier.split(".")[0]
            names = [number] if number in known else []
            if number.endswith("[]") and "-t" in words:
                names += [name for name in known if is_part(name, known.get(number, {}), known)]
            if not history:
                names = [name for name in names if known[name]["job_state"] != "F"]
            if not names:
                print(f"qstat: Unknown Job Id {identifier}", file=sys.stderr)
                code = 153
            for name in names:
                show(name, known[name])
    return code


def show(name: str, job: dict[str, Any]) -> None:
    """A job as `qstat -f` does: what is longer than a line goes on behind a tab."""
    print(f"Job Id: {name}.{SERVER}")
    hidden = ("script", "walltime", "output", "deleted", "rerun", "at_once", "depend")
    shown = {key: value for key, value in job.items() if key not in hidden and value != ""}
    shown |= {"Variable_List": f"PBS_O_HOME=/home/me,PBS_O_PATH={os.environ['PATH']}", "Hold_Types": "n"}
    if job["depend"]:
        ids = [f"{parent.split('.')[0]}.{SERVER}@{SERVER}" for parents in job["depend"] for parent in parents]
        shown["depend"] = f"afterok:{':'.join(ids)}"
        shown["Hold_Types"] = "s" if job["job_state"] == "H" else "n"
    for key, value in shown.items():
        lines = textwrap.wrap(f"{key} = {value}", 70, drop_whitespace=False) or [""]
        print("    " + "\n\t".join(lines))
    print()


def change(words: list[str], **orders: bool) -> int:
    code = 0
    with jobs() as known:
        for identifier in words:
            number = identifier.split(".")[0]
            names = [name for name in known if is_part(name, known.get(number, {}), known)] or [number]
            for name in names:
                if known.get(name, {}).get("job_state") in (None, "F"):
                    if name == number:
                        print(f"{Path(sys.argv[0]).name}: Unknown Job Id {identifier}", file=sys.stderr)
                        code = 153
                    continue
                known[name] |= orders
    return code


def main() -> int:
    program, words = Path(sys.argv[0]).name, sys.argv[1:]
    if words[:1] == ["keep"]:
        keep(words[1])
        return 0
    if program == "qsub":
        return qsub(words)
    if program == "qstat":
        return qstat(words)
    if program == "qrerun" and os.environ.get("PBS_STAND_IN_QRERUN", "1") == "0":
        print(f"qrerun: Unauthorized Request {words[0]}", file=sys.stderr)
        return 159
    return change(words, deleted=True) if program == "qdel" else change(words, rerun=True)


if __name__ == "__main__":
    sys.exit(main())
