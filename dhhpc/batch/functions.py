"""Python functions as batch jobs, by submitit: for steps of one's own between those of dhhpc."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhhpc.batch.duration import parse_duration
from dhhpc.batch.request import JobRequest, fit_request
from dhhpc.batch.schedulers.slurm import SlurmScheduler
from dhhpc.batch.script import launcher_words, memory_of, options_of, quote_node_path, quote_shell
from dhhpc.batch.site import Site
from dhhpc.batch.site_layers import read_site
from dhhpc.errors import DhhpcError

if TYPE_CHECKING:
    import submitit


def submit(
    function: Callable[..., Any],
    *arguments: Any,
    site: str = "local",
    time: str | None = None,
    folder: Path | str = "functions",
    name: str | None = None,
    nodes: int = 1,
    ranks_per_node: int = 1,
    threads: int | None = None,
    memory_gb: float | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    gpus: int | None = None,
    **keywords: Any,
) -> submitit.Job[Any]:
    """Call `function(*arguments, **keywords)` in a job of a site, once on every rank.

    Args:
        function: anything that can be pickled by cloudpickle; its arguments and result, too.
        site: a site's name, or the path of its file.
        time: the limit as in `dhhpc submit --time`; a cluster needs one, where the partition has no default.
        folder: on a file system that the nodes share; holds what is pickled, and the logs.
        name: of the job; by default the function's.

    Returns:
        submitit's job: `result()` waits and returns what the function did, or raises what it raised;
        `results()` is that of all ranks.

    Raises:
        DhhpcError: the site cannot hold the job, or is out of reach.
    """
    where = read_site(site)
    if where.scheduler == "pbs":
        raise DhhpcError(f"{site}: functions are not submitted to PBS; use a site with SLURM, or local")
    if where.container is not None:
        raise DhhpcError(f"{site}: functions do not run in its container; give a site without one")
    try:
        seconds = parse_duration(time) if time is not None else None
    except ValueError as error:
        raise DhhpcError(f"time {error}") from None
    called = name or str(getattr(function, "__name__", "function"))
    wish = JobRequest(
        (),
        called,
        str(Path.cwd()),
        nodes,
        ranks_per_node,
        threads,
        seconds,
        partition,
        account,
        qos,
        gpus,
        memory_gb,
    )
    request = fit_request(wish, where)
    create = local_executor if where.scheduler == "local" else slurm_executor
    return create(where, request, Path(folder)).submit(function, *arguments, **keywords)


def local_executor(site: Site, request: JobRequest, folder: Path) -> submitit.Executor:
    import submitit

    executor = submitit.LocalExecutor(folder)
    limit = {} if request.seconds is None else {"timeout_min": minutes(request)}
    executor.update_parameters(
        tasks_per_node=request.ranks, name=request.name, setup=set_up(site, request), **limit
    )
    return executor


def slurm_executor(site: Site, request: JobRequest, folder: Path) -> submitit.Executor:
    import submitit

    scheduler = SlurmScheduler(site.name)
    scheduler.check_usable(site.name)
    os.environ.update(scheduler.environment())  # submitit's commands find the virtual cluster by it
    launcher = launcher_words(request, site)
    if not launcher or Path(launcher[0]).name != "srun":
        raise DhhpcError(f"site {site.name}: functions are started by srun, not by {launcher[:1]}")
    megabytes = memory_of(request, site)
    chosen = {
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "mem": f"{megabytes}M" if megabytes else None,
    }
    options = [option.removeprefix("--").partition("=") for option in options_of(request, site)]
    executor = submitit.SlurmExecutor(folder, python=shlex.quote(site.python) if site.python else None)
    executor.update_parameters(
        job_name=request.name,
        time=minutes(request),
        nodes=request.nodes,
        ntasks_per_node=request.ranks_per_node,
        cpus_per_task=request.threads,
        srun_args=launcher[1:],
        setup=set_up(site, request),
        additional_parameters={key: value if equals else True for key, equals, value in options},
        **{key: value for key, value in chosen.items() if value is not None},
    )
    return executor


def minutes(request: JobRequest) -> int:
    """The time limit, rounded up."""
    return -(-(request.seconds or 0) // 60)


def set_up(site: Site, request: JobRequest) -> list[str]:
    """What the shell does before the function is called."""
    variables = {**site.network, **site.environment, "OMP_NUM_THREADS": str(request.threads)}
    folder = site.node_local or site.scratch
    return [
        *(f"module load {quote_shell(module)}" for module in site.modules),
        *(f"export {key}={quote_shell(value)}" for key, value in variables.items()),
        *([f"export TMPDIR={quote_node_path(folder)}"] if folder else []),
    ]
