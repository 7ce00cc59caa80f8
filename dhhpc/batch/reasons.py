"""Why a job is pending: SLURM's words (squeue(1), "Job Reason Codes") in plain ones, each with its mend."""

from __future__ import annotations

WAIT = "nothing to mend; it starts by itself"
GAPS = "nothing to mend; fewer nodes or a shorter --time may start sooner, as small jobs fill gaps"
SOONER = "a --time that ends before the maintenance may start sooner; `sinfo -R` tells more"

# By reason: what it means, and what helps.
REASONS: dict[str, tuple[str, str]] = {
    "": ("SLURM has not looked at it yet", WAIT),
    "Resources": (
        "it is next, and waits until enough nodes, cores or memory are free",
        GAPS,
    ),
    "Priority": (
        "jobs of higher priority wait before it",
        GAPS,
    ),
    "Dependency": ("it waits for another job", WAIT),
    "DependencyNeverSatisfied": (
        "what it waits for cannot come any more, so that it never starts",
        "cancel it, mend the other job, and submit both again",
    ),
    "JobArrayTaskLimit": ("as many tasks of its array are running as may at once (--at-once)", WAIT),
    "BeginTime": (
        "it is not to begin yet: it was submitted for later, or has just been queued again",
        WAIT,
    ),
    "JobHeldUser": ("it is held by its user", "release it with `scontrol release {job}`"),
    "JobHeldAdmin": ("it is held by an administrator", "ask the site's support why"),
    "JobHoldMaxRequeue": (
        "it has been queued again too often and is held",
        "look into its log, then `scontrol release {job}`",
    ),
    "launch failed requeued held": (
        "its node could not start it, so that it is held",
        "`scontrol release {job}`; tell the site's support if it comes again",
    ),
    "JobLaunchFailure": (
        "it could not be started: its folder or log may be missing on the node",
        "look whether the nodes see the job's folder",
    ),
    "PartitionTimeLimit": (
        "it asks for more time than its partition allows",
        "cancel it and submit it with a shorter --time, or to another --partition",
    ),
    "PartitionNodeLimit": (
        "it asks for more nodes than its partition allows or has",
        "cancel it and submit it with fewer --nodes, or to another --partition",
    ),
    "PartitionConfig": (
        "it does not fit the limits of its partition",
        "cancel it and submit it with fewer --nodes or a shorter --time, or to another --partition",
    ),
    "PartitionDown": ("its partition is down", "wait, or submit to another --partition"),
    "PartitionInactive": ("its partition starts no jobs now", "wait, or submit to another --partition"),
    "BadConstraints": (
        "no node has what it asks for",
        "cancel it and submit it with fewer ranks or cores a node, or less memory",
    ),
    "ReqNodeNotAvail": (
        "nodes that it needs are down, drained or reserved, for maintenance perhaps",
        SOONER,
    ),
    "Reserved for maintenance": (
        "its nodes are reserved for maintenance",
        SOONER,
    ),
    "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions": (
        "the nodes that could run it are down, drained, or kept for partitions of higher priority",
        "wait, or submit to another --partition; `sinfo -R` tells why nodes are down",
    ),
    "NodeDown": ("a node that it needs is down", "`sinfo -R` tells why; wait, or tell the site's support"),
    "Reservation": ("it waits for its reservation to begin", WAIT),
    "Licenses": ("it waits for a licence", WAIT),
    "Prolog": ("its nodes are being prepared", WAIT),
    "Cleaning": ("its last attempt is being cleared away", WAIT),
    "InvalidAccount": (
        "its account is not valid here",
        "cancel it and submit it with another --account; `sacctmgr show associations user=$USER` lists yours",
    ),
    "InvalidQOS": ("its quality of service is not valid here", "cancel it and submit it without"),
    "MaxMemPerLimit": (
        "it asks for more memory per core or node than its partition allows",
        "cancel it and submit it with less memory",
    ),
    "DeadLine": ("it can no longer meet its deadline", "cancel it and submit it without"),
}  # fmt: skip

# Limits of a user, an account or a quality of service have names such as AssocGrpCPUMinutesLimit and
# QOSMaxJobsPerUserLimit: whose limit it is, and on what.
OWNERS = {
    "AssocGrp": "the account's jobs together",
    "AssocMax": "each job of the account or user",
    "Assoc": "the account or user",
    "QOSGrp": "all jobs of its quality of service together",
    "QOSMax": "a job or user of its quality of service",
    "QOSMin": "a job of its quality of service",
    "QOS": "its quality of service",
    "MaxJobs": "the user's jobs",
}
SUBJECTS = {
    "Minutes": ("core or node hours", "wait for the next period, or charge another --account"),
    "Billing": ("what is billed", "wait for the next period, or charge another --account"),
    "Wall": ("run time", "submit it with a shorter --time"),
    "Time": ("run time", "submit it with a shorter --time"),
    "Job": ("jobs at the same time", "nothing to mend; it starts when others have ended"),
    "Node": ("nodes", "wait until others have ended, or submit it with fewer --nodes"),
    "CPU": ("cores", "wait until others have ended, or submit it with fewer ranks or --threads"),
    "Mem": ("memory", "wait until others have ended, or submit it with less memory"),
    "GRES": ("GPUs or the like", "wait until others have ended, or submit it with fewer"),
}  # fmt: skip


def explain_reason(reason: str, job: str) -> tuple[str, str]:
    """What a pending job's reason means and what helps, each a clause without a full stop.

    Args:
        reason: as squeue prints it, "" for none; ", UnavailableNodes:..." may follow.
        job: its id, for commands to give.
    """
    known = REASONS.get(reason) or REASONS.get(reason.split(",")[0])
    meaning, mend = known or explain_limit(reason)
    return meaning, mend.format(job=job)


def explain_limit(reason: str) -> tuple[str, str]:
    owner = next((text for name, text in OWNERS.items() if reason.startswith(name)), None)
    if owner is None:
        return "SLURM gives only this reason", "`squeue` explains it in its manual under Job Reason Codes"
    for name, (subject, mend) in SUBJECTS.items():
        if name.lower() not in reason.lower():
            continue
        if reason.startswith("QOSMin"):
            return f"{owner} must ask for more {subject}", f"cancel it and submit it with more {subject}"
        return f"a limit is reached: {owner} may have no more {subject}", mend
    return f"a limit of {owner} is reached", "wait until others have ended, or ask the site's support"
