"""Where a site's values come from: its file, the files it extends, the environment and the command line.

Each source is a tree of YAML nodes, whose marks tell file and line. Later ones are laid over earlier ones:
mappings are merged key by key, lists of things with a `name` (partitions, qos_limits) name by name, and all
else is replaced.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dhhpc.batch.site import Site
from dhhpc.documents import check_document, compose_document, compose_text, construct, place_of
from dhhpc.errors import DhhpcError
from dhhpc.resources import resource_folder

# sbatch lets these go before the directives of a script (sbatch(1), "INPUT ENVIRONMENT VARIABLES"), so a site
# takes them over, to check and to show what will hold.
ENVIRONMENT = {"SBATCH_ACCOUNT": "account", "SBATCH_QOS": "qos", "SBATCH_PARTITION": "default_partition"}
NO_LINE = -1


@dataclass(frozen=True)
class ResolvedSite:
    """A site with the source of each value.

    Attributes:
        site: the site.
        sources: what was laid over each other, the first lowest: files, variables, options.
        root: the merged document.
    """

    site: Site
    sources: tuple[str, ...]
    root: yaml.MappingNode

    def values(self) -> Iterator[tuple[str, Any, str]]:
        """Every value: its dotted key, itself, and where it was written (`default` where nowhere)."""
        written = dict(leaves(self.root))
        yield from ((key, construct(node), place_of(node)) for key, node in written.items())
        heads = {key.split(".")[0] for key in written}
        for key, field in Site.model_fields.items():
            if key not in heads and key != "extends":
                value = field.get_default(call_default_factory=True)
                yield key, value, "default"


def user_folder() -> Path:
    """Where users keep site configs of their own; these go before those that come with dhhpc."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "dhhpc" / "sites"


def site_files() -> dict[str, Path]:
    """Every known site's file by the site's name, in alphabetical order."""
    files: dict[str, Path] = {}
    for folder in (resource_folder("site-configs"), user_folder()):
        files |= {path.stem: path for path in folder.glob("*.yml")}
    return dict(sorted(files.items()))


def read_site(name: str, settings: Sequence[str] = ()) -> Site:
    """The site config `name` as `resolve_site` finds it.

    Raises:
        DhhpcError: as `resolve_site`.
    """
    return resolve_site(name, settings).site


def resolve_site(name: str, settings: Sequence[str] = ()) -> ResolvedSite:
    """The site `name` from all its sources.

    Lowest first: the file that comes with dhhpc, the user's own file where it `extends` that one (else it
    stands alone), SBATCH_ACCOUNT, SBATCH_QOS and SBATCH_PARTITION for a SLURM site, and `settings`.

    Args:
        name: a site's name, or the path of a `.yml` file.
        settings: `KEY=VALUE` each, the key dotted (`environment.UCX_TLS`, `partitions.main.max_nodes`), the
            value YAML.

    Raises:
        DhhpcError: there is no such site, or it is wrong; names the file and line or the option, and the
            nearest known site or key.
    """
    path = site_path(name)
    root, files = read_file(path, ())
    sources = [str(file) for file in files]
    if value_of(root, "scheduler") == "slurm":
        for variable, key in ENVIRONMENT.items():
            if os.environ.get(variable):
                root = merge(root, single(key, scalar(os.environ[variable]), variable))
                sources.append(variable)
    for setting in settings:
        root = merge(root, parse_setting(setting))
    sources += [f"--set {setting}" for setting in settings]
    site = check_document(root, Site)
    if not is_path(name) and site.name != name:
        raise DhhpcError(f"{path}: name: is {site.name!r} but the file is called {name}; rename one")
    return ResolvedSite(site, tuple(sources), root)


def is_path(name: str) -> bool:
    return name.endswith((".yml", ".yaml"))


def site_path(name: str) -> Path:
    if is_path(name):
        return Path(name)
    files = site_files()
    if name in files:
        return files[name]
    near = difflib.get_close_matches(name, files, n=1)
    mend = f"did you mean {near[0]}?" if near else f"known sites: {', '.join(files)}"
    raise DhhpcError(f"--site {name}: no such site; {mend} (your own go in {user_folder()})")


def read_file(path: Path, extending: tuple[Path, ...]) -> tuple[yaml.MappingNode, list[Path]]:
    """The document in `path` laid over those it extends, and the files of all of them, the lowest first.

    Args:
        extending: the files on the way here, each of which extends the next.
    """
    root = compose_document(path)
    extended = next((value for key, value in root.value if key.value == "extends"), None)
    if extended is None:
        return root, [path]
    root.value = [(key, value) for key, value in root.value if key.value != "extends"]
    if value_of(root, "name") is None:
        # A file that starts from another site is a site of its own, called as the file is.
        root = merge(single("name", scalar(path.stem), str(path)), root)
    base = base_of(extended, path, (*extending, path))
    under, files = read_file(base, (*extending, path))
    return merge(under, root), [*files, path]


