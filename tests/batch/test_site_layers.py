"""Where the values of a site come from, and which of them goes before which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dhhpc.batch import read_site, resolve_site, site_files
from dhhpc.errors import DhhpcError


@pytest.fixture
def own(home: Path):
    """Writes a config into the user's folder: `own("leonardo-dcgp", "extends: ...")`."""

    def write(name: str, text: str) -> Path:
        path = home / "config" / "dhhpc" / "sites" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def origins(name: str, *settings: str) -> dict[str, tuple[object, str]]:
    return {key: (value, source) for key, value, source in resolve_site(name, settings).values()}


def test_each_source_goes_before_the_ones_under_it(own, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = site_files()["leonardo-dcgp"]
    line_of = {text.split(":")[0]: line for line, text in enumerate(shipped.read_text().splitlines(), 1)}
    path = own(
        "leonardo-dcgp",
        "extends: leonardo-dcgp\naccount: project1\nenvironment: {A: one}\npartitions:\n"
        "  - {name: dcgp_usr_prod, max_nodes: 8}\n"
        '  - {name: extra, max_nodes: 1, max_time: "60"}\n',
    )
    assert origins("leonardo-dcgp")["account"] == ("project1", f"{path}:2")
    monkeypatch.setenv("SBATCH_ACCOUNT", "project2")
    found = origins("leonardo-dcgp", "environment.B=010", "partitions.dcgp_usr_prod.max_time='2:00:00'")
    assert found["launcher"] == ("srun --mpi=pmix", f"{shipped}:{line_of['launcher']}")
    assert found["account"] == ("project2", "SBATCH_ACCOUNT")
    assert found["environment.A"] == ("one", f"{path}:3")
    assert found["environment.B"] == ("010", "--set environment.B")
    assert found["partitions.dcgp_usr_prod.max_nodes"] == (8, f"{path}:5")
    assert found["partitions.dcgp_usr_prod.max_time"] == (
        "2:00:00",
        "--set partitions.dcgp_usr_prod.max_time",
    )
    assert found["qos"] == (None, "default")
    site = read_site("leonardo-dcgp", ["account=project3", "modules=[]", "scratch="])
    assert (site.account, site.modules, site.scratch) == ("project3", [], None)
    # What nobody changed is still that of the file that comes along, QOS and order included.
    assert [each.name for each in site.partitions] == ["dcgp_usr_prod", "extra"]
    assert site.partitions[0].limits("dcgp_qos_dbg") == (1, 2, 1800)
    assert resolve_site("leonardo-dcgp", ["qos=x"]).sources == (
        str(shipped),
        str(path),
        "SBATCH_ACCOUNT",
        "--set qos=x",
    )


def test_a_site_may_start_from_another(own, tmp_path: Path) -> None:
    own("base", "extends: slurm-mpich\nnode: {cores: 8}\n")
    own(
        "mine", 'extends: base\ndefault_partition: b\npartitions: [{name: a, max_nodes: 1, max_time: "60"}]\n'
    )
    with pytest.raises(DhhpcError, match="default_partition: b: site mine has no such partition"):
        read_site("mine")
    second = 'partitions.b={max_nodes: 2, max_time: "60"}'
    site = read_site("mine", [second])
    assert (site.name, site.launcher, site.node_of(None).cores) == ("mine", "srun --mpi=pmi2", 8)
    assert site.partition(None).name == "b"
    loose = tmp_path / "loose.yml"
    loose.write_text("extends: mine\n")
    assert read_site(str(loose), [second]).name == "loose"


def test_the_environment_is_slurms_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SBATCH_ACCOUNT", "SBATCH_QOS", "SBATCH_PARTITION"):
        monkeypatch.setenv(variable, "short")
    site = read_site("virtual-cluster")
    assert (site.account, site.qos, site.partition(None).name) == ("short", "short", "short")
    assert read_site("pbs-pro").account is None
    assert read_site("local").account is None


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("extends: lumi-d\n", [], r"{path}:1: extends: no such site 'lumi-d' beside mine.yml; did you mean "),
        ("extends: mine\n", [], r"{path}:1: extends: no such site 'mine'"),
        ("extends: lumi-c\nnode: {core: 1}\n", [], r"{path}:2: node.core: unknown key; did you mean `cores`"),
        ("extends: lumi-c\nnode: {cores: 0}\n", [], r"{path}:2: node.cores: .*greater than or equal to 1"),
        ("extends: lumi-c\n", ["lancher=x"], "--set lancher: lancher: unknown key; did you mean `launcher`"),
        ("extends: lumi-c\n", ["node.cores=many"], r"--set node.cores: node.cores: .*\(found 'many'\)"),
        ("extends: lumi-c\n", ["node.cores"], "--set node.cores: write KEY=VALUE"),
        ("extends: lumi-c\n", ["=1"], "--set =1: write KEY=VALUE"),
        ("extends: lumi-c\n", ["modules=[a"], "--set modules:1: not valid YAML"),
        ("extends: lumi-c\n", ["partitions.small=1"], "--set partitions.small: name a key of small too"),
        ("extends: lumi-c\n", ["environment.MY_API_KEY=1"], "environment: MY_API_KEY looks like a secret"),
    ],
)
def test_a_wrong_layer_names_its_place(own, text: str, settings: list[str], message: str) -> None:
    path = own("mine", text)
    with pytest.raises(DhhpcError, match=message.format(path=path)) as caught:
        read_site("mine", settings)
    assert "\n" not in str(caught.value)


def test_show_resolved_and_what_it_loads(own, home: Path) -> None:
    path = own("lumi-c", "extends: lumi-c\naccount: project_1\n")
    # Neither the compiler of the kernels nor MPI is started for reading a file.
    code = (
        "import sys; from dhhpc.cli.app import command_line; "
        "command_line()(sys.argv[1:], standalone_mode=False); "
        "sys.exit(bool({'numba', 'mpi4py'} & set(sys.modules)))"
    )

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    lines = run("site", "show", "lumi-c", "--resolved", "--set", "binding=").splitlines()
    assert lines[1:4] == [
        f"#   {Path.cwd() / 'site-configs' / 'lumi-c.yml'}",
        f"#   {path}",
        "#   --set binding=",
    ]
    shown = {line.split()[0]: line.split()[1:] for line in lines[4:]}
    assert shown["account"] == ['"project_1"', "#", f"{path}:2"]
    assert shown["binding"] == ["null", "#", "--set", "binding"]
    assert shown["qos"] == ["null", "#", "default"]
    value = json.loads(run("site", "show", "lumi-c", "--resolved", "--json"))
    assert {"key": "account", "value": "project_1", "source": f"{path}:2"} in value["values"]
    experiment = home / "e.yml"
    experiment.write_text("name: e\n")
    script = run("submit", "train", str(experiment), "--site", "lumi-c", "--time", "60", "--dry-run")
    assert "#SBATCH --account=project_1\n" in script
    assert os.environ["XDG_CONFIG_HOME"] in str(path)
