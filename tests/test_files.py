"""Files come whole or not at all."""

import os
import resource
import subprocess
import sys

import pytest

from dhhpc.errors import DhhpcError
from dhhpc.files import read_json, replacing, sha256_of, write_json, write_text


def test_a_failure_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "old")

    def fail_in_the_middle():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_in_the_middle()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_a_file_size_limit_is_one_clear_line_and_leaves_nothing(tmp_path):
    # The kernel refuses the write, as a full disk would.
    program = (
        "import resource, signal, sys\n"
        "from dhhpc.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from dhhpc.errors import DhhpcError\n"
        "try:\n    write_text(sys.argv[1], 'x' * 5000)\n"
        "except DhhpcError as error:\n    print(error)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000
    path = tmp_path / "big.txt"
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path}: cannot be written (File too large)")
    assert done.stdout.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system to fill")
def test_a_full_disk_is_one_clear_line_and_leaves_the_old_file(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=True)
    try:
        path = tmp_path / "result.txt"
        write_text(path, "old")
        with pytest.raises(
            DhhpcError, match=r"result\.txt: cannot be written \(No space left.*free some space"
        ):
            write_text(path, "x" * 200_000)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["result.txt"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_in_the_place_of_a_folder_is_one_clear_line(tmp_path):
    (tmp_path / "output").write_text("no folder")
    with pytest.raises(DhhpcError, match=r"result\.txt: cannot be written \((Not a directory|File exists)"):
        write_text(tmp_path / "output" / "result.txt", "x")


def test_json_and_checksums(tmp_path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == {"a": [1, 2.5, None]}
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_text("{")
    with pytest.raises(DhhpcError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(DhhpcError, match="no such file"):
        read_json(tmp_path / "none.json")
