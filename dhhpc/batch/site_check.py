"""Whether a site config fits the machine it is read on, before any job is submitted."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dhhpc.batch.schedulers.pbs import pbs_version
from dhhpc.batch.site import NODE_PATH, Site
from dhhpc.batch.slurm_check import check_slurm
from dhhpc.findings import Finding, ask, fail, last_line, ok, warn

# Loads the modules given to it as a job script does; Tcl modules fail with words on stderr and exit code 0.
LOAD_MODULES = """
type module > /dev/null 2>&1 || source /etc/profile
type module > /dev/null 2>&1 || { echo "this machine has no environment modules"; exit 3; }
for name in "$@"; do module load "$name" || exit 1; done
"""
FIND_DHHPC = "import importlib.util, sys; sys.exit(importlib.util.find_spec('dhhpc') is None)"


def check_site(site: Site, account: str | None = None, qos: str | None = None) -> list[Finding]:
    """Everything about `site` that this machine can tell, the scheduler first.

    Args:
        account, qos: in place of the site's, as for a job.
    """
    findings: list[Finding] = []
    if site.scheduler == "slurm":
        findings += check_slurm(site, account, qos)
    elif site.scheduler == "pbs":
        findings += check_pbs(site)
    if any(each.level == "fail" and each.subject == "scheduler" for each in findings):
        # Another machine than the site's: what else is missing here says nothing about it.
        return findings
    findings += check_cores(site)
    findings += check_modules(site)
    findings += check_launcher(site)
    findings += check_python(site)
    findings += check_folders(site)
    return findings


def check_pbs(site: Site) -> Iterator[Finding]:
    if shutil.which("qsub") is None or shutil.which("qstat") is None:
        yield fail(
            "scheduler",
            "this machine has no PBS (no qsub and qstat on PATH)",
            f"run this on a login node of {site.name}",
        )
        return
    code, said = ask(["qstat", "-B"])
    if code != 0:
        yield fail("scheduler", f"PBS does not answer: {last_line(said)}", "ask the machine's support")
        return
    version = pbs_version()
    yield ok("scheduler", f"PBS{f' {version}' if version else ''} answers")
    for queue in site.partitions:
        code, said = ask(["qstat", "-Q", queue.name])
        if code == 0:
            yield ok(f"queue {queue.name}", "is there; compare its limits with `qstat -Qf`")
        else:
            yield fail(f"queue {queue.name}", last_line(said), "`qstat -Q` lists those of this machine")


def check_cores(site: Site) -> Iterator[Finding]:
    if site.scheduler != "local" or site.node is None:
        return
    here = len(os.sched_getaffinity(0))
    if site.node.cores > here:
        yield fail(
            "node", f"{site.node.cores} cores, but this machine gives {here}", f"set node.cores to {here}"
        )
    else:
        yield ok("node", f"{site.node.cores} of {here} cores")


def check_modules(site: Site) -> Iterator[Finding]:
    if not site.modules:
        return
    names = " ".join(site.modules)
    code, said = ask(["bash", "-c", LOAD_MODULES, "bash", *site.modules])
    complaints = [line for line in said.splitlines() if "error" in line.lower() or "unable" in line.lower()]
    if code != 0 or complaints:
        why = complaints[0].strip() if complaints else last_line(said)
        yield fail("modules", f"{names}: {why}", "`module avail` lists those of this machine; set modules")
    else:
        yield ok("modules", f"{names}: can be loaded")


def check_launcher(site: Site) -> Iterator[Finding]:
    if site.launcher is None or site.scheduler == "local":
        return
    program = shlex.split(site.launcher)[0]
    if shutil.which(program) is not None:
        yield ok("launcher", f"{program} is at {shutil.which(program)}")
    elif site.modules:
        yield warn("launcher", f"{program} is not on PATH here", "one of the modules must bring it along")
    else:
        yield fail(
            "launcher", f"{program} is not on PATH", "set launcher, or the module that brings it along"
        )


def check_python(site: Site) -> Iterator[Finding]:
    if site.container is not None:
        yield from check_container(site)
        return
    python = expand(site.python or sys.executable)
    if python is None:
        yield warn("python", f"{site.python}: the variable is not set here", "set python to a path")
        return
    code, said = ask([python, "-P", "-c", FIND_DHHPC])
    if code == 0:
        yield ok("python", f"{python} has dhhpc")
    elif code == 1:
        yield fail("python", f"{python} has no dhhpc", "install it there, or set python to one that has it")
    else:
        yield fail("python", f"{python}: {last_line(said)}", "set python to one that has dhhpc")


def check_container(site: Site) -> Iterator[Finding]:
    container = site.container
    assert container is not None
    if shutil.which(container.program) is None:
        yield warn("container", f"{container.program} is not on PATH here", "it must be there on the nodes")
    image = expand(container.image)
    if image is None:
        yield warn("container", f"{container.image}: the variable is not set here", "set container.image")
    elif Path(image).exists():
        yield ok("container", f"{image} is there")
    else:
        yield fail("container", f"{image}: no such image", "build it there, or set container.image")


def check_folders(site: Site) -> Iterator[Finding]:
    if site.scratch is not None:
        folder = expand(site.scratch)
        if folder is None:
            yield fail("scratch", f"{site.scratch}: the variable is not set", "set scratch to a folder")
        else:
            problem = why_not_writable(Path(folder))
            if problem:
                yield fail("scratch", f"{folder}: {problem}", "set scratch to a folder of your own")
            else:
                yield ok("scratch", f"{folder} can be written")
    if site.node_local is not None:
        folder = expand(site.node_local)
        if folder is not None and Path(folder).is_dir():
            yield ok("node_local", f"{folder} is there")
        else:
            yield warn(
                "node_local", f"{site.node_local} is not there on this node", "it must be there inside a job"
            )


def expand(path: str) -> str | None:
    """A path on the nodes as it is here; None if its variable is not set."""
    match = NODE_PATH.fullmatch(path)
    if match is None or match["variable"] is None:
        return path
    value = os.environ.get(match["variable"])
    return value + (match["rest"] or "") if value else None


def why_not_writable(folder: Path) -> str | None:
    """Why nothing can be written in `folder`, which jobs make if it is missing; None if something can."""
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    with contextlib.suppress(PermissionError):
        if not existing.is_dir():
            return f"{existing} is no folder"
        try:
            with tempfile.TemporaryFile(dir=existing):
                return None
        except OSError as error:
            return f"{existing} cannot be written ({error.strerror})"
    return f"{existing} cannot be read"
