"""What a look at a machine finds, a line each with the mend, and the programs that are asked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# Schedulers that are busy take seconds; one that takes longer than this is down.
LONGEST_ANSWER = 30.0


@dataclass(frozen=True)
class Finding:
    """One line of `dhhpc doctor` or `dhhpc site check`.

    Attributes:
        level: "ok"; "warn" for what works slower or less safely, may be meant, or could not be looked at;
            "fail" for what jobs would fail of.
        subject: what was looked at.
        text: what was found.
        mend: what to do about it.
    """

    level: Literal["ok", "warn", "fail"]
    subject: str
    text: str
    mend: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def warn(subject: str, text: str, mend: str) -> Finding:
    return Finding("warn", subject, text, mend)


def fail(subject: str, text: str, mend: str) -> Finding:
    return Finding("fail", subject, text, mend)


def ask(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit code of a command and all that it says; 127 if it is missing, 124 if it does not answer."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=LONGEST_ANSWER,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        return 127, f"{command[0]}: not found on PATH"
    except OSError as error:
        return 126, f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]}: no answer in {LONGEST_ANSWER:g} s"
    return done.returncode, done.stdout


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing said"
