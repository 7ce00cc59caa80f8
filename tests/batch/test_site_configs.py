"""The site configs that come along: what they claim, and their scripts as a person writes them."""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path

import pytest

from dhhpc.batch import JobRequest, read_site, render_script
from dhhpc.batch.request import fit_request
from dhhpc.batch.site import REQUIRED, Partition, Site
from dhhpc.batch.virtual_cluster import VirtualCluster
from dhhpc.resources import resource_folder

CONFIGS = sorted(resource_folder("site-configs").glob("*.yml"))
GOLDEN = Path(__file__).parent / "golden"
# One of each kind: Cray and QOS, graphics processors and a disk of each node, hardware threads, PBS.
GOLDEN_SITES = ("lumi-c", "marenostrum5-acc", "jean-zay", "pbs-pro")
RENEW = "DHHPC_RENEW_GOLDEN"


def request_for(site: Site, partition: Partition | None, **changes: object) -> JobRequest:
    values = {
        "arguments": ("train", "/home/me/my data/lungs.yml"),
        "name": "lungs",
        "folder": "/home/me/my data",
        "partition": partition.name if partition else None,
        "account": "project1" if site.account == REQUIRED else None,
        "qos": "acc_debug" if site.qos == REQUIRED else None,
        "seconds": None if site.scheduler == "local" else 1200,
        "requeues": 3,
        "threads": 4 if site.launcher and site.node is None and partition is None else None,
    }
    return JobRequest(**(values | changes))  # type: ignore[arg-type]


def script_for(site: Site, partition: Partition | None, **changes: object) -> str:
    log = Path("/home/me/.local/state/dhhpc/jobs/1/job.log")
    fixed = site.model_copy(update={"python": "/home/me/venv/bin/python"})
    return render_script(fit_request(request_for(site, partition, **changes), site), fixed, log)


@functools.cache
def all_scripts() -> dict[str, str]:
    """A script for each partition of each site, of 20 minutes where it gives as much."""
    scripts = {}
    for path in CONFIGS:
        site = read_site(str(path))
        for partition in site.partitions or [None]:
            name = f"{site.name}-{partition.name}" if partition else site.name
            seconds = {"seconds": min(1200, partition.max_time)} if partition else {}
            scripts[name] = script_for(site, partition, **seconds)
    return scripts


def test_every_machine_that_is_asked_for_is_there() -> None:
    assert {path.stem for path in CONFIGS} == {
        *("local", "virtual-cluster", "slurm-openmpi", "slurm-mpich", "pbs-pro"),
        *("marenostrum5-gpp", "marenostrum5-acc", "leonardo-booster", "leonardo-dcgp", "lumi-c", "lumi-g"),
        *("juwels-booster", "jean-zay", "karolina", "meluxina"),
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_machines_file_says_where_it_comes_from(path: Path) -> None:
    site = read_site(str(path))
    assert site.name == path.stem
    head = path.read_text().split("\nname:")[0].replace("\n# ", " ")
    if site.partitions and site.name != "virtual-cluster":
        # No account is invented, the documentation is named, and nothing claims to have been tried.
        assert site.account == REQUIRED
        assert re.search(r'From "', head)
        assert "dhhpc has not been run there" in head
        assert f"`dhhpc site check {site.name}`" in head
    if any(
        (partition.node or site.node).gpus for partition in site.partitions if partition.node or site.node
    ):
        assert "computes on cores alone" in head


@pytest.mark.shellcheck
def test_every_script_passes_bash_and_shellcheck(tmp_path: Path) -> None:
    scripts = all_scripts()
    files = []
    for name, text in scripts.items():
        files.append(tmp_path / f"{name}.sh")
        files[-1].write_text(text)
        subprocess.run(["bash", "-n", files[-1]], check=True)
    checked = subprocess.run(
        ["shellcheck", "--severity=warning", *files], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    assert len(files) > 20


def test_graphics_processors_are_asked_for_as_each_machine_wants(tmp_path: Path) -> None:
    scripts = all_scripts()
    asked = {
        name: re.findall(r"^#SBATCH (--g(?:res|pus)\S*)$", text, re.MULTILINE)
        for name, text in scripts.items()
    }
    assert {name: options for name, options in asked.items() if options} == {
        "jean-zay-gpu_p13": ["--gres=gpu:4"],
        "jean-zay-gpu_p6": ["--gres=gpu:4"],
        "juwels-booster-booster": ["--gres=gpu:4"],
        "juwels-booster-develbooster": ["--gres=gpu:4"],
        "karolina-qgpu": ["--gpus-per-node=8"],
        "leonardo-booster-boost_usr_prod": ["--gres=gpu:4"],
        "lumi-g-dev-g": ["--gpus-per-node=8"],
        "lumi-g-small-g": ["--gpus-per-node=8"],
        "lumi-g-standard-g": ["--gpus-per-node=8"],
        "marenostrum5-acc-acc": ["--gres=gpu:4"],
        "meluxina-gpu": ["--gpus-per-node=4"],
    }
    site = read_site("karolina")
    assert "--gpus" not in script_for(site, site.partition("qgpu"), gpus=0)


@pytest.mark.parametrize("name", GOLDEN_SITES)
def test_scripts_are_those_that_were_reviewed(name: str) -> None:
    """With DHHPC_RENEW_GOLDEN=1 the files are written anew, to be reviewed by eye with git diff."""
    site = read_site(name)
    script = script_for(
        site,
        site.partition(None),
        nodes=2,
        ranks_per_node=2,
        tasks=5,
        at_once=2,
        task_option="--fold",
    )
    path = GOLDEN / f"{name}.sh"
    if os.environ.get(RENEW):
        path.write_text(script)
    assert path.read_text() == script


@pytest.mark.slurm
def test_sbatch_takes_every_script(cluster: VirtualCluster, tmp_path: Path) -> None:
    """The real sbatch parses every directive; what this cluster lacks (that partition, so many cores,
    graphics processors, features) is replaced on its command line."""
    path = tmp_path / "job.sh"
    taken = 0
    for name, text in all_scripts().items():
        if "#SBATCH" not in text:
            continue
        path.write_text(text)
        command = ["sbatch", "--test-only", "--partition=main", "--cpus-per-task=1"]
        command += ["--gres=none"] if "--gres" in text else []
        command += ["--gpus-per-node=0"] if "--gpus-per-node" in text else []
        command += ["--constraint="] if "--constraint" in text else []
        done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert "in partition main" in done.stderr
        taken += 1
    assert taken > 20
    path.write_text(text.replace("#SBATCH --nodes=1", "#SBATCH --noeds=1"))
    assert subprocess.run(["sbatch", "--test-only", path], capture_output=True, check=False).returncode != 0
