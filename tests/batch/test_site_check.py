"""`dhhpc site check`: right and wrong configs beside a real SLURM, and machines that are not the site's."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dhhpc.batch import Site, read_site
from dhhpc.batch.site import Node
from dhhpc.batch.site_check import check_site
from dhhpc.batch.slurm_check import Shape, compare_nodes, read_associations
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.cli.app import command_line
from dhhpc.findings import Finding


def run(*arguments: str) -> tuple[int, list[dict[str, str]]]:
    done = CliRunner().invoke(command_line(), ["site", "check", *arguments, "--json"])
    assert done.exit_code in (0, 1), done.output
    return done.exit_code, json.loads(done.stdout)


def lines(findings: list[Finding], *levels: str) -> list[str]:
    return [f"{each.subject}: {each.text}; {each.mend}" for each in findings if each.level in levels]


@pytest.mark.slurm
def test_a_right_config_passes(cluster: VirtualCluster, tmp_path: Path) -> None:
    code, rows = run("virtual-cluster", "--set", f"scratch={tmp_path}/new/folder")
    assert {row["level"] for row in rows} == {"ok"}
    assert code == 0
    texts = {(row["subject"], row["text"]) for row in rows}
    assert ("scheduler", "SLURM answers, with 3 partitions") in texts
    assert ("partition short", "is there, for at most 4 nodes and 00:01:00") in texts
    assert ("partition main", "its nodes have the 2 cores") in texts
    assert ("mpi", "srun knows pmi2") in texts
    assert ("a job in main", "sbatch --test-only takes one of one rank") in texts
    assert ("scratch", f"{tmp_path}/new/folder can be written") in texts
    # Nothing was submitted and nothing was made.
    assert cluster.run("squeue", "--noheader") == ""
    assert not (tmp_path / "new").exists()


@pytest.mark.slurm
def test_a_wrong_config_names_each_fault_and_its_mend(cluster: VirtualCluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "wrong.yml"
    path.write_text(
        "extends: virtual-cluster\nlauncher: srun --mpi=pim2\nnode: {cores: 4}\npython: /bin/false\n"
        f"scratch: {tmp_path}/file/folder\naccount: required\nmodules: [no-such-module]\n"
        'partitions:\n  - {name: main, max_nodes: 5, max_time: "02:00:00"}\n'
        '  - {name: shrot, max_nodes: 1, max_time: "1"}\n'
    )
    code, rows = run(str(path), "--account", "project1")
    faults = {f"{row['subject']}: {row['text']}; {row['mend']}" for row in rows if row["level"] == "fail"}
    assert code == 1
    # Only accounts tell whose an account is; root has one in all of them.
    yours = "root, virtual" if getpass.getuser() == "root" else "virtual"
    account = {f"account: project1 is not yours; yours: {yours}"} if cluster.accounting else set()
    assert faults == account | {
        "partition main: max_nodes 5, but nodes is 4; set it to 4",
        'partition main: max_time 02:00:00, but MaxTime is 01:00:00; set it to "01:00:00"',
        "partition main: cores 4, but its nodes have 2; set them to 2",
        "partition short: cores 4, but its nodes have 2; set them to 2",
        "partition urgent: cores 4, but its nodes have 2; set them to 2",
        "partition shrot: is not on this machine; did you mean short?",
        "mpi: srun does not know pim2; did you mean pmi2?",
        "modules: no-such-module: this machine has no environment modules; "
        "`module avail` lists those of this machine; set modules",
        "python: /bin/false has no dhhpc; install it there, or set python to one that has it",
        f"scratch: {tmp_path}/file/folder: {tmp_path}/file is no folder; set scratch to a folder of your own",
    }
    warned = {row["text"] for row in rows if row["level"] == "warn"}
    assert warned == (set() if cluster.accounting else {"project1: this machine does not tell yours"})
    # Without an account no job is tried, and a config without partitions learns those of the machine.
    _, rows = run("slurm-mpich", "--set", "account=required")
    told = {row["subject"]: row["text"] + "; " + row["mend"] for row in rows if row["level"] == "warn"}
    assert "main (4 nodes of 2 cores, 01:00:00); short (4 nodes" in told["partitions"]
    assert told["account"].startswith("the site needs one, and none is chosen; give --account NAME")
    assert told["a job"].startswith("was not tried; --account: is missing")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lumi-c", "no SLURM (no sbatch, squeue, scancel, sinfo, scontrol on PATH)"),
        ("pbs-pro", "no PBS (no qsub and qstat on PATH)"),
    ],
)
def test_another_machine_is_told_with_the_mend(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(command_line(), ["site", "check", name])
    line = f"fail  scheduler       this machine has {text}\n{'':22}-> run this on a login node of {name}\n"
    assert (done.exit_code, done.stdout) == (1, line)


@pytest.mark.slurm
def test_a_slurm_that_does_not_answer_is_told_in_one_line(
    cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none.conf"))
    monkeypatch.setattr("dhhpc.findings.LONGEST_ANSWER", 1.0)
    (only,) = check_site(read_site("lumi-c"))
    assert only.level == "fail"
    assert only.text.startswith("SLURM does not answer: ")
    assert "\n" not in only.text


def test_what_needs_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Environment modules are a function of the shell, which processes inherit by such a variable.
    monkeypatch.setenv("BASH_FUNC_module%%", '() { test "$2" = gcc || { echo "ERROR: no $2" >&2; }; }')
    monkeypatch.setenv("BASE", str(tmp_path))
    monkeypatch.delenv("NO_SUCH", raising=False)
    site = Site(
        name="here",
        scheduler="local",
        node=Node(cores=10**6),
        modules=["gcc"],
        scratch="${BASE}/scratch",
        node_local="${NO_SUCH}",
    )
    findings = check_site(site)
    assert lines(findings, "ok") == [
        "modules: gcc: can be loaded; ",
        f"python: {sys.executable} has dhhpc; ",
        f"scratch: {tmp_path}/scratch can be written; ",
    ]
    here = len(os.sched_getaffinity(0))
    assert lines(findings, "fail") == [
        f"node: 1000000 cores, but this machine gives {here}; set node.cores to {here}"
    ]
    assert lines(findings, "warn") == [
        "node_local: ${NO_SUCH} is not there on this node; it must be there inside a job"
    ]
    wrong = {"modules": ["gcc", "mpi"], "scratch": "${NO_SUCH}/a", "python": "no-such-python"}
    assert lines(check_site(site.model_copy(update={**wrong, "node": None})), "fail") == [
        "modules: gcc mpi: ERROR: no mpi; `module avail` lists those of this machine; set modules",
        "python: no-such-python: no-such-python: not found on PATH; set python to one that has dhhpc",
        "scratch: ${NO_SUCH}/a: the variable is not set; set scratch to a folder",
    ]


def test_nodes_are_compared_by_cores_memory_and_processors() -> None:
    """Two threads a core, 512 GB nominal, four processors."""
    shapes = (Shape(96, 48, 502.9, 4),)

    def say(**node: float) -> list[str]:
        found = compare_nodes(
            "p", Node.model_validate({"cores": 48, "memory_gb": 500, "gpus": 4} | node), shapes
        )
        return [f"{each.level} {each.text}" for each in found]

    assert say() == ["ok its nodes have the 48 cores and 4 gpus"]
    assert say(cores=96) == ["ok its nodes have the 96 cores and 4 gpus"]
    assert say(cores=40) == ["warn cores 40, and its nodes have 48 or 96"]
    assert say(cores=97) == ["fail cores 97, but its nodes have 48 or 96"]
    assert say(memory_gb=600) == ["fail memory_gb 600, but its nodes have 503"]
    assert say(gpus=0) == ["warn gpus 0, but its nodes have 4"]
    assert say(gpus=8) == ["fail gpus 8, but its nodes have 4"]


def test_accounts_and_qos_are_those_of_all_associations() -> None:
    """The form of sacctmgr(1), --parsable2."""
    assert read_associations("p1|normal,debug\np2|long\n|normal\np1|\n") == (
        ["p1", "p2"],
        ["debug", "long", "normal"],
    )
    assert read_associations("") == ([], [])
