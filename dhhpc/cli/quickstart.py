"""`dhhpc quickstart`: the whole way from images to a scaling report, on generated chest CT."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dhhpc.scaling.studies.results import Results

STEPS = 6
RANKS = 2


Say = Callable[[str], None]


def register(app: typer.Typer) -> None:
    app.command()(quickstart)


def quickstart(
    output: Annotated[Path, typer.Option(help="The folder for everything that is made.")] = Path(
        "dhhpc-quickstart"
    ),
    patients: Annotated[int, typer.Option(min=6, help="Chest CT patients to generate.")] = 24,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of images, split and training.")] = 1,
    force: Annotated[
        bool, typer.Option("--force", help="Begin anew in the folder of an earlier one.")
    ] = False,
) -> None:
    """From generated chest CT scans to a report on scaling.

    Generates scans, preprocesses them, trains a U-Net on 1 and on 2 MPI ranks, and reports how that scales.

    Takes a few minutes on two cores. Started again, it keeps what is finished; documents that you have edited
    stay as they are.

    Example: dhhpc quickstart --output try --patients 12 --epochs 5
    """
    from dhhpc.mpi.launch import mpiexec
    from dhhpc.usecases import quickstart as inputs

    started = time.monotonic()
    mpiexec(RANKS)  # without an MPI: one line that says how to get one, before any work
    settings = inputs.Settings(patients, epochs, seed)
    inputs.open_folder(output, settings, force)

    with step(1, f"generate {patients} chest CT patients with lung nodules (DICOM)") as say:
        made = inputs.generate(output, settings)
        files = len(list((output / "scans").glob("*/*.dcm")))
        say(f"{files} DICOM files in {output / 'scans'}" if made else "kept: they are there already")
    with step(2, "divide them by patient, and write the documents of the next steps") as say:
        say(describe_split(output / inputs.DATASET))
        written = inputs.write_documents(output, settings)
        for name in (inputs.PREPROCESS, inputs.EXPERIMENT, inputs.STUDY):
            say(f"{output / name}" + ("" if output / name in written else ": kept as it is"))
    with step(3, f"preprocess on {RANKS} ranks into HDF5 shards") as say:
        say(preprocess(output))
    with step(4, "train the U-Net on each number of ranks, and evaluate it on the test patients"):
        results = measure(output)
    with step(5, "check the exported networks with onnx.checker") as say:
        for path in check_onnx(output, results):
            say(f"{path}: valid")
    with step(6, "write the scaling report") as say:
        from dhhpc.scaling.reports.report import report

        page = report(output / inputs.RESULTS)
        say(str(page))
    print_results(output, results, page, time.monotonic() - started)


@contextlib.contextmanager
def step(number: int, title: str) -> Iterator[Say]:
    """Print the step's title, give a function for lines below it, and print its time."""
    started = time.monotonic()
    print(f"[{number}/{STEPS}] {title}", flush=True)
    yield lambda line: print(f"      {line}", flush=True)
    print(f"      {time.monotonic() - started:.1f} s", flush=True)


def describe_split(path: Path) -> str:
    """The dataset's split in a line."""
    from dhhpc.data import read_dataset

    dataset = read_dataset(path)
    parts = ", ".join(f"{len(indices)} {name}" for name, indices in dataset.split or ())
    return f"{path}: {len(dataset.images)} patients: {parts}"


def preprocess(output: Path) -> str:
    """Preprocess on ranks; finished shards are kept. Returns what came out in a line."""
    from dhhpc.batch.command import run_dhhpc
    from dhhpc.data.shards import read_index
    from dhhpc.usecases import quickstart as inputs

    run_dhhpc(
        ["preprocess", str(output / inputs.PREPROCESS), "--ranks", str(RANKS)], output / "preprocess.log"
    )
    index = read_index(output / inputs.SHARDS)
    samples = sum(shard.samples for shard in index.shards)
    return f"{output / inputs.SHARDS}: {samples} slices in {len(index.shards)} shards"


def measure(output: Path) -> Results:
    """Run the quickstart's study."""
    from dhhpc import zoo
    from dhhpc.cli.study_progress import study_progress
    from dhhpc.scaling.studies.runner import check_points, run_study
    from dhhpc.usecases import quickstart as inputs

    with study_progress("      ") as watcher:
        results = run_study(output / inputs.STUDY, output / inputs.RESULTS, zoo.create, watcher=watcher)
    check_points(results)
    return results


def check_onnx(output: Path, results: Results) -> list[Path]:
    """Check the network of every point; returns their files.

    Raises:
        DhhpcError: one is not valid ONNX.
    """
    import onnx

    from dhhpc.errors import DhhpcError
    from dhhpc.usecases import quickstart as inputs

    paths = [output / inputs.RESULTS / row.run / "model.onnx" for row in results.rows]
    for path in paths:
        try:
            onnx.checker.check_model(onnx.load(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise DhhpcError(
                f"{path}: not valid ONNX ({str(error).splitlines()[0]}); train it again"
            ) from None
    return paths


def print_results(output: Path, results: Results, page: Path, seconds: float) -> None:
    """The KPIs, what was made, and what to try next."""
    from dhhpc.cli.scale import as_text
    from dhhpc.usecases import quickstart as inputs

    run = output / inputs.RESULTS / results.rows[-1].run
    print(f"\nDone in {seconds:.0f} s.\n\n{as_text(results)}\n\nMade:")
    for path, what in (
        (page, "the report: open it in a browser"),
        (run / "model.onnx", "the trained network"),
        (output / inputs.RESULTS / "results.json", "every figure of the report"),
        (
            output / inputs.DATASET,
            f"with {inputs.PREPROCESS}, {inputs.EXPERIMENT} and {inputs.STUDY}: edit them",
        ),
    ):
        print(f"  {path}  {what}")
    print("\nTry next:")
    for arguments in (
        ["predict", str(run), str(inputs.test_scan(output)), "--output", str(output / "predicted")],
        ["runs", "show", str(run)],
        ["train", str(output / inputs.EXPERIMENT), "--ranks", str(RANKS), "--epochs", "40"],
    ):
        print(f"  {program()} {shlex.join(arguments)}")


def program() -> str:
    """How a user starts dhhpc from this shell: by name where PATH finds this one, else by path."""
    beside = Path(sys.executable).with_name("dhhpc")
    found = shutil.which("dhhpc")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "dhhpc"
    if not beside.is_file():
        return f"{shlex.quote(sys.executable)} -m dhhpc"
    with contextlib.suppress(ValueError):
        beside = beside.relative_to(Path.cwd())
    return shlex.quote(str(beside))
