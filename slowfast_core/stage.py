"""The six stages of the flow, in order, and what other modules need to know about each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Stage:
    """A stage reads results of earlier stages and writes one folder of the workspace."""

    name: str
    belongs_to: Literal["data set", "recipe"]  # recipes that name the same data set share its stages
    reads: tuple[str, ...] = ()  # the stages whose results it reads; the first one identifies the data
    uses_gpu: bool = False
    can_be_job: bool = False  # can run as a job of a Ray cluster


STAGES = (
    Stage("ingest", "data set"),
    Stage("validate", "data set", reads=("ingest",)),
    Stage("extract", "data set", reads=("validate", "ingest"), can_be_job=True),
    Stage("train", "recipe", reads=("extract",), uses_gpu=True, can_be_job=True),
    Stage("evaluate", "recipe", reads=("extract", "train"), uses_gpu=True),
    Stage("register", "recipe", reads=("train", "evaluate")),
)
STAGE_BY_NAME = {stage.name: stage for stage in STAGES}
