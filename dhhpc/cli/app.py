"""The command line: collects the verbs, and turns every user-facing failure into one line and a code."""

from __future__ import annotations

import importlib
import sys

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
    "submit",
    "jobs",
    "site",
    "cluster",
    "doctor",
    "kernels",
)

app = typer.Typer(
    name="dhhpc",
    help="Train biomedical imaging models on SLURM/MPI machines and measure how well that scales.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

for verb in VERBS:
    importlib.import_module(f"dhhpc.cli.{verb}").register(app)


def main() -> None:
    """Run the command line: exit code 0 (ok), 1 (failed, one line on stderr) or 2 (wrong use)."""
    try:
        app()
    except DhhpcError as error:
        print(f"dhhpc: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
