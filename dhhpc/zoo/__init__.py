"""The zoo: networks by name, one file a family."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, get_type_hints

import pydantic

from dhhpc.eddl import Model
from dhhpc.errors import DhhpcError
from dhhpc.zoo.convnet import convnet
from dhhpc.zoo.resnet import resnet18
from dhhpc.zoo.unet import unet
from dhhpc.zoo.vgg import vgg16

NETWORKS: dict[str, Callable[..., Model]] = {
    "convnet": convnet,
    "resnet18": resnet18,
    "unet": unet,
    "vgg16": vgg16,
}


def names() -> list[str]:
    """The networks that `create` knows."""
    return sorted(NETWORKS)


def create(name: str, input_shape: Sequence[int], classes: int, **options: Any) -> Model:
    """The unbuilt network `name` for samples of `input_shape` and `classes` outputs.

    Args:
        name: one of `names()`.
        input_shape: (channels, height, width).
        classes: output channels; 1 gives a sigmoid, more a softmax.
        options: of the network's own function.

    Raises:
        DhhpcError: an unknown name or option, a value of another type, or a shape that the network does not
            take.
    """
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        mend = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names())}"
        raise DhhpcError(f"network {name!r} is unknown; {mend}")
    known = list(inspect.signature(NETWORKS[name]).parameters)[2:]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            mend = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
            raise DhhpcError(f"network {name}: unknown option {option!r}; {mend}")
    options = {option: checked(name, option, value) for option, value in options.items()}
    return NETWORKS[name](tuple(int(extent) for extent in input_shape), int(classes), **options)


def checked(name: str, option: str, value: Any) -> Any:
    """`value` as the annotation of an option of the network `name` has it.

    Raises:
        DhhpcError: it is of another type.
    """
    function = NETWORKS[name]
    try:
        return pydantic.TypeAdapter(get_type_hints(function)[option]).validate_python(value)
    except pydantic.ValidationError as error:
        example = json.dumps(inspect.signature(function).parameters[option].default)
        raise DhhpcError(
            f"network {name}: {option} {value!r}: {error.errors()[0]['msg']}; write it as {example}"
        ) from None
