"""Job scripts from the templates in `jobs`, one a kind of job."""

from __future__ import annotations

import functools
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dhhpc.batch.duration import format_duration
from dhhpc.batch.jobs import task_log, words_of_pbs
from dhhpc.batch.request import CONTROL_CHARACTER, JobRequest
from dhhpc.batch.site import NODE_PATH, Site
from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder

if TYPE_CHECKING:
    import jinja2

# The kinds of jobs whose command the launcher starts on every rank.
RANKED = ("train", "preprocess", "evaluate")
# Those that read shards, and copy them to a disk of each node first where there is one.
STAGING = ("train", "evaluate")
# How long before its time limit a job is told of it, in seconds, at most: time for a checkpoint.
LEAD = 120
# Beside the log.
ENVIRONMENT = "environment.txt"
# A line for each attempt of a job of PBS, which does not tell a script that it was queued again.
ATTEMPTS = "attempts"
HARMLESS_IN_DIRECTIVE = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")
HARMLESS_IN_PBS_PATH = re.compile(r"/(?:[A-Za-z0-9_./@%+-]|\^array_index\^)+")
UNFIT_IN_PBS_NAME = re.compile(r"^[^A-Za-z0-9]+|[^A-Za-z0-9_.+-]+")


def render_script(request: JobRequest, site: Site, log: Path) -> str:
    """The script that runs `request` on `site`; `request` comes from `fit_request`.

    Args:
        log: absolute path of the file that takes the job's output.

    Raises:
        DhhpcError: a value cannot be written into a script.
    """
    launcher = launcher_words(request, site) if request.kind in RANKED else []
    return template(request.kind).render(
        site=site,
        request=request,
        options=options_of(request, site),
        memory=memory_of(request, site),
        time=None if request.seconds is None else time_limit(request.seconds, site),
        # A quarter of a short job is as much as it can spare.
        lead=min(LEAD, (request.seconds or 0) // 4),
        launcher=launcher,
        # SLURM signals what srun has started; any other launcher is signalled by the script.
        direct=bool(launcher) and Path(launcher[0]).name == "srun",
        command=command_line(request, site, request.arguments),
        build=command_line(request, site, ("kernels", "build")),
        array=is_array(request, site),
        index=array_index(site),
        part=last_words(request, site),
        resumes=resumes(request),
        log=log_file(request, site, log),
        own_log=of_part(first_log(request, log), request, site),
        captured=str(log.with_name(ENVIRONMENT)),
        attempts=of_part(log.with_name(ATTEMPTS), request, site),
    )


@functools.cache
def template(kind: str) -> jinja2.Template:
    """The template of jobs of that kind."""
    import jinja2

    # The template is shell, not HTML: the quote filters below are its escaping.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(resource_folder("jobs")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["shell"] = quote_shell
    environment.filters["path"] = quote_node_path
    environment.filters["directive"] = quote_directive
    environment.filters["pattern"] = quote_file_pattern
    environment.filters["pbs_path"] = check_pbs_path
    environment.filters["pbs_name"] = pbs_name
    return environment.get_template(f"{kind}.sh.j2")


def options_of(request: JobRequest, site: Site) -> list[str]:
    """More options for the scheduler: for graphics processors, of the site and of its partition."""
    asked = (site.gpu_option or "--gpus-per-node={gpus}").replace("{gpus}", str(request.gpus))
    partition = site.partition(request.partition)
    gpus = [asked] if request.gpus and site.scheduler == "slurm" else []
    return [*gpus, *site.options, *(partition.options if partition else [])]


def memory_of(request: JobRequest, site: Site) -> int | None:
    """Memory of each node to ask for, in MiB; PBS gives little unless it is asked for all that a node has."""
    node = site.node_of(site.partition(request.partition))
    whole = node.memory_gb if node is not None and site.scheduler == "pbs" else None
    asked = request.memory_gb or whole
    return int(asked * 1024) if asked else None


def time_limit(seconds: int, site: Site) -> str:
    """A time limit as the scheduler writes it: PBS counts hours on where SLURM counts days."""
    if site.scheduler == "pbs":
        return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return format_duration(seconds)


def log_file(request: JobRequest, site: Site, log: Path) -> Path:
    """Where the scheduler leaves the output. A job of PBS writes its log itself, and PBS what it has to say
    elsewhere; it puts each part's number where it finds ^array_index^."""
    if site.scheduler != "pbs":
        return log
    return words_of_pbs(
        task_log(log, "^array_index^") if is_array(request, site) else first_log(request, log)
    )


def first_log(request: JobRequest, log: Path) -> Path:
    """The log of a job, or of the only task of what PBS takes for no array."""
    return log if request.tasks is None else task_log(log, "0")


def of_part(path: Path, request: JobRequest, site: Site) -> str:
    """The shell word for a file of each part of an array, named as `dhhpc.batch.jobs.task_log` does."""
    if not is_array(request, site):
        return quote_shell(str(path))
    plain = path.with_name(path.name.removesuffix(f"-0{path.suffix}") + path.suffix)
    stem, suffix = quote_shell(str(plain.with_suffix("")) + "-"), plain.suffix
    return f'{stem}"${array_index(site)}"{suffix}'


def is_array(request: JobRequest, site: Site) -> bool:
    """Whether the script makes a job array; PBS knows none of a single part."""
    return request.tasks is not None and (site.scheduler != "pbs" or request.tasks > 1)


def resumes(request: JobRequest) -> bool:
    """Whether a job that is queued again must be told to go on: what is no training does so by itself."""
    return request.kind == "train" and "--resume" not in request.arguments


def array_index(site: Site) -> str:
    """The variable that tells a task of an array its number."""
    return "PBS_ARRAY_INDEX" if site.scheduler == "pbs" else "SLURM_ARRAY_TASK_ID"


def last_words(request: JobRequest, site: Site) -> str:
    """What ends the command: where shards are copied to, the part of an array that this is, or the ranks that
    dhhpc starts itself."""
    # TMPDIR is node_local, see the template.
    stage = ' --stage "$TMPDIR"' if stages(request, site) else ""
    if request.tasks is not None:
        number = f'"${array_index(site)}"' if is_array(request, site) else "0"
        return f"{stage} {quote_shell(request.task_option)} {number}"
    starts_ranks = site.launcher is None and request.kind in RANKED
    return stage + (f" --ranks {request.ranks}" if starts_ranks and request.ranks > 1 else "")


def stages(request: JobRequest, site: Site) -> bool:
    """Whether the script has the command copy its shards to the nodes; not where the user says where to."""
    said = any(word == "--stage" or word.startswith("--stage=") for word in request.arguments)
    wanted = request.stage is not False and request.kind in STAGING
    return wanted and site.node_local is not None and not said


def command_line(request: JobRequest, site: Site, arguments: Sequence[str]) -> str:
    """The quoted words that run dhhpc, inside the site's container if it has one."""
    container = site.container
    python = site.python or ("python3" if container else sys.executable)
    dhhpc = f"{quote_node_path(python)} {quote_shell(['-m', 'dhhpc', *arguments])}"
    if container is None:
        return dhhpc
    words = [container.program, "exec", *([f"--{container.gpus}"] if container.gpus else [])]
    for folder in container.binds:
        words += ["--bind", quote_node_path(folder)]
    if stages(request, site):
        words += ["--bind", '"$TMPDIR"']
    folder = quote_shell(request.folder)
    words += ["--bind", folder, "--pwd", folder, quote_node_path(container.image), dhhpc]
    return " ".join(words)


def launcher_words(request: JobRequest, site: Site) -> list[str]:
    """The words of the site's launcher and binding, their numbers filled in; srun needs none."""
    numbers = {
        "{ranks}": request.ranks,
        "{nodes}": request.nodes,
        "{ranks_per_node}": request.ranks_per_node,
        "{threads}": request.threads,
    }
    words = [*shlex.split(site.launcher or ""), *shlex.split(site.binding or "")]
    for placeholder, number in numbers.items():
        words = [word.replace(placeholder, str(number)) for word in words]
    return words


def quote_shell(value: str | list[str]) -> str:
    """One shell word that expands to `value`, or several for a list.

    Raises:
        DhhpcError: it holds a NUL character, which no command line can.
    """
    words = [value] if isinstance(value, str) else value
    for word in words:
        if "\0" in word:
            raise DhhpcError(f"{word!r}: holds a NUL character, which no command line can; remove it")
    return " ".join(shlex.quote(word) for word in words)


def quote_node_path(path: str) -> str:
    """One shell word that expands to `path`, whose leading ${VARIABLE} is the only thing that is expanded.

    A variable that is not set on the node ends the script with that message.
    """
    match = NODE_PATH.fullmatch(path)
    if match is None or match["variable"] is None:
        return quote_shell(path)
    rest = quote_shell(match["rest"]) if match["rest"] else ""
    return f'"${{{match["variable"]}:?is not set on this node}}"{rest}'


def pbs_name(name: str) -> str:
    """`name` as PBS takes one: of letters, digits and _ . + - that begins with a letter or digit."""
    return UNFIT_IN_PBS_NAME.sub(lambda match: "_" if match.start() else "", name) or "job"


def check_pbs_path(path: str | Path) -> str:
    """`path` as an `#PBS` line takes it, which has no way to quote.

    Raises:
        DhhpcError: it holds a character that ends it or means something else there.
    """
    if not HARMLESS_IN_PBS_PATH.fullmatch(str(path)):
        raise DhhpcError(
            f"{path}: PBS takes a log's path of letters, digits and _ . / @ % + - alone; "
            f"set XDG_STATE_HOME to another folder"
        )
    return str(path)


def quote_directive(value: str) -> str:
    """`value` as sbatch reads it on an `#SBATCH` line, in double quotes unless harmless.

    sbatch has a parser of its own there: inside double quotes a backslash stands before a quote or a
    backslash, and nothing is expanded. (In single quotes a backslash is special too, unlike in a shell.)

    Raises:
        DhhpcError: it holds a line break or another control character, which a directive cannot.
    """
    if CONTROL_CHARACTER.search(value):
        raise DhhpcError(
            f"{value!r}: holds a line break or control character, which a job script cannot; rename it"
        )
    if HARMLESS_IN_DIRECTIVE.fullmatch(value):
        return value
    return '"' + re.sub(r'(["\\\\])', r"\\\1", value) + '"'


def quote_file_pattern(path: str | Path, array: bool = False) -> str:
    """`path` as sbatch's file names take it: a % doubled (sbatch(1), "filename pattern").

    Args:
        array: put the number of the array's task before the suffix, as `dhhpc.batch.jobs.task_log` does.

    Raises:
        DhhpcError: it holds a backslash, which turns the patterns off.
    """
    path = Path(path)
    if "\\" in str(path):
        raise DhhpcError(
            f"{path}: holds a backslash, which sbatch cannot take in a log's path; rename that folder"
        )
    doubled = Path(str(path).replace("%", "%%"))
    return quote_directive(str(task_log(doubled, "%a") if array else doubled))
