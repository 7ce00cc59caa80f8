"""`dhhpc zoo`: the networks that an experiment may name, their options, and what one takes."""

from __future__ import annotations

from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    zoo = typer.Typer(no_args_is_help=True, help="The networks, their options and their size.")
    zoo.command("list")(list_networks)
    zoo.command("show")(show)
    app.add_typer(zoo, name="zoo")


def list_networks(as_json: AsJson = False) -> None:
    """List the networks and the options of each with their defaults.

    They go into an experiment as `network: {name: unet, channels: [16, 32, 64]}`.

    Example: dhhpc zoo list
    """
    import inspect
    import json

    from dhhpc import zoo

    found: dict[str, dict[str, Any]] = {}
    for name in zoo.names():
        function = zoo.NETWORKS[name]
        options = list(inspect.signature(function).parameters.values())[2:]
        found[name] = {
            "about": (inspect.getdoc(function) or "").partition("\n")[0],
            "options": {option.name: option.default for option in options},
        }
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, entry in found.items():
        print(f"{name}: {entry['about']}")
        for option, default in entry["options"].items():
            print(f"    {option}: {json.dumps(default)}")


def show(
    name: Annotated[str, typer.Argument(help="A network's name.")],
    size: Annotated[
        str, typer.Option("--size", metavar="C,H,W", help="Of an image: channels, rows and columns.")
    ] = "1,256,256",
    classes: Annotated[int, typer.Option(min=1, help="Output channels; 1 gives a sigmoid.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Samples of a rank's batch.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="An option of the network.")
    ] = None,
) -> None:
    """Show a network layer by layer, with its parameters and the memory of a training step.

    Volumes have four numbers: --size C,D,H,W.

    Example: dhhpc zoo show unet --size 3,512,512 --batch 4 --set channels=[16,32,64,128]
    """
    from dhhpc import zoo
    from dhhpc.errors import DhhpcError

    try:
        extents = tuple(int(part) for part in size.split(","))
        if len(extents) < 2 or min(extents) < 1:
            raise ValueError
    except ValueError:
        raise DhhpcError(
            f"--size {size}: is no size of an image; give channels, rows and columns, as 3,512,512"
        ) from None
    network = zoo.create(name, extents, classes, **dict(map(option_of, settings or [])))
    network.build(seed=None)
    print(network.summary(batch))


def option_of(setting: str) -> tuple[str, object]:
    """A name and a YAML value from `name=value`."""
    import yaml

    from dhhpc.errors import DhhpcError

    name, equals, text = setting.partition("=")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not equals or value is None:
        raise DhhpcError(f"--set {setting}: is no setting; write OPTION=VALUE, as channels=[16,32,64]")
    return name, value
