"""`dhhpc site`: the machines that jobs can be sent to."""

from __future__ import annotations

import json
from typing import Annotated

import typer

EXAMPLE = "Example: dhhpc site show virtual-cluster"


def register(app: typer.Typer) -> None:
    verb = typer.Typer(no_args_is_help=True, help="The machines that jobs can be sent to.", epilog=EXAMPLE)
    verb.command("list", epilog="Example: dhhpc site list")(list_sites)
    verb.command("show", epilog=EXAMPLE)(show)
    app.add_typer(verb, name="site")


def list_sites(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
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
    name: Annotated[str, typer.Argument(help="A site's name or the path of its .yml file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show one site config in full."""
    import yaml

    from dhhpc.batch import read_site

    value = read_site(name).model_dump(mode="json", exclude_none=True)
    print(json.dumps(value, indent=2) if as_json else yaml.safe_dump(value, sort_keys=False).rstrip())
