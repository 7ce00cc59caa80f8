"""No value of a request or a site is executed, expanded or split: it comes back as it was, or is refused."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dhhpc.batch import JobRequest, render_script
from dhhpc.batch.request import fit_request
from dhhpc.batch.script import pbs_name
from dhhpc.batch.site import Site
from dhhpc.errors import DhhpcError

PAYLOADS = [
    "$(touch hacked)",
    "`touch hacked`",
    "'; touch hacked; '",
    '"; touch hacked; "',
    "a\ntouch hacked\n",
    "\n#SBATCH --wrap=hacked",
    "x\r\ny",
    "${HOME}",
    "$HOME/*",
    "a b  c\td",
    "-rf",
    "--",
    "# no comment",
    "\\",
    "a\\\nb",
    "!!",
    "~",
    "é\u00a0ü\u2028\u202e",
    "{ranks}",
    "{{ site }}{% for %}",
    "%j%%",
    "",
]
HOSTILE = st.one_of(
    st.sampled_from(PAYLOADS), st.text("'\"`$(){};|&<>\\ \t\n\r*?[]!#~%=,:é-\u2028ab/\x00", max_size=20)
)
# What may be refused: control characters and line breaks; a backslash in a log's path; : and , in a path that
# a container is to show; braces that are no placeholder of a launcher.
REFUSED = ("\0", "\n", "\r", "\t", "\u2028", "\\", ":", ",", "{")
# Text that must not be refused anywhere, so that most examples run.
LINE = HOSTILE.map(lambda text: "".join(character for character in text if character not in REFUSED))
STUB = '#!/bin/bash\nprintf "%s\\0" "$@" "$VALUE" "$NETWORK" "$TMPDIR" "$PWD"\n'


@pytest.fixture(scope="module")
def stub() -> Iterator[Callable[[str], Path]]:
    """Makes a launcher of any name that prints what it was given, each word ended by a NUL."""
    with tempfile.TemporaryDirectory() as folder:

        def make(name: str) -> Path:
            path = Path(folder) / name
            path.write_text(STUB)
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
            return path

        yield make


def run_script(script: str, folder: Path, **environment: str) -> list[str]:
    """The words that the script's launcher was given; only directives may stand before its first command."""
    directives, _, _ = script.partition("\nset -euo pipefail\n")
    assert all(line.startswith("#") for line in directives.split("\n")), directives
    path = folder / "job.sh"
    path.write_text(script, encoding="utf-8")
    subprocess.run(["bash", "-n", path], check=True)
    done = subprocess.run(
        ["bash", path],
        capture_output=True,
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": "/home/me", **environment},
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.rglob("hacked"))
    return done.stdout.decode().split("\0")[:-1]


def file_name(text: str) -> str:
    """`text` as the name of a file."""
    return "x" + text.replace("/", "_").replace("\0", "_")


def check_refusal(error: Exception, *values: str) -> None:
    """Raise `error` unless one of the values holds what a script cannot."""
    if not any(each in value for value in values for each in REFUSED):
        raise error


