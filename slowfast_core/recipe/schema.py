"""The sections of a recipe, except `data` (recipe/data.py): frozen pydantic models that reject unknown keys.

The docstrings of fields are the descriptions in docs/recipe-reference.md (`make reference`).
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Literal, cast

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
HALF_AREA = 0.5**0.5  # factor of a side that halves the area
Depth = Literal[18, 34, 50, 101, 152]
Precision = Literal["fp32", "bf16", "fp16"]
# Residual blocks of res2 to res5, by depth.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _fraction(value: object) -> object:
    """Convert text such as "1/8" to a number; other values are returned unchanged."""
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", value) if isinstance(value, str) else None
    return int(match[1]) / int(match[2]) if match and int(match[2]) else value


def check_address(text: str) -> str:
    """Reject mistyped addresses, such as "s3:/bucket", which would otherwise be used as folder names."""
    if match := re.match(r"(https?|s3):(?!//[^/\s])", text):
        raise ValueError(f"an address starts with {match[1]}:// and a name, is {text!r}")
    return text


# Address of a server or a store. Text without http:, https: or s3: may be a folder.
Address = Annotated[str, AfterValidator(check_address)]


class Section(BaseModel):
    """Base class of the sections: frozen, without unknown keys, and serialized without credentials."""

    # validate_default: defaults are converted to the field's type like given values, so that a stage's inputs do not
    # depend on whether 0 or 0.0 was written or left out.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that were added when results of the stages already existed."""

    def inputs(self) -> dict[str, Any]:
        """The values of all fields, as inputs of a stage.

        Fields that were added later count only if they are not at their default, so that earlier results stay valid.
        """
        values = self.model_dump(by_alias=True)
        for name, field in type(self).model_fields.items():
            key, value = field.alias or name, getattr(self, name)
            if name in self.added_later and value == field.get_default():
                del values[key]
            elif isinstance(value, Section):
                values[key] = value.inputs()
        return values

    @model_serializer(mode="wrap")
    def _without_credentials(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Remove credentials from addresses, because they are only used to connect and never written."""
        return cast(dict[str, Any], stripped(write(self)))


class Clip(Section):
    """Frames of a clip: T Slow frames, tau source frames apart, and alpha * T Fast frames (paper, section 3)."""

    added_later = frozenset({"sampling", "fps", "short"})

    T: Positive = 4
    """Frames of the Slow pathway."""
    tau: Positive = 16
    """Stride between Slow frames, in source frames. A multiple of alpha."""
    alpha: Positive = 8
    """Fast frames per Slow frame. The stride of the Fast pathway is tau / alpha source frames."""
    sampling: Literal["dense", "segments"] = "dense"
    """`dense`: T * tau consecutive source frames. `segments`: one frame from each of T * alpha equal parts of the
    video, for any tau; needs evaluate.clips 1 and a classifier."""
    fps: Annotated[float, Field(gt=0)] | None = None
    """Frame rate at which T * tau frames are counted: a clip takes T * tau / fps seconds of a video of any frame rate,
    and its frames are spread evenly over them, as in PySlowFast. null: tau counts the frames of the video."""
    short: Literal["repeat", "loop"] = "repeat"
    """Past the end of a video: `repeat` its last frame, or `loop` to its first frame, as in MMAction2."""

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
        """Number of source frames that a clip covers."""
        return self.T * self.tau

    def every(self, n: int) -> Clip:
        """Return the same clip with tau counted in the frames of a store that keeps every n-th frame."""
        return self.model_copy(update={"tau": self.tau // n, "fps": self.fps and self.fps / n})


class Pixels(Section):
    """Conversion of pixels from 0..255 to network input: channel order, then (x / 255 - mean) / std per channel."""

    order: Literal["rgb", "bgr"] = "rgb"
    """Order of the input channels."""
    mean: tuple[float, float, float] = (0.45, 0.45, 0.45)
    """Mean of each channel, in `order`, on a scale of 0 to 1."""
    std: tuple[float, float, float] = (0.225, 0.225, 0.225)
    """Standard deviation of each channel, in `order`, on a scale of 0 to 1. Above 0."""

    @field_validator("std")
    @classmethod
    def _above_zero(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"must be above 0, is {list(std)}")
        return std


class NonLocal(Section):
    """Non-local blocks of the Slow pathway."""

    added_later = frozenset({"pool_after"})

    res3: tuple[Count, ...] = ()
    """Indices (from 0) of the blocks of res3 that are followed by a non-local block."""
    res4: tuple[Count, ...] = (1, 3, 5)
    """Indices (from 0) of the blocks of res4 that are followed by a non-local block."""
    attention: Literal["softmax", "dot_product"] = "softmax"
    """Normalization of the attention weights."""
    pool_time: Literal[1, 2] = 2
    """Stride of the temporal max-pooling of keys and values; their spatial stride is 2."""
    pool_after: bool = False
    """Pool keys and values after their convolutions, as in MMAction2, instead of before."""


class Model(Section):
    """The network."""

    added_later = frozenset({"head_pool", "head_temporal_pool"})

    pathways: Literal["slowfast", "slow", "fast"] = "slowfast"
    """Both pathways, or only one of them (paper, Table 5a)."""
    depth: Depth = 50
    """Layers of the ResNet of the Slow pathway."""
    fast_depth: Depth | None = None
    """Layers of the ResNet of the Fast pathway. null: same as `depth`."""
    width: Positive = 64
    """Channels of the Slow stem."""
    beta: Annotated[float, BeforeValidator(_fraction), Field(gt=0, le=1)] = 1 / 8
    """Channels of the Fast pathway as a share of those of the Slow pathway (paper, Table 5b). May be written as 1/8."""
    res4_temporal_blocks: Count | None = None
    """Number of blocks of res4, from the first, that have temporal kernels. null: all blocks."""
    fast_res4_temporal_blocks: Count | None = None
    """The same for the Fast pathway. null: same as `res4_temporal_blocks`."""
    lateral: Literal["t_conv", "t_sample", "ttoc_concat", "ttoc_sum", "none"] = "t_conv"
    """Lateral connection from Fast to Slow (paper, Table 5a). `ttoc_sum` needs alpha * beta = 1 and equal blocks."""
    lateral_kernel: Positive = 5
    """Temporal kernel size of the `t_conv` lateral connection. Odd."""
    lateral_ratio: Positive = 2
    """Output channels of the `t_conv` lateral connection as a multiple of its input channels."""
    lateral_norm: bool = True
    """Batch norm and ReLU after the convolution of the `t_conv` lateral connection."""
    non_local: NonLocal | None = None
    """Non-local blocks of the Slow pathway. null: none."""
    fast_input: Literal["rgb", "half", "gray", "difference", "flow"] = "rgb"
    """Input of the Fast pathway (paper, Table 5c). `half`: half the resolution, only for classifiers. `flow`: optical
    flow; needs data.store.flow."""
    slow_frames: Literal["strided", "linspace"] = "strided"
    """How Slow frames are chosen from the Fast frames. `strided`: every alpha-th. `linspace`: evenly from the first to
    the last."""
    pixels: Pixels = Pixels()
    """Conversion of pixels to network input."""
    zero_init_last_bn: bool = True
    """Initialize the scale of the last batch norm in each residual block to zero."""
    classes: Positive = 400
    """Number of classes."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout rate before the classifier."""
    head: Literal["classify", "detect"] = "classify"
    """`classify`: classes of a clip. `detect`: actions of people in boxes; exactly for formats with boxes (`ava`)."""
    multi_label: bool = False
    """Classifier with one sigmoid per class instead of a softmax over all classes."""
    head_pool: Literal["global", "convolutional", "convolutional_logits"] = "global"
    """Pooling over space before the classifier of `classify`. `global`: the mean of all cells. `convolutional`: tests
    classify each window of 7 x 7 cells (one in a view of 224, four in one of 256) and average the scores, as PySlowFast
    does. `convolutional_logits`: they average the logits, as PyTorchVideo does. Training uses the mean of all cells."""
    head_temporal_pool: Literal["mean", "max"] = "mean"
    """Pooling over time before RoIAlign, in the `detect` network. `max`: as in MMAction2's models of 26.41 and 26.65
    mAP."""
    roi_size: Positive = 7
    """Side of the region features of `detect`, in cells."""
    roi_aligned: bool = True
    """Shift regions by half a pixel in RoIAlign (`aligned`)."""
    res5_dilation: Literal[1, 2] = 2
    """Spatial dilation of res5 in the `detect` network, whose res5 has stride 1."""

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
                raise ValueError(f"non_local.{stage}: {stage} of R{self.depth} has blocks 0..{blocks - 1}")
        if self.non_local and self.pathways == "fast":
            raise ValueError("non_local needs the Slow pathway, pathways is 'fast'")
        if self.multi_label and self.head == "detect":
            raise ValueError("multi_label needs head 'classify'; detection always has one sigmoid per class")
        if self.head_temporal_pool != "mean" and self.head != "detect":
            raise ValueError("head_temporal_pool needs head 'detect'; a classifier averages over time")
        if self.head_pool != "global" and self.head != "classify":
            raise ValueError("head_pool needs head 'classify'; detection pools each region")
        if self.fast_input == "half" and self.head == "detect":
            raise ValueError("fast_input 'half' needs head 'classify', head is 'detect'")
        return self

    @property
    def takes_flow(self) -> bool:
        return self.fast_input == "flow" and self.pathways != "slow"

    @property
    def fast_width(self) -> int:
        """Channels of the Fast stem, rounded up; each later stage doubles them.

        The paper does not specify the rounding. For beta 1/6 and 1/12, rounding up gives 11 and 6 channels and 41.65
        and 33.1 GFLOPs; the paper has 41.8 and 32.8. Rounding down, or rounding in each layer, is further off for one
        of the two.
        """
        return max(1, math.ceil(self.width * self.beta - 0.01))  # 0.01: a beta written as 0.0313 means 1/32


class Multigrid(Section):
    """Multigrid training: smaller clips in larger batches for most of the training (Wu et al., CVPR 2020)."""

    long_cycle: tuple[tuple[Part, Part], ...] = ((1 / 4, HALF_AREA), (1 / 2, HALF_AREA), (1 / 2, 1), (1, 1))
    """Clip shapes of the long cycle, each as [factor of the frames, factor of the side]."""
    short_cycle: tuple[Part, ...] = (1 / 2, HALF_AREA)
    """Sides of the short cycle as factors of train.crop; the side of the long cycle's shape is added to them."""
    epoch_factor: float = Field(1.5, gt=0)
    """Length of the training as a multiple of train.epochs; train.epochs and train.steps describe the training without
    multigrid."""


class Train(Section):
    """The training."""

    added_later = frozenset(
        {
            "clip_gradient_by",
            "color_jitter",
            "cosine_after_warmup",
            "cosine_end",
            "crop_area",
            "crop_aspect",
            "jitter_scale",
            "frozen_trunk",
            "lighting_jitter",
            "optimizer",
            "schedule_per",
            "warmup_per",
            "warmup_scaling",
        }
    )

    epochs: Positive = 256
    """Passes over the training split."""
    batch: Positive = 64
    """Clips (`classify`) or key frames (`detect`) per update, over all workers. Divisible by compute.workers *
    repeat."""
    accumulate: Positive = 1
    """Parts into which each worker splits its share of a batch; their gradients are accumulated."""
    learning_rate: float = Field(0.1, gt=0)
    """Peak learning rate, for a batch of `reference_batch`."""
    reference_batch: Positive | None = None
    """Batch for which `learning_rate` is given; other batches scale it linearly (Goyal et al., 2017). null: no
    scaling."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """Schedule of the learning rate: half a period of a cosine (paper, section 4), or the values in `steps`."""
    steps: tuple[tuple[float, float], ...] = ()
    """[epoch, rate] pairs, only for schedule `steps`: the rate from that epoch on, as a multiple of `learning_rate`.
    Epochs increase from above 0."""
    absolute_steps: bool = False
    """The rates in `steps` are learning rates, not multiples of `learning_rate`."""
    cosine_after_warmup: bool = False
    """The cosine starts at the end of the warm-up instead of at the start of the training."""
    cosine_end: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine, for a batch of `reference_batch`. Below `learning_rate`."""
    schedule_per: Literal["iteration", "epoch"] = "iteration"
    """When the schedule changes the learning rate, apart from the warm-up."""
    warmup_epochs: float = Field(34, ge=0)
    """Epochs of warm-up. At most `epochs`. 0: no warm-up."""
    warmup_from: float = Field(0.01, ge=0)
    """Learning rate at the start of the warm-up."""
    warmup_scaling: bool = True
    """Scale `warmup_from` with the batch like `learning_rate`, for warmup `override`. The paper starts at the same rate
    for all batches."""
    warmup_per: Literal["iteration", "epoch"] = "iteration"
    """When the warm-up changes the learning rate. `epoch`: the last of `warmup_epochs` has the full rate, as in
    MMAction2."""
    warmup: Literal["override", "compose"] = "override"
    """`override`: linear from `warmup_from` to the schedule's rate at the end of the warm-up. `compose`: the schedule
    times a factor that rises linearly from warmup_from / learning_rate to 1."""
    multigrid: Multigrid | None = None
    """Multigrid training; needs schedule `steps`. null: all clips have full size."""
    batch_norm: Literal["groups", "sync", "frozen"] = "groups"
    """Statistics of batch norm: over groups of `norm_clips` clips, over the clips of all workers, or fixed."""
    norm_clips: Count = 8
    """Clips per group for batch_norm `groups`. 0: all clips that a worker processes at once."""
    precise_norm_batches: Count = 0
    """Batches from which the batch-norm statistics of the final weights are recomputed; also before each validation. 0:
    keep the running statistics."""
    decay_norm: bool = False
    """Apply weight decay to the parameters of batch norm."""
    decay_bias: bool = True
    """Apply weight decay to biases."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`adamw`: AdamW with betas 0.9 and 0.999; `momentum` and `nesterov` have no effect on it."""
    frozen_trunk: bool = False
    """Train only the classifier: all other weights keep their start values. Needs batch_norm `frozen`."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD. `nesterov` needs a value above 0."""
    nesterov: bool = True
    """Nesterov momentum."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of the optimizer."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing of the cross-entropy loss."""
    clip_gradient: float = Field(0.0, ge=0)
    """Largest norm or value of the gradient. 0: no clipping."""
    clip_gradient_by: Literal["norm", "value"] = "norm"
    """`norm`: scale the whole gradient. `value`: clip each of its values on its own."""
    jitter: tuple[Positive, Positive] = (256, 320)
    """[shortest, longest] short side in pixels to which clips are scaled."""
    jitter_scale: Literal["uniform", "inverse"] = "uniform"
    """Distribution of the short side. `inverse`: its reciprocal is uniform, as in PySlowFast for Charades,
    Something-Something and AVA."""
    crop_area: tuple[Part, Part] | None = None
    """[smallest, largest] share of the picture that a random crop takes, instead of `jitter`, as in MMAction2 for
    Kinetics. null: crops of `crop` pixels after `jitter`."""
    crop_aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (3 / 4, 4 / 3)
    """[smallest, largest] width / height of a crop by `crop_area`, which is then resized to a square."""
    crop: Positive = 224
    """Side of the random crop, in pixels."""
    color_jitter: float = Field(0.0, ge=0, lt=1)
    """Brightness, contrast and saturation of a clip change in random order by factors within 1 +- this. 0: none.
    PySlowFast's AVA.TRAIN_USE_COLOR_AUGMENTATION has 0.4."""
    lighting_jitter: float = Field(0.0, ge=0)
    """Standard deviation of random changes along the principal components of ImageNet's colors. 0: none. PySlowFast's
    AVA.TRAIN_USE_COLOR_AUGMENTATION has 0.1."""
    flip: bool = True
    """Mirror half of the clips. Set false where left and right distinguish classes."""
    clips_per_video: Positive = 1
    """Clips drawn from each video per epoch. Divisible by `repeat`."""
    repeat: Positive = 1
    """Clips drawn from one decoding of a video, into the same batch."""
    max_bad_share: Share = 0.01
    """Largest share of training clips that may be undecodable. They are left out; a larger share stops the training."""
    init_from: str | None = None
    """Start weights: a checkpoint folder, or models:/NAME@ALIAS. null: random weights, or in a finetune branch the
    weights of the main recipe."""
    allow_overlap: bool = False
    """Allow start weights that were trained on videos of this recipe's `val` split."""
    validate_every: Count = 1
    """Epochs between validations on one centred view of each `val` sample; the best checkpoint is kept. 0: none."""
    final: Literal["last", "best"] = "last"
    """Which weights are the result. `best` needs `validate_every`."""
    checkpoint_minutes: float = Field(10.0, ge=0)
    """Minutes between checkpoints, in addition to one at the end of each epoch."""
    checkpoint_steps: Count = 0
    """Updates between additional checkpoints. 0: none."""
    keep_checkpoints: Positive = 3
    """Number of newest checkpoints that are kept."""
    checkpoint_store: Address | None = None
    """Folder or s3://bucket/prefix to which checkpoints are copied, so that another machine can resume. null: no
    copies."""
    checkpoint_endpoint_url: Address | None = None
    """Endpoint of an S3-compatible `checkpoint_store`. null: AWS."""
    log_samples: bool = False
    """Write the ids of the samples of every step to one file per worker."""
    max_restarts: int = Field(2, ge=0)
    """Restarts after a lost worker before the training fails."""

    @model_validator(mode="after")
    def _usable(self) -> Train:
        if self.jitter[0] > self.jitter[1]:
            raise ValueError(f"jitter must be [shortest, longest], is {list(self.jitter)}")
        for name in ("crop_area", "crop_aspect"):
            low, high = getattr(self, name) or (0, 0)
            if low > high:
                raise ValueError(f"{name} must be [smallest, largest], is {[low, high]}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if self.clips_per_video % self.repeat:
            raise ValueError(f"repeat {self.repeat} does not divide clips_per_video {self.clips_per_video}")
        epochs = [epoch for epoch, _ in self.steps]
        if bool(self.steps) != (self.schedule == "steps"):
            raise ValueError("schedule 'steps' needs steps, [epoch, rate] pairs; other schedules have none")
        if epochs != sorted(set(epochs)) or any(epoch <= 0 for epoch in epochs):
            raise ValueError(f"the epochs of steps must increase from above 0, are {epochs}")
        if self.schedule != "cosine" and (self.cosine_end or self.cosine_after_warmup):
            raise ValueError("cosine_end and cosine_after_warmup need schedule 'cosine'")
        if self.cosine_end >= self.learning_rate:
            raise ValueError(f"cosine_end {self.cosine_end} is not below learning_rate {self.learning_rate}")
        if self.cosine_after_warmup and self.warmup_epochs >= self.epochs:
            raise ValueError("cosine_after_warmup needs warmup_epochs below epochs")
        if self.final == "best" and not self.validate_every:
            raise ValueError("final 'best' needs validate_every")
        if self.multigrid and self.schedule != "steps":
            raise ValueError("multigrid needs schedule 'steps'")
        if self.frozen_trunk and self.batch_norm != "frozen":
            raise ValueError(f"frozen_trunk needs batch_norm 'frozen', is {self.batch_norm!r}")
        if self.batch_norm == "frozen" and self.precise_norm_batches:
            what = f"precise_norm_batches {self.precise_norm_batches} would recompute the statistics"
            raise ValueError(f"{what} that batch_norm 'frozen' keeps; set it to 0, or use another batch_norm")
        return self


class Evaluate(Section):
    """The evaluation, by default on 10 clips x 3 crops of a video (paper, section 4).

    Detection evaluates one clip around each key frame.
    """

    added_later = frozenset({"boxes", "aggregation", "starts", "protocol"})

    clips: Positive = 10
    """Clips per video, evenly spaced. 1 for clip.sampling `segments`."""
    starts: Literal["uniform", "pyslowfast", "offset", "rounded"] = "uniform"
    """First frames of the clips, where D is the number of frames that a clip leaves. `uniform`: D * i / (clips - 1),
    rounded down (paper). `pyslowfast`: D * i / clips, rounded up; the last clip ends early. `offset`: i times D /
    (clips - 1) rounded down, PySlowFast's USE_OFFSET_SAMPLING. `rounded`: D * i / (clips - 1) to the nearest, where the
    unused frames after a clip's last one count as left: MMAction2, and PySlowFast for Charades."""
    crops: Literal[1, 3] = 3
    """Square crops per clip along the longer side: the middle one, or one at each end too."""
    size: Positive = 256
    """Side of a view in pixels; the short side of the picture is scaled to it."""
    batch_views: Positive = 60
    """Largest number of views in one forward pass; limits memory."""
    aggregation: Literal["mean", "max"] = "mean"
    """Combination of the scores of a video's views."""
    iou: float = Field(0.5, gt=0, lt=1)
    """Intersection over union from which a detection matches a true box."""
    protocol: Literal["activitynet", "pyslowfast"] = "activitynet"
    """mAP of detection. `activitynet`: the official one, with the 50 best detections of each key frame that has any
    annotation. `pyslowfast`: all detections count, and those in key frames without annotations are wrong."""
    boxes: Literal["truth", "predicted"] | None = None
    """Boxes of people that are scored in detection. null: `predicted` if the data has predicted boxes, else `truth`."""


class Register(Section):
    """The registration of the model, and when it becomes the champion."""

    model: Name = "slowfast"
    """Name of the registered model. A recipe without this key uses its own name, with '-' for '/'."""
    min_gain: float = 0.0
    """The metric must exceed the champion's by more than this."""
    floor: Literal["chance"] | Share | None = "chance"
    """Requirement for a champion. `chance`: the 95 % interval of the metric is above chance, on at least 20 `val`
    samples. A number: the smallest metric. null: none."""


class Compute(Section):
    """Machines and processes."""

    workers: Positive = 1
    """Training processes. train.batch is divided among them."""
    min_workers: Positive | None = None
    """Fewest workers with which an elastic training continues while no more are available. null: `workers`."""
    cpus_per_worker: Positive = 1
    """CPU cores of a worker, which its loader processes share; also the threads of the worker."""
    gpus_per_worker: Literal["auto", 0, 1] = "auto"
    """GPUs of a worker. `auto`: 1 if there is a GPU for each worker, else 0."""
    loader_workers: int = Field(0, ge=0)
    """Processes per worker that decode clips. 0: the worker decodes itself."""
    frame_cache_mb: int = Field(0, ge=0)
    """Memory for decoded clips, in MB per worker, or per loader process if there are any. 0: no cache."""
    precision: Precision = "fp32"
    """Precision of training (`bf16`, `fp16`: autocast), and of evaluation if the device supports it."""
    compile: bool = False
    """Compile the network for training with torch.compile."""
    deterministic: bool = False
    """Deterministic algorithms on GPUs: the same weights every time, but slower."""
    wait_minutes: Positive = 30
    """Minutes to wait until the cluster has resources for the workers."""
    preflight_seconds: Positive = 120
    """Seconds within which all workers must connect to each other at the start."""
    address: str | None = None
    """Address of a running Ray cluster. null: start a local one. Only for run_on `here`."""
    run_on: Literal["here", "jobs", "rayjob"] = "here"
    """Where extraction and training run. `here`: in this process. `jobs`: as a job of a running Ray cluster. `rayjob`:
    as a Kubernetes RayJob with its own cluster."""
    jobs_address: Address | None = None
    """Address of the Ray Jobs API, such as http://host:8265. Exactly for run_on `jobs`."""

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
        """GPUs of a worker. Raises ValueError if `auto` is not resolved yet (Recipe.with_gpus)."""
        if self.gpus_per_worker == "auto":
            raise ValueError("compute.gpus_per_worker is still 'auto'")
        return self.gpus_per_worker

    @model_validator(mode="after")
    def _elastic(self) -> Compute:
        if self.min_workers and self.min_workers > self.workers:
            raise ValueError(f"min_workers ({self.min_workers}) is above workers ({self.workers})")
        return self

    @model_validator(mode="after")
    def _one_place(self) -> Compute:
        if (self.run_on == "jobs") != (self.jobs_address is not None):
            raise ValueError("jobs_address, the address of the Ray Jobs API, is for run_on 'jobs', which needs it")
        if self.run_on != "here" and self.address:
            raise ValueError(f"run_on {self.run_on!r} runs inside its cluster: remove address")
        return self


class Tracking(Section):
    """MLflow tracking."""

    uri: Address | None = None
    """Address of an MLflow server or database. null: a SQLite database in the workspace."""
    experiment: str = "slowfast"
    """Name of the MLflow experiment."""
