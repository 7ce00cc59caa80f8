"""What looking at a machine finds: one line each, with the mend where something is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: what, in a word or two.
        state: "ok"; "warn": it works but slower or less safely, or could not be looked at; "fail": it does
            not work.
        text: what was found.
        mend: what to do about it; empty if nothing is to be done.
    """

    subject: str
    state: State
    text: str
    mend: str = ""