def base_of(extended: yaml.Node, path: Path, extending: tuple[Path, ...]) -> Path:
    """The file that `extends:` of `path` names: never one on the way here, so that the user's `leonardo` can
    extend the one that comes along."""
    shipped = {file.stem: file for file in resource_folder("site-configs").glob("*.yml")}
    known = {name: file for name, file in (*shipped.items(), *site_files().items()) if file not in extending}
    name = str(extended.value)
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    mend = f"did you mean {near[0]}?" if near else f"known sites: {', '.join(known)}"
    raise DhhpcError(f"{place_of(extended)}: extends: no such site {name!r} beside {path.name}; {mend}")


def parse_setting(setting: str) -> yaml.MappingNode:
    """`KEY=VALUE` of the command line as a document.

    Raises:
        DhhpcError: it has no such form, or its value is not YAML.
    """
    key, equals, text = setting.partition("=")
    option = f"--set {key}"
    parts = key.split(".")
    if not equals or not all(parts):
        raise DhhpcError(f"--set {setting}: write KEY=VALUE, such as --set launcher='srun --mpi=pmix'")
    if parts[0] in ("environment", "network") and len(parts) == 2:
        node: yaml.Node = scalar(text)  # a variable's value is text, also where YAML would see a number
    else:
        node = compose_text(text, option) or yaml.ScalarNode("tag:yaml.org,2002:null", "")
    place(node, option)
    for position, part in reversed(list(enumerate(parts))):
        if position and parts[position - 1] in ("partitions", "qos_limits"):
            if not isinstance(node, yaml.MappingNode):
                raise DhhpcError(f"{option}: name a key of {part} too, such as {key}.max_nodes")
            entry = merge(single("name", scalar(part), option), node)
            node = place(yaml.SequenceNode("tag:yaml.org,2002:seq", [entry]), option)
        else:
            node = single(part, node, option)
    assert isinstance(node, yaml.MappingNode)  # the first part is a key
    return node


def scalar(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text)


def single(key: str, value: yaml.Node, source: str) -> yaml.MappingNode:
    """The document `key: value`, from a source that has no lines."""
    node = mapping([(scalar(key), value)])
    place(node, source)
    return node


def mapping(pairs: list[tuple[yaml.Node, yaml.Node]]) -> yaml.MappingNode:
    return yaml.MappingNode("tag:yaml.org,2002:map", pairs)


def place(node: yaml.Node, source: str) -> yaml.Node:
    """`node`, with all inside it marked as coming from `source`, which has no lines."""
    node.start_mark = yaml.Mark(source, 0, NO_LINE, 0, "", 0)
    for child in children(node):
        place(child, source)
    return node


def children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def value_of(node: yaml.Node, key: str) -> Any:
    """The text of a scalar in a mapping; None where there is none."""
    if not isinstance(node, yaml.MappingNode):
        return None
    found = next((value for name, value in node.value if name.value == key), None)
    return found.value if isinstance(found, yaml.ScalarNode) else None


def merge(under: yaml.MappingNode, over: yaml.MappingNode) -> yaml.MappingNode:
    """`over` laid over `under`; new nodes, whose parts keep their marks."""
    pairs = list(under.value)
    for key, value in over.value:
        at = next((index for index, (known, _) in enumerate(pairs) if known.value == key.value), None)
        if at is None:
            pairs.append((key, value))
        else:
            pairs[at] = (key, merge_value(pairs[at][1], value))
    merged = mapping(pairs)
    merged.start_mark = over.start_mark
    return merged


def merge_value(under: yaml.Node, over: yaml.Node) -> yaml.Node:
    if isinstance(under, yaml.MappingNode) and isinstance(over, yaml.MappingNode):
        return merge(under, over)
    if named(under) and named(over):
        entries = list(under.value)
        for entry in over.value:
            name = value_of(entry, "name")
            at = next((index for index, known in enumerate(entries) if value_of(known, "name") == name), None)
            if at is None:
                entries.append(entry)
            else:
                entries[at] = merge(entries[at], entry)
        merged = yaml.SequenceNode(under.tag, entries)
        merged.start_mark = over.start_mark
        return merged
    return over


def named(node: yaml.Node) -> bool:
    """Whether `node` is a list whose entries all have a name."""
    entries = node.value if isinstance(node, yaml.SequenceNode) else []
    return bool(entries) and all(value_of(each, "name") for each in entries)


def leaves(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """Each innermost value under its dotted key; entries of a list of named things go by their name."""
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            yield from leaves(value, f"{prefix}.{key.value}" if prefix else str(key.value))
    elif named(node):
        for entry in node.value:
            name = value_of(entry, "name")
            rest = mapping([pair for pair in entry.value if pair[0].value != "name"])
            yield from leaves(rest, f"{prefix}.{name}")
    else:
        yield prefix, node
