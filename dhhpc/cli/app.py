"""The command line: collects the verbs, and turns every user-facing failure into one line and a code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import typer

from dhhpc.errors import DhhpcError

# In the order in which a user needs them.
VERBS: tuple[str, ...] = (
    "quickstart",
    "usecase",
    "dataset",
    "preprocess",
    "train",
    "evaluate",
    "predict",
    "export",
    "runs",
    "scale",
    "kpi",
    "submit",
    "jobs",
    "site",
    "cluster",
    "doctor",
    "kernels",
)

HELP = "Train biomedical imaging models on SLURM/MPI machines and measure how well that scales."


def command_line(verbs: Sequence[str] = VERBS) -> typer.Typer:
    """The command line with some of its verbs: only their modules are loaded."""
    app = typer.Typer(
        name="dhhpc",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(lambda: None)  # with a single verb typer would not ask for its name
    for verb in verbs:
        importlib.import_module(f"dhhpc.cli.{verb}").register(app)
    return app


def main() -> None:
    """Run the command line: exit code 0 (ok), 1 (failed, one line on stderr) or 2 (wrong use)."""
    wanted = sys.argv[1:2]
    app = command_line(wanted if wanted and wanted[0] in VERBS else VERBS)
    try:
        app()
    except DhhpcError as error:
        print(f"dhhpc: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
