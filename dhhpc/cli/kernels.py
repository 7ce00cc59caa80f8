"""`dhhpc kernels`: the compiled kernels of the tensor core, and how fast they are."""

from __future__ import annotations

from typing import Annotated

import typer

BUILD = "Example: DHHPC_CACHE_DIR=$WORK/dhhpc-cache dhhpc kernels build"
BENCH = "Example: dhhpc kernels bench --peer torch --only resnet18"


def register(app: typer.Typer) -> None:
    verb = typer.Typer(no_args_is_help=True, help="The kernels of the tensor core.", epilog=BENCH)
    verb.command("build", epilog=BUILD)(build)
    verb.command("bench", epilog=BENCH)(bench)
    app.add_typer(verb, name="kernels")


def build(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compile every kernel for this machine's processor, so that no job has to.

    The compiled kernels lie in $DHHPC_CACHE_DIR, by default ~/.cache/dhhpc. Build them on a node of the kind
    that the job will run on.
    """
    import json
    import time

    from dhhpc_kernels.cache import cache_folder, unkept
    from dhhpc_kernels.compilation import compilations

    from dhhpc.eddl.warm_up import warm_up
    from dhhpc.errors import DhhpcError

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DhhpcError(f"{folder}: {error.strerror}; set DHHPC_CACHE_DIR to a writable folder") from None
    started = time.perf_counter()
    warm_up()
    seconds = time.perf_counter() - started
    counts = compilations()
    if unkept:
        raise DhhpcError(f"{folder}: {len(unkept)} kernels were compiled but could not be kept there")
    compiled = sum(count > 0 for count in counts.values())
    if as_json:
        document = {
            "folder": str(folder),
            "kernels": len(counts),
            "compiled": compiled,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(document, indent=2))
    else:
        print(f"{len(counts)} kernels, {compiled} of them compiled now, {seconds:.1f} s: {folder}")


def bench(
    peer: Annotated[str | None, typer.Option(help="Time this library beside dhhpc: torch.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only benchmarks with this in their names.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each benchmark.")] = 7,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each side; all cores unless given.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the algorithm of each convolution; measure nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Time layers and networks, alone or in turn with PyTorch's channels_last.

    Our convolutions run as in a network's steps: without what the first call has prepared.

    ratio: the peer's time over ours. MB: what a call must read or write. peak MB: memory of the process.
    """
    import json
    import platform
    import sys
    from importlib.metadata import version

    import dhhpc_kernels

    from dhhpc import benchmarks
    from dhhpc.benchmarks import table

    cases = benchmarks.select(only or [])
    if explain:
        rows = benchmarks.explain(cases)
        print(json.dumps(rows, indent=2) if as_json else "\n".join(table.columns(rows)))
        return
    if peer is not None:
        benchmarks.check_peer(peer)
    threads = threads or dhhpc_kernels.threads()
    busy = benchmarks.busy_cores()
    if busy > benchmarks.QUIET_CORES:
        print(
            f"dhhpc: other processes use {busy:.1f} cores, which distorts every figure; wait until they end",
            file=sys.stderr,
        )
    peak = benchmarks.measured_peak(threads)
    names = [case.name for case in cases]
    if not as_json:
        print(f"{threads} threads, measured peak {peak:.0f} GFLOP/s, {rounds} rounds", flush=True)
        print(table.heading(names), flush=True)
    results = []
    for result in benchmarks.run(cases, peer, rounds, threads, peak):
        results.append(result)
        if not as_json:
            print(table.line(result, names), flush=True)
    means = benchmarks.geometric_means(results)
    if as_json:
        document = {
            "host": platform.node(),
            "threads": threads,
            "rounds": rounds,
            "busy_cores": busy,
            "peak_gflops": peak,
            "peer": peer,
            "versions": {
                name: version(name) for name in ["dhhpc", "numba", "numpy", *([peer] if peer else [])]
            },
            "results": [result.document() for result in results],
            "geometric_means": means,
        }
        print(json.dumps(document, indent=2))
        return
    for kind, mean in means.items():
        print(f"geometric mean of {kind}: {mean:.2f}")
