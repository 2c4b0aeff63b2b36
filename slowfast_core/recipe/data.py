"""The section `data` of a recipe: where the videos come from, what is good enough, how the clip store is written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from slowfast_core.names import Name
from slowfast_core.recipe.schema import Address, Count, Positive, Section, Share


class Synthetic(Section):
    """Sizes of the generated source (`data.source: synthetic`); videos of each class (kinetics) or in all (ava)."""

    train_videos: Positive = 80
    val_videos: Positive = 12
    size: Positive = 64
    fps: Positive = 16
    seconds: Positive = 3
    seed: int = 0


class Validation(Section):
    max_bad_share: Share = 0.05  # of the rows, in validation, and of those that are left, in extraction
    min_frames: Positive = 2
    decode_timeout_seconds: Positive = 60  # to decode 10 seconds of a video, or to write one second of it to the store
    decode_memory_mb: Positive = 4096  # of a process that decodes, in validation and extraction
    min_fps: float = Field(1.0, ge=0)
    max_fps: float = Field(1000.0, gt=0)
    min_length_share: Share = 0.5  # of the length that the annotation, or else the file's own header, tells
    min_class_clips: Count = 1  # good clips of each class in each split
    max_imbalance: float = Field(0, ge=0)  # clips of the largest class in train by those of a class; 0: any
    class_balance: Literal["warn", "refuse"] = "warn"  # what happens when a class breaks the two limits above
    shared_videos: Literal["warn", "quarantine"] = "warn"  # rows of train of which val has other moments


class Store(Section):
    """How the clip store is written: `short_side` 0 keeps the size, `fps` 0 keeps the rate."""

    short_side: int = Field(256, ge=0)
    fps: float = Field(0, ge=0)
    gop: Positive = 12
    crf: int = Field(18, ge=0, le=51)
    height: Count = 0  # above 0: this height, whichever side is the short one, in place of short_side
    codec: Literal["h264", "jpeg"] = "h264"  # jpeg: every frame for itself, without gop and crf
    jpeg_scale: int = Field(3, ge=1, le=31)  # FFmpeg's -q:v: 1 is the best
    flow: bool = False  # optical flow beside each clip, for model.fast_input 'flow'
    every: Positive = 1  # of the source's frames only each n-th is kept; the Fast pathway's stride is a multiple of n
    fast_decode: bool = True  # coded to decode at up to twice the speed (no CABAC, no deblocking), 5 % larger


class PersonBoxes(Section):
    """AVA: what a person detector found, in the csv of PySlowFast and PyTorchVideo or the pickle of MMAction2."""

    train: str | None = None  # those that overlap a true box by more than `iou` are trained on, with its actions
    val: str | None = None  # those that evaluation scores in place of the true ones
    min_score: Share = 0.8  # of the detector
    iou: Share = 0.9

    @property
    def files(self) -> dict[str, str]:
        """The files that are named, by their keys in `data`."""
        named = {"train": self.train, "val": self.val}
        return {f"person_boxes.{split}": name for split, name in named.items() if name}


class Data(Section):
    name: Name
    format: Literal["kinetics", "list", "folders", "charades", "frame_list", "something", "ava"] = "kinetics"
    source: Address = "synthetic"  # "synthetic", a directory, or s3://bucket/prefix
    endpoint_url: Address | None = None  # of an S3-compatible store
    requester_pays: bool = False  # read a bucket whose readers pay for it
    fetch_workers: Positive = 8  # requests to the source at a time
    annotations: dict[Literal["train", "val"], str] | str = "annotations.csv"  # below the source, or a path of its own
    labels: str | None = None  # the label file: a name a line, or the data set's own (.json, .txt); AVA: .pbtxt
    holdout: float = Field(0.0, ge=0, lt=1)  # share of the videos that become `val` where the csv files name none
    first_second: float = 0.0  # AVA: the timestamp at which the video file starts (900 for cut movies)
    key_seconds: tuple[Count, Count] | None = None  # AVA: the first and the last timestamp that may be annotated
    excluded: dict[Literal["train", "val"], str] = Field(
        default_factory=dict
    )  # AVA: csv files of the key frames to leave out
    person_boxes: PersonBoxes = PersonBoxes()
    frame_rate: float = Field(30.0, gt=0)  # of videos that are folders of frames, and of lists of frames
    synthetic: Synthetic = Synthetic()
    validation: Validation = Validation()
    store: Store = Store()
    remote: Address | None = (
        None  # where versions of the clip store are pushed: a folder, s3://..; None: the workspace's
    )
    remote_endpoint_url: Address | None = None  # of an S3-compatible store

    @model_validator(mode="after")
    def _of_its_format(self) -> Data:
        given = {"key_seconds": self.key_seconds, "excluded": self.excluded, **self.person_boxes.files}
        if self.format != "ava" and (names := [name for name, value in given.items() if value]):
            raise ValueError(f"{', '.join(names)}: only of format 'ava', is {self.format!r}")
        if self.key_seconds and self.key_seconds[0] > self.key_seconds[1]:
            raise ValueError(f"key_seconds is [first, last], is {list(self.key_seconds)}")
        return self

    @model_validator(mode="after")
    def _readable(self) -> Data:
        if self.source == "synthetic" and self.format not in ("kinetics", "ava"):
            raise ValueError(f"source 'synthetic' has format 'kinetics' or 'ava', not {self.format!r}: name a folder")
        if self.format == "folders" and self.annotations != "annotations.csv":
            raise ValueError("format 'folders' reads no annotations: leave them out")
        return self
