"""The sections of a recipe: frozen pydantic models in which unknown keys are errors. `data` is in data/sections.py."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from slowfast_core.credentials import stripped
from slowfast_core.names import Name

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, le=1)]
HALF_AREA = 0.5**0.5  # of a side
Depth = Literal[18, 34, 50, 101, 152]
Precision = Literal["fp32", "bf16", "fp16"]
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _fraction(value: object) -> object:
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", value) if isinstance(value, str) else None
    return int(match[1]) / int(match[2]) if match and int(match[2]) else value


def _address(text: str) -> str:
    if match := re.match(r"(https?|s3):(?!//[^/\s])", text):
        raise ValueError(f"an address starts with {match[1]}:// and a name, is {text!r}")
    return text


Address = Annotated[str, AfterValidator(_address)]  # of a server or a store; anything else may be a folder


class Section(BaseModel):
    # Defaults go through the fields' types like values do: what a stage is begun with does not tell who wrote the 0.0.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_credentials(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Credentials in addresses are for connecting: whatever is written of a recipe is without them."""
        return cast(dict[str, Any], stripped(write(self)))


class Clip(Section):
    """T Slow frames, tau source frames apart; the Fast pathway sees alpha times as many (paper, section 3).

    With `sampling: segments` the Fast frames are one of each of T alpha equal parts of the video, whatever tau is.
    """

    T: Positive = 4
    tau: Positive = 16
    alpha: Positive = 8
    sampling: Literal["dense", "segments"] = "dense"

    @model_validator(mode="after")
    def _whole_fast_stride(self) -> Clip:
        if self.tau % self.alpha:
            raise ValueError(f"tau ({self.tau}) must be a multiple of alpha ({self.alpha})")
        return self

    @property
    def fast_frames(self) -> int:
        return self.T * self.alpha

    @property
    def fast_stride(self) -> int:
        return self.tau // self.alpha

    @property
    def span(self) -> int:
        """Source frames from the first that a clip may take to the last, inclusive."""
        return self.T * self.tau

    def every(self, n: int) -> Clip:
        """The same clip, counted in the frames of a store that keeps each n-th."""
        return self.model_copy(update={"tau": self.tau // n})


class Pixels(Section):
    """How 0..255 becomes the network's input: the order of the channels, then (x / 255 - mean) / std of each."""

    order: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)

    @field_validator("std")
    @classmethod
    def _above_zero(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"must be above 0, is {list(std)}")
        return std


class NonLocal(Section):
    """Non-local blocks of the Slow pathway, each after the named block (from 0) of its stage."""

    res3: tuple[Count, ...] = ()
    res4: tuple[Count, ...] = (1, 3, 5)
    attention: Literal["softmax", "dot_product"] = "softmax"
    pool_time: Literal[1, 2] = 2  # keys and values are max-pooled by this in time, and by 2 in space


class Model(Section):
    pathways: Literal["slowfast", "slow", "fast"] = "slowfast"
    depth: Depth = 50
    fast_depth: Depth | None = None  # None: as deep as Slow
    width: Positive = 64  # channels of the Slow stem
    beta: Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)] = 1 / 8  # may be written as 1/8
    res4_temporal_blocks: Count | None = None  # the first blocks of res4 have temporal kernels; None: all
    fast_res4_temporal_blocks: Count | None = None  # None: as many as Slow
    lateral: Literal["t_conv", "t_sample", "ttoc_concat", "ttoc_sum", "none"] = "t_conv"
    lateral_kernel: Positive = 5  # of T-conv, like the next two
    lateral_ratio: Positive = 2  # output channels by input channels
    lateral_norm: bool = True  # batch norm and ReLU after the convolution
    non_local: NonLocal | None = None
    fast_input: Literal["rgb", "half", "gray", "difference", "flow"] = "rgb"
    slow_frames: Literal["strided", "linspace"] = "strided"  # of the clip: every alpha-th, or first to last evenly
    pixels: Pixels = Pixels()
    zero_init_last_bn: bool = True  # of each residual block
    classes: Positive = 400
    dropout: float = Field(0.5, ge=0, lt=1)
    head: Literal["classify", "detect"] = "classify"
    multi_label: bool = False  # of a classifier: a sigmoid for each class, not one softmax over them
    roi_size: Positive = 7
    roi_aligned: bool = True  # RoIAlign's half-pixel shift
    res5_dilation: Literal[1, 2] = 2  # of the detection trunk, whose res5 has stride 1

    @field_validator("lateral_kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"must be odd, is {kernel}")
        return kernel

    @model_validator(mode="after")
    def _buildable(self) -> Model:
        stages = {"res3": DEPTHS[self.depth][1], "res4": DEPTHS[self.depth][2]}
        for stage, blocks in stages.items() if self.non_local else ():
            if max(getattr(self.non_local, stage), default=0) >= blocks:
                raise ValueError(f"non_local.{stage}: R{self.depth} has blocks 0..{blocks - 1} there")
        if self.non_local and self.pathways == "fast":
            raise ValueError("non_local is of the Slow pathway, pathways is 'fast'")
        if self.multi_label and self.head == "detect":
            raise ValueError("multi_label is of a classifier; detection always has a sigmoid for each class")
        if self.fast_input == "half" and self.head == "detect":
            raise ValueError("fast_input 'half' does not fit head 'detect'")
        return self

    @property
    def takes_flow(self) -> bool:
        return self.fast_input == "flow" and self.pathways != "slow"

    @property
    def fast_width(self) -> int:
        """Channels of the Fast stem, rounded up; each later stage doubles them.

        The paper does not say how it rounds. At beta 1/6 and 1/12 this gives 11 and 6 channels and 41.65 and 33.1
        GFLOPs against its 41.8 and 32.8; rounding down, or each layer for itself, is further off at one of the two.
        """
        return max(1, math.ceil(self.width * self.beta - 0.01))  # a beta written as 0.0313 is 1/32


class Multigrid(Section):
    """Smaller clips in larger batches for most of the training (Wu et al., CVPR 2020); T and side are factors."""

    long_cycle: tuple[tuple[Part, Part], ...] = ((1 / 4, HALF_AREA), (1 / 2, HALF_AREA), (1 / 2, 1), (1, 1))
    short_cycle: tuple[Part, ...] = (1 / 2, HALF_AREA)  # sides of the whole, before the long cycle's own
    epoch_factor: float = Field(1.5, gt=0)  # epochs by those of the training without


class Train(Section):
    epochs: Positive = 256
    batch: Positive = 64  # clips (classify) or key frames (detect) of one update, over all workers
    accumulate: Positive = 1  # parts of a batch that a worker takes one after the other
    learning_rate: float = Field(0.1, gt=0)
    reference_batch: Positive | None = None  # learning_rate is that of this batch; another batch scales it linearly
    schedule: Literal["cosine", "steps"] = "cosine"
    steps: tuple[tuple[float, float], ...] = ()  # epoch, and the rate from there on: a multiple of learning_rate
    absolute_steps: bool = False  # the rates of `steps` are rates
    warmup_epochs: float = Field(34, ge=0)
    warmup_from: float = Field(0.01, ge=0)
    warmup: Literal["override", "compose"] = "override"  # a line to the rate where it ends, or a factor of the schedule
    multigrid: Multigrid | None = None
    batch_norm: Literal["groups", "sync", "frozen"] = "groups"
    norm_clips: Count = 8  # clips that share statistics, in `groups`; 0: all that a worker takes at once
    precise_norm_batches: Count = 0  # batches over which the statistics of the final weights are taken anew
    decay_norm: bool = False  # weight decay on batch norm too
    decay_bias: bool = True
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(1e-4, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_gradient: float = Field(0.0, ge=0)  # 0: no clipping
    jitter: tuple[Positive, Positive] = (256, 320)  # short side, drawn uniformly
    crop: Positive = 224
    flip: bool = True
    clips_per_video: Positive = 1  # spans drawn from each video in an epoch
    repeat: Positive = 1  # of these, how many are drawn together: from one decoding, into the same batch
    max_bad_share: Share = 0.01  # of the training clips, found undecodable: they are left out; more stop the training
    init_from: str | None = None  # a checkpoint folder, or models:/NAME@ALIAS, to start from
    allow_overlap: bool = False  # start also from one that was trained on videos which this data evaluates on
    validate_every: Count = 0  # epochs; one centred view of each held-out sample, and the best checkpoint is kept
    final: Literal["last", "best"] = "last"  # whose weights are the result
    checkpoint_minutes: float = Field(10.0, ge=0)  # besides one at the end of each epoch
    checkpoint_steps: Count = 0  # iterations; 0: by the clock only
    keep_checkpoints: Positive = 3
    checkpoint_store: Address | None = None  # a folder or s3://bucket/prefix that has them too, for another machine
    checkpoint_endpoint_url: Address | None = None  # of an S3-compatible store
    log_samples: bool = False  # the ids of every step's samples, in a file of each worker
    max_restarts: int = Field(2, ge=0)

    @model_validator(mode="after")
    def _usable(self) -> Train:
        if self.jitter[0] > self.jitter[1]:
            raise ValueError(f"jitter is [shortest, longest], is {list(self.jitter)}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.clips_per_video % self.repeat:
            raise ValueError(f"repeat {self.repeat} does not divide clips_per_video {self.clips_per_video}")
        epochs = [epoch for epoch, _ in self.steps]
        if bool(self.steps) != (self.schedule == "steps"):
            raise ValueError("steps are [epoch, rate] pairs of schedule 'steps', and only of it")
        if epochs != sorted(set(epochs)) or any(epoch <= 0 for epoch in epochs):
            raise ValueError(f"the epochs of steps rise from above 0, are {epochs}")
        if self.final == "best" and not self.validate_every:
            raise ValueError("final 'best' needs validate_every")
        if self.multigrid and self.schedule != "steps":
            raise ValueError("multigrid needs schedule 'steps'")
        if self.batch_norm == "frozen" and self.precise_norm_batches:
            what = f"precise_norm_batches {self.precise_norm_batches} takes anew the statistics"
            raise ValueError(f"{what} that batch_norm 'frozen' keeps; set it to 0, or take another batch_norm")
        return self


class Evaluate(Section):
    """Test views (paper, section 4): classify 10 clips x 3 crops; detect one clip around the key frame."""

    clips: Positive = 10
    crops: Literal[1, 3] = 3
    size: Positive = 256
    batch_views: Positive = 60
    aggregation: Literal["mean", "max"] = "mean"  # of the scores of a video's views
    iou: float = Field(0.5, gt=0, lt=1)
    boxes: Literal["truth", "predicted"] | None = None  # of people to score; None: predicted where the data has them


class Register(Section):
    model: Name = "slowfast"  # of the registered model; a recipe that leaves it out registers under its own name
    min_gain: float = 0.0  # the champion is replaced when the metric is better by more than this
    # What a champion reaches at least. chance: above chance by its 95 % interval, on at least 20 held-out samples;
    # a number: a metric of that; null: anything.
    floor: Literal["chance"] | Share | None = "chance"


class Compute(Section):
    workers: Positive = 1
    min_workers: Positive | None = None  # an elastic training goes on with as few, where no more can be had
    cpus_per_worker: Positive = 1
    gpus_per_worker: Literal["auto", 0, 1] = "auto"  # auto: 1 where there is a GPU for each worker, else 0
    loader_workers: int = Field(0, ge=0)
    frame_cache_mb: int = Field(0, ge=0)  # decoded clips kept in memory by each worker
    precision: Precision = "fp32"  # bf16: autocast in training, as fp16; evaluation uses it where the device has it
    compile: bool = False  # torch.compile of the network in training
    deterministic: bool = False  # on GPUs: the same weights every time, and slower
    wait_minutes: Positive = 30  # for the cluster to have room for the workers
    preflight_seconds: Positive = 120  # in which all workers must have found each other
    address: str | None = None  # of a Ray cluster; None starts a local one
    run_on: Literal["here", "jobs", "rayjob"] = "here"  # extraction and training: here, or as a job of a Ray cluster
    jobs_address: Address | None = None  # of its Jobs API, as http://host:8265

    @field_validator("gpus_per_worker", mode="before")
    @classmethod
    def _auto_or_at_most_one(cls, value: object) -> object:
        if type(value) is int and value > 1:
            raise ValueError(f"a worker trains on one GPU, not {value}: raise workers")
        if value != "auto" and (type(value) is not int or value < 0):
            raise ValueError(f"{value!r} is not 'auto', 0 or 1")
        return value

    @property
    def gpus(self) -> int:
        """GPUs of a worker, once `auto` is resolved."""
        if self.gpus_per_worker == "auto":
            raise ValueError("compute.gpus_per_worker is 'auto' still")
        return self.gpus_per_worker

    @model_validator(mode="after")
    def _elastic(self) -> Compute:
        if self.min_workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above workers ({self.workers})")
        return self

    @model_validator(mode="after")
    def _one_place(self) -> Compute:
        if (self.run_on == "jobs") != (self.jobs_address is not None):
            raise ValueError("run_on 'jobs' and jobs_address go together: the address is that of the Jobs API")
        if self.run_on != "here" and self.address:
            raise ValueError(f"run_on {self.run_on!r} runs inside its cluster: leave address out")
        return self


class Tracking(Section):
    uri: Address | None = None  # None: SQLite in the workspace
    experiment: str = "slowfast"
