"""The document of a study of preprocessing: which pipeline runs on how many ranks, how often."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pydantic

from dhhpc.documents import Document, check_document, compose_document, place_of
from dhhpc.errors import DhhpcError
from dhhpc.scaling.studies.study import Count, Name, Study

FOLDER = "runs"


class PreprocessingStudy(Document):
    """What `study.yml` holds where it measures `dhhpc preprocess`.

    All ranks together do the same work, whatever their number (strong scaling).

    Attributes:
        name: heads the report and names the default output folder.
        preprocessing: the file that `dhhpc preprocess` takes, relative to the study file's folder.
        ranks: the rank counts to measure; the smallest is the base of speed-up and efficiency.
        repeats: runs of each point; the median counts.
        order: "random" measures the points of each repeat in an order of its own, drawn by `seed`; "listed"
            as they stand.
        warm_up: preprocess once on the largest rank count first and drop it, so that no measured run compiles
            kernels or reads a cold disk.
        site: where the points run; "local" is this machine (or the allocation this command runs in).
        design_hours: the person-hours spent on designing and writing the pipeline (T1 of the KPI toppi); by
            default those that `dhhpc kpi design-time` keeps beside the shards.
    """

    name: Name
    preprocessing: str
    ranks: Annotated[list[Count], pydantic.Field(min_length=1)]
    repeats: Count = 1
    order: Literal["random", "listed"] = "random"
    seed: int = 1
    mode: Literal["strong"] = "strong"
    warm_up: bool = True
    site: Literal["local"] = "local"
    design_hours: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] | None = None

    @pydantic.field_validator("ranks")
    @classmethod
    def distinct(cls, counts: list[int]) -> list[int]:
        return Study.distinct(counts)


@dataclass(frozen=True)
class PreprocessingTask:
    """A point to measure: on so many ranks, and which time from 1."""

    ranks: int
    repeat: int

    @property
    def run(self) -> str:
        """Its folder below the study's."""
        return f"{FOLDER}/ranks-{self.ranks}-repeat-{self.repeat}"

    @property
    def title(self) -> str:
        """For people who wait for it."""
        title = f"preprocess on {self.ranks} rank{'s' if self.ranks > 1 else ''}"
        return title + (f", run {self.repeat}" if self.repeat > 1 else "")


def read_preprocessing_study(path: Path | str) -> tuple[PreprocessingStudy, Path]:
    """The study in `path`, and where the document of its pipeline lies.

    Raises:
        DhhpcError: the study is missing or wrong, has a key that studies of training alone have, or there is
            no such pipeline.
    """
    path = Path(path)
    node = compose_document(path)
    own, others = PreprocessingStudy.model_fields, Study.model_fields
    for key, _ in node.value:
        if key.value in others and key.value not in own:
            raise DhhpcError(
                f"{place_of(key)}: {key.value}: is for studies of training, and this one measures "
                f"preprocessing; take it out"
            )
    study = check_document(node, PreprocessingStudy)
    file = path.parent / study.preprocessing
    if not file.is_file():
        raise DhhpcError(
            f"{path}: preprocessing: {file}: no such file; write it, or mend the path, which starts at the "
            f"study's folder"
        )
    return study, file


def preprocessing_tasks(study: PreprocessingStudy) -> list[PreprocessingTask]:
    """Every point of a study, as its tables list them."""
    return [
        PreprocessingTask(ranks, repeat) for ranks in study.ranks for repeat in range(1, study.repeats + 1)
    ]