@example(argument="$(touch hacked)", value="a\nb", place="`x`", word="'", name="x'$(y)\"", option="a b")
@example(argument="'", value='"', place="$PWD", word="`touch hacked`", name="a;b", option='"; touch hacked')
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(argument=HOSTILE, value=HOSTILE, place=LINE, word=LINE, name=LINE, option=LINE)
def test_a_slurm_script_holds_every_value_or_refuses_it(
    stub, argument: str, value: str, place: str, word: str, name: str, option: str
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folder = root / file_name(place)
        folder.mkdir()
        try:
            site = Site(
                name="x",
                scheduler="slurm",
                launcher=f"{stub('launcher')} {shlex.quote(word)}",
                binding="--bind",
                options=[f"--comment={option}"],
                network={"NETWORK": value},
                environment={"VALUE": value},
                python="${PLACE}/" + file_name(option),
                scratch=str(root / file_name(name)),
            )
            wish = JobRequest(("train", argument), "x" + name, str(folder), threads=2, seconds=60, tasks=3)
            script = render_script(fit_request(wish, site), site, root / file_name(place) / "job.log")
        except (DhhpcError, pydantic.ValidationError) as error:
            check_refusal(error, argument, value, place, word, name, option)
            return
        variable = "p" + place.replace("\0", "_")
        words = run_script(script, root, SLURM_ARRAY_TASK_ID="2", PLACE=variable)
        assert words == [
            *(word.replace("{ranks}", "1"), "--bind", f"{variable}/{file_name(option)}"),
            *("-m", "dhhpc", "train", argument, "--member", "2"),
            *(value, value, str(root / file_name(name)), str(folder)),
        ]
        assert (root / file_name(name)).is_dir()


@example("$(touch hacked)", "`touch hacked`", "'")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HOSTILE, LINE, LINE)
def test_a_container_sees_the_very_folders(stub, image: str, bind: str, place: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        folder = root / file_name(place)
        folder.mkdir()
        container = {"image": f"/{file_name(image)}", "binds": ["${DATA}/" + file_name(bind)], "gpus": "nv"}
        try:
            site = Site.model_validate(
                {"name": "x", "scheduler": "pbs", "launcher": f"{stub('launcher')}", "container": container}
            )
            wish = JobRequest(("train",), "job", str(folder), threads=2, seconds=60)
            script = render_script(fit_request(wish, site), site, root / "job.log")
        except (DhhpcError, pydantic.ValidationError) as error:
            check_refusal(error, image, bind, place)
            return
        run_script(script, root, DATA="/my data", VALUE="", NETWORK="", TMPDIR="", PBS_JOBID="1.pbs")
        # A job of PBS writes its log itself.
        assert (root / "job.log").read_text().split("\0")[:-1] == [
            *("apptainer", "exec", "--nv", "--bind", f"/my data/{file_name(bind)}"),
            *("--bind", str(folder), "--pwd", str(folder), f"/{file_name(image)}"),
            *("python3", "-m", "dhhpc", "train"),
            *("", "", "", str(folder)),
        ]


def test_a_variable_that_is_not_set_ends_the_script(stub, tmp_path: Path) -> None:
    site = Site(name="x", scheduler="pbs", launcher=str(stub("launcher")), scratch="${NO_SUCH}/a")
    wish = JobRequest(("train",), "job", str(tmp_path), threads=1, seconds=60)
    script = tmp_path / "job.sh"
    script.write_text(render_script(fit_request(wish, site), site, tmp_path / "job.log"))
    done = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", "")
    assert "NO_SUCH: is not set on this node\n" in (tmp_path / "job.log").read_text()


@given(HOSTILE)
def test_names_of_any_text_are_plain_or_refused(text: str) -> None:
    """What goes into a script without quotes, on PBS lines above all, is refused unless it is harmless."""
    harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+/@:-"
    base = {"name": "x", "scheduler": "pbs", "launcher": "mpiexec"}
    makers: list[Callable[[], object]] = [
        lambda: Site.model_validate(base | {"account": text}),
        lambda: Site.model_validate(base | {"modules": [text]}),
        lambda: Site.model_validate(base | {"name": text}),
        lambda: Site.model_validate(base | {"options": [f"-l {text}"]}),
        lambda: fit_request(
            JobRequest(("train",), "x", "/", threads=1, seconds=60, partition=text, account=text),
            Site.model_validate(base),
        ),
    ]
    for make in makers:
        with contextlib.suppress(DhhpcError, pydantic.ValidationError):
            make()
            assert all(character in harmless + "=,%" for character in text)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", pbs_name(text))


@pytest.mark.parametrize(
    "name", ["API_KEY", "WANDB_API_KEY", "TOKEN", "hf_token", "DB_PASSWORD", "AWS_SECRET_ACCESS_KEY"]
)
@pytest.mark.parametrize("key", ["environment", "network"])
def test_secrets_are_refused_without_being_shown(key: str, name: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="looks like a secret") as caught:
        Site.model_validate({"name": "x", "scheduler": "local", key: {name: "s3cr3t"}})
    assert "s3cr3t" not in caught.value.errors()[0]["msg"]
    Site.model_validate({"name": "x", "scheduler": "local", key: {"TOKENIZERS_PARALLELISM": "false"}})
