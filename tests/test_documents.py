"""Documents say which line and key is wrong, and what the nearest right one is."""

from typing import Annotated, Literal

import pydantic
import pytest

from dhhpc.documents import Document, read_document, write_document
from dhhpc.errors import DhhpcError


class Cat(Document):
    name: Literal["cat"]
    lives: int = 9


class Dog(Document):
    name: Literal["dog"]
    barks: bool


class Owner(Document):
    person: str
    age: pydantic.PositiveInt = 30
    pets: list[Annotated[Cat | Dog, pydantic.Field(discriminator="name")]] = []
    address: dict[str, str] = {}


def read(tmp_path, text):
    path = tmp_path / "owner.yml"
    path.write_text(text)
    return read_document(path, Owner)


def test_a_right_document_is_read_and_written_back(tmp_path):
    owner = read(tmp_path, "person: Ada\npets:\n  - {name: cat, lives: 7}\n  - {name: dog, barks: true}\n")
    assert owner.pets == [Cat(name="cat", lives=7), Dog(name="dog", barks=True)]
    write_document(tmp_path / "copy.yml", owner)
    assert read_document(tmp_path / "copy.yml", Owner) == owner


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("person: Ada\nagee: 3\n", r"owner\.yml:2: agee: unknown key; did you mean `age`\?"),
        ("persona: Ada\n", r"owner\.yml:1: persona: unknown key; did you mean `person`\?"),
        ("age: 3\n", r"owner\.yml:1: person: is missing; add it"),
        ("person: Ada\nage: -3\n", r"owner\.yml:2: age: .*greater than 0.*\(found -3\)"),
        ("person: Ada\npets:\n  - name: cat\n    live: 3\n", r"owner\.yml:4: pets\.0\.live: .*mean `lives`"),
        ("person: Ada\npets:\n  - name: dog\n", r"owner\.yml:3: pets\.0.*barks: is missing"),
        ("person: Ada\npets:\n  - name: cow\n", r"owner\.yml:3: pets\.0.*'cat', 'dog'"),
        ("person: [Ada\n", r"owner\.yml:\d: not valid YAML"),
        ("- Ada\n", r"owner\.yml: holds list"),
        ("", r"owner\.yml: holds nothing"),
        ("person: Ada\nage: 3\nzzz: 1\nyyy: 2\n", r"unknown key; known keys: .*\(1 more problems\)"),
    ],
)
def test_wrong_documents(tmp_path, text, message):
    with pytest.raises(DhhpcError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_no_text(tmp_path):
    with pytest.raises(DhhpcError, match="no such file"):
        read_document(tmp_path / "none.yml", Owner)
    (tmp_path / "image.yml").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(DhhpcError, match="cannot be read as text"):
        read_document(tmp_path / "image.yml", Owner)
