"""The section `data` of a recipe: the source of the videos, their validation, and the clip store.

The docstrings of fields are the descriptions in docs/recipe-reference.md (`make reference`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from slowfast_core.data.annotations import formats
from slowfast_core.data.annotations.interface import AnnotationFormat
from slowfast_core.data.annotations.kinetics import KINETICS
from slowfast_core.names import Name
from slowfast_core.recipe.schema import Address, Count, Positive, Section, Share


def check_format(name: str) -> str:
    """Return the name of an annotation format. Raises ValueError."""
    if name not in {each.name for each in formats.FORMATS}:
        raise ValueError(f"must be {formats.names_of(formats.FORMATS)}, is {name!r}")
    return name


class Synthetic(Section):
    """The generated videos of data.source `synthetic`."""

    train_videos: Positive = 80
    """Training videos per class (format `kinetics`) or in total (`ava`)."""
    val_videos: Positive = 12
    """Validation videos per class (format `kinetics`) or in total (`ava`)."""
    size: Positive = 64
    """Width and height in pixels."""
    fps: Positive = 16
    """Frames per second."""
    seconds: Positive = 3
    """Length in seconds."""
    seed: int = 0
    """Seed of the generator."""


class Validation(Section):
    """Limits of the `validate` stage, which quarantines bad rows of the manifest."""

    max_bad_share: Share = 0.05
    """Largest share of bad rows before validation fails, and of undecodable clips before extraction fails."""
    min_frames: Positive = 2
    """Fewest frames of a segment."""
    decode_timeout_seconds: Positive = 60
    """Seconds in which 10 seconds of a video must decode, or one second of it must be written to the clip store."""
    decode_memory_mb: Positive = 4096
    """Memory of a decoding process in MB, in validation and extraction."""
    min_fps: float = Field(1.0, ge=0)
    """Lowest frame rate."""
    max_fps: float = Field(1000.0, gt=0)
    """Highest frame rate."""
    min_length_share: Share = 0.5
    """Smallest decodable share of the length in the annotation or, without one, in the file's header."""
    min_class_clips: Count = 1
    """Fewest good clips of each class in each split."""
    max_imbalance: float = Field(0, ge=0)
    """Largest ratio of clips in the largest class to clips in any other class, in `train`. 0: no limit."""
    class_balance: Literal["warn", "refuse"] = "warn"
    """What happens if a class violates `min_class_clips` or `max_imbalance`."""
    shared_videos: Literal["warn", "quarantine"] = "warn"
    """What happens to rows of `train` if `val` has other segments of the same video."""


class Store(Section):
    """The clip store, which the `extract` stage writes."""

    short_side: int = Field(256, ge=0)
    """Short side of a stored clip in pixels. 0: as in the source."""
    fps: float = Field(0, ge=0)
    """Frames per second. 0: as in the source."""
    gop: Positive = 12
    """Frames from one key frame to the next, for codec `h264`. Smaller values seek faster in larger files."""
    crf: int = Field(18, ge=0, le=51)
    """Constant rate factor of x264: lower values give better quality and larger files."""
    height: Count = 0
    """Height of a stored clip in pixels, instead of `short_side`. 0: use `short_side`."""
    codec: Literal["h264", "jpeg"] = "h264"
    """Codec. `jpeg` compresses every frame separately, without `gop` and `crf`."""
    jpeg_scale: int = Field(3, ge=1, le=31)
    """FFmpeg's -q:v for codec `jpeg`: 1 is the best quality."""
    flow: bool = False
    """Store optical flow for each clip, for model.fast_input `flow`."""
    every: Positive = 1
    """Keep only every n-th frame of the source. The stride of the Fast pathway (tau / alpha) must be a multiple of
    n."""
    fast_decode: bool = True
    """Encode for decoding at up to twice the speed (no CABAC, no deblocking); files are 5 % larger."""


