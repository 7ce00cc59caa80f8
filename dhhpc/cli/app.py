"""The command line: collects the verbs, and turns every user-facing failure into one line and a code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

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
    "zoo",
)

HELP = "Train biomedical imaging models on SLURM/MPI machines and measure how well that scales."


class Verbs(TyperGroup):
    """The verbs in the order of `VERBS`; typer lists those with verbs of their own last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=VERBS.index)


def command_line(verbs: Sequence[str] = VERBS) -> typer.Typer:
    """The command line with some of its verbs: only their modules are loaded."""
    app = typer.Typer(
        name="dhhpc",
        cls=Verbs,
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain help: loading what renders Markdown would take as long again
        context_settings={"max_content_width": 110},
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
