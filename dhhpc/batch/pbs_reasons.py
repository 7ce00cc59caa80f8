"""Why a job of PBS is pending or has failed: its comments and exit statuses in plain words, with the mend."""

from __future__ import annotations

import re

from dhhpc.batch.reasons import GAPS, WAIT

OTHER_QUEUE = "wait, or cancel it and submit it to another --partition"
# What a comment of the scheduler begins with or holds, the first that fits: what it means, and what helps
# (PBS Professional Administrator's Guide, and the scheduler's messages).
COMMENTS: tuple[tuple[str, str, str], ...] = (
    (r"^$", "PBS has not looked at it yet", WAIT),
    (r"^Dependency$", "it waits for another job", WAIT),
    (r"^Hold_Types \w*[so]", "it is held by an administrator or by PBS", "ask the site's support why"),
    (r"^Hold_Types|held by", "it is held by its user", "release it with `qrls {job}`"),
    (
        r"too many failed attempts",
        "PBS has tried too often to start it and holds it",
        "look at the queue and the nodes that it asks for, then `qrls {job}`, or submit it anew",
    ),
    (
        r"Can Never Run",
        "no nodes of its queue can ever hold it",
        "cancel it and submit it with fewer --nodes, ranks, cores or less memory, or to another --partition",
    ),
    (r"run(?:ning)? job limit|limit reached|exceed|per-user limit", "a limit of the site is reached", WAIT),
    (r"Queue .*not (?:started|enabled)|Queue not", "its queue starts no jobs now", OTHER_QUEUE),
    (
        r"dedicated time|cross",
        "it would not be over before the machine is kept for others or for maintenance",
        "a shorter --time may start sooner",
    ),
    (
        r"Insufficient amount|Not enough|No available",
        "it waits until enough nodes, cores or memory are free",
        GAPS,
    ),
    (
        r"ineligible state|offline|down",
        "nodes that it needs are down or offline",
        "`pbsnodes -l` tells why; wait, or tell the site's support",
    ),
    (r"prime", "it has to wait for another time of day", WAIT),
)  # fmt: skip
# Exit statuses of PBS itself (src/include/job.h of OpenPBS).
CODES = {
    -1: "PBS could not start it, before its files were there",
    -2: "PBS could not start it, after its files were there",
    -3: "PBS could not start it and gave up trying",
    -7: "PBS could not restart it",
    -10: "its user is not known on the node",
    -13: "a password was refused",
    -17: "a rule of the site refused it",
    -19: "a rule of the site deleted it",
    -21: "PBS does not trust a folder of its own on the node",
    -22: "a rule of the site failed",
    -24: "it used more cores than it was given",
    -25: "it used more cores than it was given",
    -30: "its nodes did not come together",
}


def explain_comment(comment: str, job: str) -> tuple[str, str]:
    """What a pending job's comment means and what helps, each a clause without a full stop.

    Args:
        comment: as qstat shows it, "" for none, "Dependency", or "Hold_Types" and those of a held job.
        job: its id, for commands to give.
    """
    for pattern, meaning, mend in COMMENTS:
        if re.search(pattern, comment):
            return meaning, mend.format(job=job)
    return f"PBS says: {comment}", "the site's documentation may tell more"


def explain_code(reason: str) -> str | None:
    """What an exit status of PBS itself means, from a reason "PBS -1"; None for other reasons."""
    match = re.fullmatch(r"PBS (-\d+)", reason)
    if match is None:
        return None
    return CODES.get(int(match[1]), f"PBS ended it, and gives exit status {match[1]} for that")