class PersonBoxes(Section):
    """Boxes from a person detector, for format `ava`.

    The files are csv as in PySlowFast and PyTorchVideo, or pickles as in MMAction2.
    """

    added_later = frozenset({"negatives"})

    train: str | None = None
    """File of boxes for training: boxes that overlap a true box by more than `iou` are added, with its actions. null:
    none."""
    val: str | None = None
    """File of boxes that the evaluation scores instead of the true boxes. null: none."""
    min_score: Share = 0.8
    """Lowest detector score of a box that is used."""
    iou: Share = 0.9
    """Intersection over union with a true box above which a box is used for training."""
    negatives: bool = False
    """Train on the other boxes of `train`, too, without any action, as PySlowFast does with its files
    `include_negative`."""

    @property
    def files(self) -> dict[str, str]:
        """The files that are set, by their keys in `data`."""
        named = {"train": self.train, "val": self.val}
        return {f"person_boxes.{split}": name for split, name in named.items() if name}


class Data(Section):
    """The data set."""

    name: Name
    """Name of the data set and of its folder. Recipes with the same name share the data."""
    format: Annotated[str, AfterValidator(check_format)] = KINETICS.name
    """Format of the annotations (your-own-data.md)."""
    source: Address = "synthetic"
    """A folder, s3://bucket/prefix, or `synthetic` for generated videos (formats `kinetics` and `ava`)."""
    endpoint_url: Address | None = None
    """Endpoint of an S3-compatible `source`. null: AWS."""
    requester_pays: bool = False
    """Read from a requester-pays bucket: this account pays for the requests."""
    fetch_workers: Positive = 8
    """Parallel requests to the source."""
    annotations: dict[Literal["train", "val"], str] | str = "annotations.csv"
    """Annotation file, or one per split; a path in the source or elsewhere. Format `folders` has none."""
    labels: str | None = None
    """Label file: one name per line, or the data set's own (.json, .txt, .csv); a .pbtxt for `ava`. null: the names in
    the annotations."""
    holdout: float = Field(0.0, ge=0, lt=1)
    """Share of the videos that become `val` if the annotations have no splits."""
    first_second: float = 0.0
    """Format `ava`: timestamp in the annotations at which the video files start, in seconds (900 for cut movies)."""
    key_seconds: tuple[Count, Count] | None = None
    """Format `ava`: [first, last] timestamp of key frames, in seconds; other timestamps are refused. null: no
    limits."""
    excluded: dict[Literal["train", "val"], str] = Field(default_factory=dict)
    """Format `ava`: csv files of key frames that are not used, by split."""
    person_boxes: PersonBoxes = PersonBoxes()
    """Boxes from a person detector."""
    frame_rate: float = Field(30.0, gt=0)
    """Frames per second of videos that are folders of frames, and of formats that list frames."""
    synthetic: Synthetic = Synthetic()
    """The generated videos."""
    validation: Validation = Validation()
    """Limits of the validation."""
    store: Store = Store()
    """The clip store."""
    remote: Address | None = None
    """Where versions of the clip store are pushed: a folder or s3://bucket/prefix. null: a folder in the workspace."""
    remote_endpoint_url: Address | None = None
    """Endpoint of an S3-compatible `remote`. null: AWS."""

    @property
    def annotation_format(self) -> AnnotationFormat:
        return formats.format_named(self.format)

    @model_validator(mode="after")
    def _of_its_format(self) -> Data:
        given = {"key_seconds": self.key_seconds, "excluded": self.excluded, **self.person_boxes.files}
        if not self.annotation_format.has_boxes and (names := [name for name, value in given.items() if value]):
            allowed = formats.names_of(each for each in formats.FORMATS if each.has_boxes)
            raise ValueError(f"{', '.join(names)}: only for format {allowed}, is {self.format!r}")
        if self.key_seconds and self.key_seconds[0] > self.key_seconds[1]:
            raise ValueError(f"key_seconds must be [first, last], is {list(self.key_seconds)}")
        return self

    @model_validator(mode="after")
    def _readable(self) -> Data:
        if self.source == "synthetic" and not self.annotation_format.synthetic:
            allowed = formats.names_of(each for each in formats.FORMATS if each.synthetic)
            raise ValueError(f"source 'synthetic' needs format {allowed}, is {self.format!r}: name a folder")
        if not self.annotation_format.has_files and self.annotations != "annotations.csv":
            raise ValueError(f"format {self.format!r} has no annotation files: remove annotations")
        return self
