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
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DhhpcError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DhhpcError(f"{path}: cannot be read as text ({error}); check the path") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise DhhpcError(f"{path}{line}: not valid YAML: {problem}; mend that line") from None
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise DhhpcError(f"{path}: holds {found} where `key: value` lines are expected")
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        raise DhhpcError(describe(path, node, model, error)) from None


def write_document(path: Path | str, document: pydantic.BaseModel) -> None:
    """Write `document` as YAML, whole or not at all; keys at their default of None are left out."""
    value = document.model_dump(mode="json", exclude_none=True)
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110))


def describe(path: Path, node: Any, model: type[pydantic.BaseModel], error: pydantic.ValidationError) -> str:
    """One line for the first problem of `error`, and how many more there are."""
    problems = error.errors()
    # A misspelt required key is unknown and missing at once; the spelling is the news.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    location = first["loc"]
    line = line_of(node, location)
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
    return f"{path}:{line}: {name}: {message}{more}"


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


def line_of(node: Any, location: tuple[int | str, ...]) -> int:
    """The line, from 1, of the innermost part of `location` that the file holds."""
    nodes = [found for _, found in steps_in_file(node, location) if found is not None]
    return int((nodes[-1] if nodes else node).start_mark.line) + 1


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
