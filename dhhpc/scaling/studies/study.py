"""The study document: which experiment runs on how many ranks, in which variants, how often."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from dhhpc.documents import Document, compose_document, place_of, read_document
from dhhpc.errors import DhhpcError

Count = Annotated[int, pydantic.Field(ge=1)]
# Of studies and variants, which name folders.
Name = Annotated[str, pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Target(Document):
    """What a training is to reach: the first epoch whose validation `metric` is at least `value` counts."""

    metric: str
    value: Annotated[float, pydantic.Field(allow_inf_nan=False)]


class Study(Document):
    """What `study.yml` holds.

    Attributes:
        name: heads the report and names the default output folder.
        experiment: the experiment file, relative to the study file's folder.
        ranks: the rank counts to measure; the smallest is the base of speed-up and efficiency.
        variants: names of changed experiments, each with the keys that it changes, such as
            `fixed-8: {parallel: {method: fixed, period: 8}}`; every one is measured on all rank counts.
            Without any, the experiment as it is.
        threads: of each rank, every number on all rank counts; left out, what the experiment says.
        nodes: on how many nodes the ranks are, equally many on each: every number with all rank counts that
            it divides. Left out, ranks are where they are started, as many on a node as the job says.
        epochs: that one rank trains, in place of the experiment's: a few tell how times scale.
        repeats: runs of each point; the median counts.
        order: "random" measures the points of each repeat in an order of its own, drawn by `seed`; "listed"
            as they stand.
        target: of time to accuracy.
        mode: "strong" (the same work on every rank count) or "weak" (work grows with the ranks: a point on n
            ranks trains n times the epochs, so every rank sees the same number of samples on every point).
        warm_up: train one epoch on the largest rank count first and drop it, so that no measured run compiles
            kernels or reads a cold disk.
        site: where the points run; "local" is this machine (or the allocation this command runs in).
        design_hours: the person-hours spent on designing and writing the preprocessing pipeline (T1 of the
            KPI toppi); by default those that `dhhpc kpi design-time` keeps beside the shards.
    """

    name: Name
    experiment: str
    ranks: Annotated[list[Count], pydantic.Field(min_length=1)]
    variants: dict[Name, dict[str, Any]] = {}
    threads: list[Count] = []
    nodes: list[Count] = []
    epochs: Count | None = None
    repeats: Count = 1
    order: Literal["random", "listed"] = "random"
    seed: int = 1
    target: Target | None = None
    mode: Literal["strong", "weak"] = "strong"
    warm_up: bool = True
    site: Literal["local"] = "local"
    design_hours: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] | None = None

    @pydantic.field_validator("ranks", "threads", "nodes")
    @classmethod
    def distinct(cls, counts: list[int]) -> list[int]:
        if len(set(counts)) != len(counts):
            raise ValueError(f"{counts} names a number twice; use repeats to measure one more often")
        return sorted(counts)

    @pydantic.model_validator(mode="after")
    def placed(self) -> Study:
        if self.nodes and not any(ranks % nodes == 0 for ranks in self.ranks for nodes in self.nodes):
            raise ValueError(
                f"none of nodes {self.nodes} divides any of ranks {self.ranks}; add one that does"
            )
        return self


def measures_preprocessing(path: Path | str) -> bool:
    """Whether the study in `path` names a pipeline, as `preprocessing`, in place of an experiment.

    Raises:
        DhhpcError: the study is missing, is no YAML, or names both.
    """
    node = compose_document(path)
    keys = {key.value: key for key, _ in node.value}
    if "preprocessing" in keys and "experiment" in keys:
        raise DhhpcError(
            f"{place_of(keys['preprocessing'])}: preprocessing: stands beside `experiment`, but a study "
            f"measures one of them; take one out"
        )
    return "preprocessing" in keys


def read_study(path: Path | str, experiment: Path | str | None = None) -> tuple[Study, Path]:
    """The study in `path`, and where its experiment file lies.

    Args:
        experiment: another experiment file than the study names, relative to the working folder.

    Raises:
        DhhpcError: the study is missing or wrong, or there is no such experiment file.
    """
    path = Path(path)
    if measures_preprocessing(path):
        raise DhhpcError(
            f"{path}: preprocessing: names a pipeline where an experiment is needed; such a study is "
            f"measured by `dhhpc scale run`, in a job by `dhhpc submit scale --one-job`"
        )
    study = read_document(path, Study)
    file = Path(experiment) if experiment is not None else path.parent / study.experiment
    if not file.is_file():
        named = "--experiment" if experiment is not None else f"{path}: experiment"
        raise DhhpcError(f"{named}: {file}: no such file; write it, or name another with --experiment FILE")
    return study, file
