"""Site configs: those that come along, those of users, and wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from dhhpc.batch import read_site, site_files
from dhhpc.errors import DhhpcError

SLURM = """\
name: cluster
scheduler: slurm
launcher: srun --mpi=pmi2
node: {cores: 48, memory_gb: 192}
partitions:
  - {name: standard, max_nodes: 8, max_time: "1-00:00:00"}
"""


def write(folder: Path, text: str, name: str = "cluster") -> str:
    path = folder / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_the_sites_that_come_along() -> None:
    assert set(site_files()) >= {"local", "virtual-cluster"}
    assert read_site("local").scheduler == "local"
    virtual = read_site("virtual-cluster")
    assert virtual.launcher == "srun --mpi=pmi2"
    assert [(each.name, each.max_time) for each in virtual.partitions] == [
        ("main", 3600),
        ("short", 60),
        ("urgent", 3600),
    ]


def test_a_users_site_goes_before_one_that_comes_along(home: Path) -> None:
    write(home / "config" / "dhhpc" / "sites", SLURM.replace("cluster", "virtual-cluster"), "virtual-cluster")
    assert read_site("virtual-cluster").node_of(None).cores == 48


def test_a_site_by_its_path(tmp_path: Path) -> None:
    site = read_site(write(tmp_path, SLURM, "anything"))
    assert site.name == "cluster"
    assert site.partition(None).max_time == 86400


def test_partitions_may_have_nodes_of_their_own(tmp_path: Path) -> None:
    text = SLURM + '  - {name: fat, max_nodes: 1, max_time: "60", node: {cores: 96, gpus: 4}}\n'
    site = read_site(write(tmp_path, text))
    assert site.node_of(site.partition("standard")).cores == 48
    assert site.node_of(site.partition("fat")).gpus == 4


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("launcher", "luncher", 3, "did you mean `launcher`?"),
        ("cores: 48", "watts: {busy: 9, idle: 20}, cores: 48", 4, "idle 20 is more than busy 9"),
        ("slurm", "slrum", 2, "'slurm', 'pbs' or 'local'"),
        ("cores: 48", "cores: 0", 4, "cores"),
        ('"1-00:00:00"', "1:00:00", 6, 'write the time between quotes, e.g. "01:00:00"'),
        ('"1-00:00:00"', '"1 day"', 6, "'1 day' is no time"),
        ("name: standard", "name: a b", 6, "'a b' is no name"),
        ("srun --mpi=pmi2", "srun 'x", 3, "is no command"),
        ("launcher: srun --mpi=pmi2", "", 1, "needs a `launcher`"),
        ("node: {", "environment: {A-B: x}\nnode: {", 4, "no name of an environment variable"),
        ("node: {", "options: [exclusive]\nnode: {", 4, "is no sbatch option"),
        ("node: {", 'options: ["--x=\\n#SBATCH --y"]\nnode: {', 4, "is no sbatch option"),
        ("node: {", 'modules: ["mpi; reboot"]\nnode: {', 4, "is no name"),
        ("node: {", "scratch: scratch\nnode: {", 4, "'scratch' is no path on the nodes; write /folder or ${"),
        ("node: {", "scratch: $SCRATCH\nnode: {", 4, "write /folder or ${VARIABLE}/folder"),
        ("node: {", "container: {img: /a}\nnode: {", 4, "did you mean `image`?"),
        (
            "node: {",
            "container: {image: /a, binds: ['/a:/b']}\nnode: {",
            4,
            "--bind takes no path with : or ,",
        ),
        ("node: {", "gpu_option: --gres=gpu\nnode: {", 4, "says no number; write {gpus}"),
        ("node: {", "default_partition: standrad\nnode: {", 1, "did you mean standard?"),
        ("node: {", "options: [-l place=excl]\nnode: {", 1, "is no option of slurm; write it like"),
        ("srun --mpi=pmi2", "mpirun -n {rank}", 3, "{rank} stands for nothing; known: {ranks}, {nodes}"),
        ("slurm", "pbs\nqos: normal", 1, "a pbs site has no qos; remove them"),
        ("max_time:", "qos_limit: [], max_time:", 6, "did you mean `qos_limits`?"),
        ("name: cluster", "name: 'a b'", 1, "'a b' is no name"),
    ],
)
def test_a_wrong_config_names_its_line_and_the_mend(
    tmp_path: Path, before: str, after: str, line: int, words: str
) -> None:
    assert before in SLURM
    path = write(tmp_path, SLURM.replace(before, after, 1))
    with pytest.raises(DhhpcError) as caught:
        read_site(path)
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_local_site_has_no_partitions(tmp_path: Path) -> None:
    path = write(tmp_path, SLURM.replace("slurm", "local"))
    with pytest.raises(DhhpcError, match="a local site has no partitions, launcher"):
        read_site(path)


def test_an_unknown_site_names_the_nearest() -> None:
    with pytest.raises(DhhpcError, match=r"--site virtual-clutser: .* did you mean virtual-cluster\?"):
        read_site("virtual-clutser")


def test_a_renamed_file_is_told(home: Path) -> None:
    path = write(home / "config" / "dhhpc" / "sites", SLURM, "other")
    with pytest.raises(DhhpcError, match=f"{path}: name: is 'cluster' but the file is called other"):
        read_site("other")
