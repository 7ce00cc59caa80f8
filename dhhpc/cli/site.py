"""`dhhpc site`: the machines that jobs can be sent to."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

EXAMPLE = "Example: dhhpc site show virtual-cluster"
RESOLVED_EXAMPLE = "Example: dhhpc site show lumi-c --resolved --set scratch=/scratch/project_1/me"
CHECK_EXAMPLE = "Example: dhhpc site check virtual-cluster"

Name = Annotated[str, typer.Argument(help="A site's name or the path of its .yml file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value, its key dotted: partitions.main.max_nodes=4."
    ),
]


def register(app: typer.Typer) -> None:
    verb = typer.Typer(no_args_is_help=True, help="The machines that jobs can be sent to.", epilog=EXAMPLE)
    verb.command("list", epilog="Example: dhhpc site list")(list_sites)
    verb.command("show", epilog=RESOLVED_EXAMPLE)(show)
    verb.command("check", epilog=CHECK_EXAMPLE)(check)
    app.add_typer(verb, name="site")


def list_sites(as_json: AsJson = False) -> None:
    """List the known sites: those that come with dhhpc and your own."""
    from dhhpc.batch import read_site, site_files

    sites = [(read_site(name), path) for name, path in site_files().items()]
    if as_json:
        rows = [
            {
                "name": site.name,
                "scheduler": site.scheduler,
                "description": site.description,
                "file": str(path),
            }
            for site, path in sites
        ]
        print(json.dumps(rows, indent=2))
        return
    width = max(len(site.name) for site, _ in sites)
    for site, path in sites:
        print(f"{site.name:{width}}  {site.scheduler:5}  {site.description}  ({path})")


def show(
    name: Name,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Tell the file and line, variable or option of every value.")
    ] = False,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show one site config in full.

    Its values come from the file that comes along, your own file, the environment and the command line;
    later ones go before.
    """
    import yaml

    from dhhpc.batch import resolve_site

    found = resolve_site(name, settings or [])
    if resolved:
        rows = [{"key": key, "value": value, "source": source} for key, value, source in found.values()]
        if as_json:
            print(json.dumps({"sources": found.sources, "values": rows}, indent=2))
        else:
            print_resolved(rows, found.sources)
        return
    value = found.site.model_dump(mode="json", exclude_none=True)
    print(json.dumps(value, indent=2) if as_json else yaml.safe_dump(value, sort_keys=False).rstrip())


def print_resolved(rows: list[dict[str, Any]], sources: tuple[str, ...]) -> None:
    print("# Precedence: the defaults, then each of these over the ones before it:")
    for source in sources:
        print(f"#   {source}")
    texts = [(row["key"], json.dumps(row["value"], ensure_ascii=False), row["source"]) for row in rows]
    widths = [max(len(text[column]) for text in texts) for column in (0, 1)]
    for key, value, source in texts:
        print(f"{key:{widths[0]}}  {value:{min(widths[1], 50)}}  # {source}")


def check(
    name: Name,
    account: Annotated[str | None, typer.Option(help="The account to check in place of the site's.")] = None,
    qos: Annotated[str | None, typer.Option(help="The QOS to check in place of the site's.")] = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Test a site config on this machine, best on a login node: nothing is submitted.

    Each line says ok, warn or fail, and how to mend it; with a fail the exit code is 1.
    """
    from dhhpc.batch.site_check import check_site
    from dhhpc.batch.site_layers import read_site
    from dhhpc.cli.findings import show

    if not show(check_site(read_site(name, settings or []), account, qos), as_json):
        raise typer.Exit(1)
