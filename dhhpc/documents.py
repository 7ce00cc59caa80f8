"""YAML documents checked by pydantic models, with errors that name the line and the nearest right key."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
import yaml

from dhhpc.errors import DhhpcError
from dhhpc.files import write_text


class Document(pydantic.BaseModel):
    """Base of everything that users write in YAML: unknown keys are refused."""

    model_config = pydantic.ConfigDict(extra="forbid", validate_assignment=True)


DocumentType = TypeVar("DocumentType", bound=pydantic.BaseModel)


def read_document(path: Path | str, model: type[DocumentType]) -> DocumentType:
    """Read `path` as YAML and check it against `model`.

    Raises:
        DhhpcError: the file is missing, is not YAML, or holds a wrong key or value; the message is one line
            `file:line: key: what is wrong`, with the nearest right key for a wrong one.
    """
    return check_document(compose_document(path), model)


def compose_document(path: Path | str) -> yaml.MappingNode:
    """The YAML nodes of the file `path`, whose marks tell the file and the line of each.

    Raises:
        DhhpcError: the file is missing, or is not YAML of `key: value` lines.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DhhpcError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DhhpcError(f"{path}: cannot be read as text ({error}); check the path") from None
    node = compose_text(text, str(path))
    if not isinstance(node, yaml.MappingNode):
        found = "nothing" if node is None else type(construct(node)).__name__
        raise DhhpcError(f"{path}: holds {found} where `key: value` lines are expected")
    return node


def compose_text(text: str, name: str) -> yaml.Node | None:
    """The YAML nodes of `text`, whose marks call it `name`; None for an empty one.

    Raises:
        DhhpcError: it is not YAML.
    """
    try:
        loader = yaml.SafeLoader(text)
        loader.name = name
        node = loader.get_single_node()
        if node is not None:
            construct(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise DhhpcError(f"{name}{line}: not valid YAML: {problem}; mend that line") from None
    return node


def construct(node: yaml.Node) -> Any:
    """The Python value of a YAML node."""
    return yaml.SafeLoader("").construct_document(node)


def check_document(node: yaml.MappingNode, model: type[DocumentType]) -> DocumentType:
    """The document that `node` holds, checked against `model`.

    Raises:
        DhhpcError: as `read_document`; file and line are those of the marks of `node`.
    """
    try:
        return model.model_validate(construct(node))
    except pydantic.ValidationError as error:
        raise DhhpcError(describe(node, model, error)) from None


def write_document(path: Path | str, document: pydantic.BaseModel) -> None:
    """Write `document` as YAML, whole or not at all; keys at their default of None are left out."""
    value = document.model_dump(mode="json", exclude_none=True)
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110))


def describe(node: yaml.Node, model: type[pydantic.BaseModel], error: pydantic.ValidationError) -> str:
    """One line for the first problem of `error`, and how many more there are."""
    problems = error.errors()
    # A misspelt required key is unknown and missing at once; the spelling is the news.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    location = first["loc"]
    place = place_of(innermost(node, location))
    # Discriminator tags stand in pydantic's location but not in the file: keep what the file holds.
    name = ".".join(str(part) for part in location_in_file(node, location)) or "the document"
    if first["type"] == "extra_forbidden":
        key = str(location[-1])
        known = known_keys(model, location[:-1])
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        mend = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        message = f"unknown key; {mend}"
    elif first["type"] == "missing":
        message = "is missing; add it"
    else:
        message = first["msg"].removeprefix("Value error, ")
        if isinstance(first.get("input"), str | int | float | bool | None):
            message += f" (found {first['input']!r})"
    more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{place}: {name}: {message}{more}"


def steps_in_file(node: Any, location: tuple[int | str, ...]) -> list[tuple[int | str, Any]]:
    """The parts of a pydantic location in the file, each with its YAML node (None for a missing key)."""
    steps: list[tuple[int | str, Any]] = []
    for index, part in enumerate(location):
        if isinstance(node, yaml.MappingNode):
            match = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if match is None:
                if index == len(location) - 1:
                    steps.append((part, None))
                continue
            steps.append((part, match[0]))
            node = match[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            steps.append((part, node))
    return steps


def location_in_file(node: Any, location: tuple[int | str, ...]) -> list[int | str]:
    return [part for part, _ in steps_in_file(node, location)]


def innermost(node: yaml.Node, location: tuple[int | str, ...]) -> yaml.Node:
    """The innermost node at `location` that the document holds."""
    nodes = [found for _, found in steps_in_file(node, location) if found is not None]
    return nodes[-1] if nodes else node


def line_of(node: yaml.Node, location: tuple[int | str, ...]) -> int:
    """The line, from 1, of the innermost part of `location` that the document holds."""
    return int(innermost(node, location).start_mark.line) + 1


def place_of(node: yaml.Node) -> str:
    """Where a node was written: `file:line`, with lines from 1, or the name alone of what has no lines."""
    mark = node.start_mark
    return f"{mark.name}:{mark.line + 1}" if mark.line >= 0 else str(mark.name)


def known_keys(model: type[pydantic.BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at `location` inside `model`; for a tagged union, those of the tag's own model."""
    candidates: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for candidate in candidates:
            field = candidate.model_fields.get(str(part))
            if field is not None:
                following.extend(models_in(field.annotation))
        if following:
            candidates = following
        else:
            tagged = [candidate for candidate in candidates if tag_of(candidate) == part]
            candidates = tagged or candidates
    return sorted({key for candidate in candidates for key in candidate.model_fields})


def tag_of(model: type[pydantic.BaseModel]) -> Any:
    field = model.model_fields.get("name")
    return get_args(field.annotation)[0] if field is not None and get_args(field.annotation) else None


def models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    """Every pydantic model named inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]
