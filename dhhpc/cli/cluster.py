"""`dhhpc cluster`: a virtual SLURM cluster on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dhhpc.batch.virtual_cluster import BackgroundCluster

EXAMPLE = "Example: dhhpc cluster start --nodes 4"

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    verb = typer.Typer(
        no_args_is_help=True,
        help="A real SLURM of virtual nodes, to try jobs and to learn.",
        epilog=EXAMPLE,
    )
    verb.command("start", epilog=EXAMPLE)(start)
    verb.command("status", epilog="Example: dhhpc cluster status --json")(status)
    verb.command("stop", epilog="Example: dhhpc cluster stop")(stop)
    app.add_typer(verb, name="cluster")


def start(
    nodes: Annotated[int, typer.Option(help="How many virtual nodes.", min=1, max=64)] = 4,
    accounting: Annotated[
        bool | None,
        typer.Option(
            "--accounting/--no-accounting",
            help="With a database, for sacct and sacctmgr; by default where its programs are installed.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Start a SLURM cluster in the background, which stays until `dhhpc cluster stop`.

    dhhpc finds it by itself as --site virtual-cluster; SLURM's own commands need the variable that it prints.
    """
    from dhhpc.batch.virtual_cluster import start_cluster
    from dhhpc.batch.virtual_cluster.accounting import PACKAGES

    cluster, fresh = start_cluster(nodes, accounting)
    if as_json:
        print(json.dumps(described(cluster), indent=2))
        return
    print(f"a SLURM of {size(cluster)} {'is running' if fresh else 'is running already'}")
    if not cluster.accounting and accounting is None:
        print(f"  no accounting (sacct): install {PACKAGES} for that")
    print("  submit to it: dhhpc submit train experiment.yml --site virtual-cluster --time 00:10:00")
    print("  end it and all its jobs: dhhpc cluster stop")
    print("  for SLURM's own commands (sinfo, squeue, sbatch) in this shell:")
    print(f"export SLURM_CONF={cluster.configuration}")


def status(as_json: AsJson = False) -> None:
    """Tell whether your cluster is running on this machine, and how its nodes and jobs stand."""
    from dhhpc.batch.virtual_cluster import find_cluster

    cluster = find_cluster()
    if as_json:
        value = {"running": False} if cluster is None else described(cluster)
        print(json.dumps(value, indent=2))
        return
    if cluster is None:
        print("no virtual cluster is running; `dhhpc cluster start` starts one")
        return
    print(f"a SLURM of {size(cluster)} is running")
    for name in cluster.ended_daemons():
        print(f"  {name} has ended; stop and start the cluster to have it back")
    print("  nodes: " + ", ".join(f"{node} {state}" for node, state in cluster.node_states().items()))
    print("  jobs:  " + (", ".join(f"{n} {state}" for state, n in cluster.job_states().items()) or "none"))
    print(f"export SLURM_CONF={cluster.configuration}")


def stop() -> None:
    """Cancel the jobs of your cluster, end it, and remove all its files."""
    from dhhpc.batch.virtual_cluster import stop_cluster

    cluster = stop_cluster()
    print(f"stopped the SLURM of {size(cluster)}; nothing of it is left")


def size(cluster: BackgroundCluster) -> str:
    nodes = "1 virtual node" if cluster.nodes == 1 else f"{cluster.nodes} virtual nodes"
    return f"{nodes} {'with' if cluster.accounting else 'without'} accounting"


def described(cluster: BackgroundCluster) -> dict[str, Any]:
    return {
        "running": True,
        "nodes": cluster.node_states(),
        "jobs": cluster.job_states(),
        "accounting": cluster.accounting,
        "SLURM_CONF": cluster.configuration,
        "ended": cluster.ended_daemons(),
    }
