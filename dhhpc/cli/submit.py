"""`dhhpc submit`: runs of dhhpc as batch jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhhpc.cli.job_options import JobOptions, with_job_options
from dhhpc.cli.suggestion import suggest

if TYPE_CHECKING:
    from dhhpc.training import Series

TRAIN = (
    "Example: dhhpc submit train experiment.yml --site virtual-cluster --nodes 2 --time 00:30:00 --dry-run"
)
PREPROCESS = "Example: dhhpc submit preprocess preprocess.yml --site virtual-cluster --nodes 2 --time 10"
EVALUATE = "Example: dhhpc submit evaluate runs/lungs --site virtual-cluster --time 10 --after 1234"
SCALE = "Example: dhhpc submit scale study.yml --site virtual-cluster --nodes 2 --time 00:30:00"
COMMAND = "Example: dhhpc submit command --site virtual-cluster --time 10 -- kernels build"

Stage = Annotated[
    bool | None,
    typer.Option(
        "--stage/--no-stage",
        help="Copy the shards to the disk of each node first; done where the site has one (node_local).",
    ),
]
More = Annotated[
    list[str] | None,
    typer.Argument(metavar="[-- OPTIONS]", help="After --: more options of the command that the job runs."),
]


def register(app: typer.Typer) -> None:
    verb = typer.Typer(no_args_is_help=True, help="Submit runs to a batch system.", epilog=TRAIN)
    for command, example in (
        (train, TRAIN),
        (preprocess, PREPROCESS),
        (evaluate, EVALUATE),
        (scale, SCALE),
        (any_command, COMMAND),
    ):
        name = "command" if command is any_command else command.__name__
        verb.command(name, epilog=example)(with_job_options(command))
    verb.command("suggest")(suggest)
    app.add_typer(verb, name="submit")


def train(
    experiment: Annotated[Path, typer.Argument(help="The experiment file (YAML).")],
    more: More = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="A series of so many seeds, see `dhhpc train`: an array of tasks.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="A series of so many folds, see `dhhpc train`: an array of tasks.")
    ] = None,
    at_once: Annotated[
        int | None, typer.Option(help="At most so many members of a series at the same time.")
    ] = None,
    pipeline: Annotated[
        bool,
        typer.Option(
            "--pipeline", help="A chain of jobs: preprocess, train, evaluate, and the run's report."
        ),
    ] = False,
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            "--preprocess", help="With --pipeline: its first document; preprocess.yml beside EXPERIMENT."
        ),
    ] = None,
    stage: Stage = None,
    *,
    job: JobOptions,
) -> None:
    """Submit the training of an experiment as a batch job.

    The job is told two minutes before its time limit, ends with a checkpoint, and is queued again to go on
    from there (--requeue); so it is after preemption and when a rank or node is lost.

    A series (--seeds, --folds) is one job array: nodes, ranks and time are those of each member. Tasks that
    are requeued go on with their member, and the last to finish leaves the summary. On a local site the
    members are trained one after another.

    What to give as --nodes, --memory and --time, `dhhpc submit suggest` tells from a short rehearsal.

    With --pipeline every job of the chain waits for the one before, and has the same nodes and time limit.

    Example: dhhpc submit train experiment.yml --site virtual-cluster --time 00:30:00 --seeds 5 --at-once 2
    """
    present(experiment, "experiment file")
    series = series_of(experiment, seeds, folds)
    counts = {"--seeds": seeds, "--folds": folds}
    options = [f"{option}={count}" for option, count in counts.items() if count is not None]
    # The folder of a series is claimed here; its tasks go on with what they find, also when requeued.
    options += ["--resume"] if resume or series else []
    request = job.request(
        "train",
        ["train", str(experiment.absolute()), *options, *(more or [])],
        experiment.stem,
        tasks=len(series.members) if series else None,
        at_once=at_once,
        stage=stage,
    )
    if pipeline:
        from dhhpc.cli.pipeline import submit_pipeline
        from dhhpc.errors import DhhpcError

        if series is not None:
            raise DhhpcError("--pipeline: takes one run, no series; drop --seeds and --folds")
        submit_pipeline(job, request, experiment, preprocessing)
        return
    if series is None or job.dry_run:
        job.submit(request)
        return
    claimed = series.claim(resume)
    try:
        job.submit(request)
    except BaseException:
        if claimed:
            series.withdraw()
        raise
    if not job.as_json:
        print(f"  summary of the members: dhhpc runs show {series.folder}")


def preprocess(
    document: Annotated[Path, typer.Argument(help="The preprocessing document (YAML).")],
    more: More = None,
    *,
    job: JobOptions,
) -> None:
    """Submit preprocessing as a batch job; queued again, it keeps the shards that are finished."""
    present(document, "preprocessing document")
    arguments = ["preprocess", str(document.absolute()), *(more or [])]
    job.submit(job.request("preprocess", arguments, document.stem))


def evaluate(
    run: Annotated[Path, typer.Argument(help="The run folder; with --after it need not exist yet.")],
    more: More = None,
    split: Annotated[str, typer.Option(help="test, validation or training.")] = "test",
    stage: Stage = None,
    *,
    job: JobOptions,
) -> None:
    """Submit the evaluation of a run as a batch job."""
    if not job.after:
        present(run / "run.json", "run", " (or give the job that trains it: --after JOB)")
    arguments = ["evaluate", str(run.absolute()), "--split", split, *(more or [])]
    job.submit(job.request("evaluate", arguments, f"evaluate {run.name}", stage=stage))


def scale(
    study: Annotated[Path, typer.Argument(help="The study (YAML).")],
    more: More = None,
    output: Annotated[
        Path | None, typer.Option(help="The folder of the results, by default scaling-NAME.")
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help="Points may run at the same time, each on nodes of its own.")
    ] = False,
    one_job: Annotated[
        bool, typer.Option("--one-job", help="All points within one job, of --nodes nodes.")
    ] = False,
    *,
    job: JobOptions,
) -> None:
    """Submit a scaling study: a job for each point, and one for the report.

    Each point has the nodes that the study says, else as many as its ranks fill, by --ranks-per-node. It runs
    behind the one before, as neighbours disturb each other. What has no room on the site is left out. A point
    that fails costs no other. Submitted again, the study measures what is missing.

    With --one-job each point is trained on ranks of one allocation: give the nodes of the largest. Queued
    again, it keeps finished points.

    Example: dhhpc submit scale study.yml --site virtual-cluster --time 10
    """
    from dhhpc.cli.study_jobs import submit_study
    from dhhpc.errors import DhhpcError

    present(study, "study")
    if one_job:
        folder = ["--output", str(output.absolute())] if output is not None else []
        arguments = ["scale", "run", str(study.absolute()), *folder, *(more or [])]
        job.submit(job.request("scale", arguments, study.stem))
        return
    if more:
        raise DhhpcError(f"{more[0]}: options behind -- go to one command; add --one-job")
    submit_study(job, study, output, together)


def any_command(
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="A command of dhhpc.")],
    *,
    job: JobOptions,
) -> None:
    """Submit any other command of dhhpc as a job of one process: kernels build, doctor, dataset check ..."""
    job.submit(job.request("command", words, " ".join(words[:2])))


def present(path: Path, what: str, mend: str = "") -> None:
    """Refuse a file that is not there, before a job waits in a queue to find that out."""
    from dhhpc.errors import DhhpcError

    if not path.is_file():
        raise DhhpcError(f"{path}: no such {what}; check the path{mend}")


def series_of(experiment: Path, seeds: int | None, folds: int | None) -> Series | None:
    """The series to submit, its experiment read and checked here, before it waits in a queue."""
    if seeds is None and folds is None:
        return None
    from dhhpc.training import Series, read_experiment

    return Series(read_experiment(experiment), seeds, folds)
