"""Job scripts from the template `jobs/train.sh.j2`."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from dhhpc.batch.duration import format_duration
from dhhpc.batch.jobs import task_log
from dhhpc.batch.request import CONTROL_CHARACTER, JobRequest
from dhhpc.batch.site import Site
from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder

TEMPLATE = "train.sh.j2"
HARMLESS_IN_DIRECTIVE = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")


def render_script(request: JobRequest, site: Site, log: Path) -> str:
    """The script that runs `request` on `site`; `request` comes from `fit_request`.

    Args:
        log: absolute path of the file that takes the job's output.

    Raises:
        DhhpcError: a value cannot be written into a script.
    """
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
    environment.filters["directive"] = quote_directive
    environment.filters["pattern"] = quote_file_pattern
    return environment.get_template(TEMPLATE).render(
        site=site,
        request=request,
        time=None if request.seconds is None else format_duration(request.seconds),
        launcher=launcher_words(request, site),
        command=[site.python or sys.executable, "-m", "dhhpc", *request.arguments],
        log=log,
    )


def launcher_words(request: JobRequest, site: Site) -> list[str]:
    """The words of the site's launcher with its numbers of ranks and nodes filled in; srun needs none."""
    numbers = {
        "{ranks}": request.ranks,
        "{nodes}": request.nodes,
        "{ranks_per_node}": request.ranks_per_node,
    }
    words = shlex.split(site.launcher or "")
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
