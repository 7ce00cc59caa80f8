"""The networks by name, and `dhhpc zoo`."""

import json
import sys

import pytest

from dhhpc import zoo
from dhhpc.cli.app import main
from dhhpc.errors import DhhpcError


@pytest.fixture
def dhhpc(monkeypatch, capsys):
    """The command line in this process: its output."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["dhhpc", "zoo", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return output.err if ended.value.code else output.out

    return run


@pytest.mark.parametrize(
    ("name", "count"),
    # Of 1000 classes, as torchvision's documentation of its models gives them.
    [("resnet18", 11_689_512), ("vgg16", 138_357_544)],
)
def test_parameters_are_those_of_the_published_networks(name, count):
    assert zoo.create(name, (3, 224, 224), 1000).parameter_count == count


def test_the_list_tells_options_and_defaults(dhhpc):
    found = json.loads(dhhpc("list", "--json"))
    assert sorted(found) == zoo.names()
    assert found["unet"]["options"]["channels"] == [32, 64, 128, 256, 512]
    assert "    width: 64" in dhhpc("list").splitlines()


def test_a_network_is_shown_with_its_memory(dhhpc):
    lines = dhhpc(
        "show", "unet", "--size", "3,32,16", "--batch", "2", "--set", "channels=[4, 8]"
    ).splitlines()
    assert lines[1].split()[1:3] == ["Input", "3x32x16"]
    assert lines[-1].startswith("training step on 2 samples: ")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--size", "3"), "--size 3: is no size of an image; give channels, rows and columns, as 3,512,512"),
        (("--set", "channels"), "--set channels: is no setting; write OPTION=VALUE, as channels=[16,32,64]"),
        (("--set", "chanels=[4]"), "network unet: unknown option 'chanels'; did you mean channels?"),
    ],
)
def test_mistakes_are_one_line(dhhpc, arguments, line):
    assert dhhpc("show", "unet", *arguments).strip() == f"dhhpc: {line}"


def test_an_option_of_another_type_is_told_with_an_example():
    with pytest.raises(
        DhhpcError, match=r"^network unet: channels 6: .*; write it as \[32, 64, 128, 256, 512\]$"
    ):
        zoo.create("unet", (1, 32, 32), 1, channels=6)
    with pytest.raises(DhhpcError, match=r"^network unet: normalization 'maybe': .*; write it as true$"):
        zoo.create("unet", (1, 32, 32), 1, normalization="maybe")
