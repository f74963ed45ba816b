"""What params.yaml may hold: one frozen dataclass a section, checked once. `pipeline/params.py` reads the file.

There are no defaults here: params.yaml names every field, so that DVC sees every value. `dlkdd use` writes
a whole file.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: found '{value[:200]}', wanted one of {', '.join(known)}")


def _at_least(name: str, value: float, bound: float) -> None:
    if not value >= bound:
        raise ValueError(f"{name}: found {value}, wanted at least {bound}")


def _above(name: str, value: float, bound: float) -> None:
    if not value > bound:
        raise ValueError(f"{name}: found {value}, wanted more than {bound}")


def _share(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: found {value}, wanted 0 to 1")


def _seed(name: str, value: int) -> None:
    # Training seeds each epoch with a million times it and more, which torch takes up to 64 bits.
    if not 0 <= value < 2**32:
        raise ValueError(f"{name}: found {value}, wanted 0 to {2**32 - 1}")


def require_pattern(name: str, value: str) -> None:
    """Refuse what is no regular expression, with a ValueError."""
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{name}: found {value[:200]!r}, which is no regular expression ({error}); mend it") from error


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Rendered clips: how many, how long, how dark."""

    train_clips_per_class: int
    """Training clips of each class."""
    test_clips_per_class: int
    """Test clips of each class."""
    train_scenes: int
    """Scenes of the training clips: 8 were made by hand, further ones are drawn. Each class takes them in turn."""
    test_scenes: int
    """Scenes of the test clips, all others: 4 were made by hand, further ones are drawn."""
    num_frames: int
    """Frames a clip."""
    frame_size: tuple[int, int]
    """(height, width) in pixels, both even."""
    fps: int
    """Frames a second."""
    exposure_ev: float
    """Exposure against the lit scene in EV; -5 keeps 1/32 of the light."""
    lit_twin: bool
    """Also write every clip as it was before the darkening."""
    crf: int
    """x264's constant rate factor, 0 to 51."""
    seed: int
    """Same seed, same clips."""

    def __post_init__(self) -> None:
        _at_least("render.train_clips_per_class", self.train_clips_per_class, 1)
        _at_least("render.test_clips_per_class", self.test_clips_per_class, 1)
        _at_least("render.train_scenes", self.train_scenes, 1)
        _at_least("render.test_scenes", self.test_scenes, 1)
        _at_least("render.num_frames", self.num_frames, 2)
        for side in self.frame_size:
            if side < 32 or side % 2:
                raise ValueError(f"render.frame_size: found {list(self.frame_size)}, wanted even sides of at least 32")
        _at_least("render.fps", self.fps, 1)
        if not 0 <= self.crf <= 51:
            raise ValueError(f"render.crf: found {self.crf}, wanted 0 to 51")
        _seed("render.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """How the clips of a dataset are listed and checked."""

    on_leak: str
    """error or report: the same clip, content, scene, or name under another class in train and test."""
    max_bad: int
    """Bad videos allowed; they go into the quarantine file. 0 stops at any."""
    max_memory_mb: int
    """Memory in MiB that decoding one video may take; one that needs more is bad. Linux only."""
    max_seconds: float
    """Time in seconds that looking through one video may take; one that needs more is bad."""
    links: bool
    """Follow links below the videos' root that lead out of it; false refuses them."""
    scene_pattern: str
    """Regular expression on the clip id, without a first folder such as train/ above the class; its groups, joined,
    name the scene. A clip that it does not match is a scene of its own; empty: every clip is."""
    holdout: int
    """Whole training scenes set aside for choosing between models."""
    test_share: float
    """Share of scenes that become test where one list or folder serves as train and test; else unused."""
    seed: int
    """Draws the held-out scenes."""

    def __post_init__(self) -> None:
        _one_of("prepare.on_leak", self.on_leak, ("error", "report"))
        _at_least("prepare.max_bad", self.max_bad, 0)
        _at_least("prepare.max_memory_mb", self.max_memory_mb, 64)
        _above("prepare.max_seconds", self.max_seconds, 0)
        require_pattern("prepare.scene_pattern", self.scene_pattern)
        _at_least("prepare.holdout", self.holdout, 0)
        _share("prepare.test_share", self.test_share)
        _seed("prepare.seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How a clip is seen: the one pixel path of teacher and student."""

    frames: int
    """Frames a view, T."""
    sampling: str
    """consecutive: T frames `stride` apart from a random start; spread: one from each of T equal parts."""
    stride: int
    """Decoded frames between two of the view, for consecutive sampling."""
    jitter: float
    """Share of its part that a frame of a spread view is drawn from: 0 takes the middle, 1 the whole part."""
    loop: bool
    """A video shorter than the view starts over; false refuses it."""
    frame_size: tuple[int, int]
    """(height, width) in pixels that each whole frame is resized to."""
    size: int
    """Height and width in pixels of the view."""
    scales: tuple[float, ...]
    """Crop sides as shares of the resized frame's short side; a crop is drawn from neighbouring pairs."""
    positions: str
    """random: a crop lies anywhere; fixed: at one of 13 grid points for crops of `size`, as DarkLight does."""
    flip: bool
    """Mirror half of the training views; false where left and right matter."""
    mode: str
    """consistent: the student sees the teacher's views; fixed: one centre view; independent: its own draws."""
    colour_range: str
    """auto (as tagged), limited or full."""
    seed: int
    """Draws the views, with the clip id and the view number."""

    def __post_init__(self) -> None:
        _at_least("views.frames", self.frames, 1)
        _one_of("views.sampling", self.sampling, ("consecutive", "spread"))
        _at_least("views.stride", self.stride, 1)
        _share("views.jitter", self.jitter)
        if not 0 < self.size <= min(self.frame_size):
            raise ValueError(
                f"views.size: found {self.size}, wanted 1 to the short side of views.frame_size {list(self.frame_size)}"
            )
        if not self.scales:
            raise ValueError("views.scales: found none, wanted at least one crop scale such as 1.0")
        for scale in self.scales:
            if not 0.1 <= scale <= 1.0:
                raise ValueError(f"views.scales: found {scale}, wanted 0.1 to 1.0")
        _one_of("views.positions", self.positions, ("random", "fixed"))
        _one_of("views.mode", self.mode, ("consistent", "fixed", "independent"))
        _one_of("views.colour_range", self.colour_range, ("auto", "limited", "full"))
        _seed("views.seed", self.seed)


ENHANCERS = ("zero_dce", "gamma", "histogram", "lime", "retinex", "none")


@dataclass(frozen=True, kw_only=True)
class EnhancerConfig:
    """The teacher's T_e: Zero-DCE, trained on the run's own training frames or loaded, or a method without weights."""

    name: str
    """zero_dce, gamma, histogram, lime, retinex, or none; steps to variation_weight are for zero_dce alone."""
    gamma: float
    """Of gamma: the frame to the power of 1 / gamma; above 1 brightens."""
    gamma_table: bool
    """Of gamma: DarkLight's table of 8-bit codes, rounded down, instead of exact values."""
    weights: str | None
    """Of zero_dce: the official weights' file; null trains the network here."""
    on: str
    """frame: enhance each resized frame once, before the crop; view: enhance the view's pixels."""
    steps: int
    """Optimizer steps."""
    patch_size: int
    """Side in pixels of the training patches."""
    batch_size: int
    """Patches a step."""
    lr: float
    """Adam's learning rate."""
    weight_decay: float
    """Adam's weight decay."""
    grad_clip: float
    """Largest gradient norm."""
    exposure_target: float
    """Well-exposed level E, 0 to 1."""
    exposure_patch: int
    """Side in pixels of the regions whose mean is held against the target."""
    spatial_weight: float
    """Weight of the spatial consistency loss."""
    exposure_weight: float
    """Weight of the exposure loss."""
    colour_weight: float
    """Weight of the colour constancy loss."""
    variation_weight: float
    """Weight of the curve maps' total variation."""
    seed: int
    """Draws the weights and the patches."""

    def __post_init__(self) -> None:
        _one_of("enhancer.name", self.name, ENHANCERS)
        _above("enhancer.gamma", self.gamma, 0)
        if self.weights is not None and self.name != "zero_dce":
            raise ValueError(f"enhancer.weights: found '{self.weights[:200]}', wanted null: {self.name} has no weights")
        _one_of("enhancer.on", self.on, ("frame", "view"))
        _at_least("enhancer.steps", self.steps, 1)
        _at_least("enhancer.patch_size", self.patch_size, self.exposure_patch)
        _at_least("enhancer.batch_size", self.batch_size, 1)
        _above("enhancer.lr", self.lr, 0)
        _above("enhancer.grad_clip", self.grad_clip, 0)
        _share("enhancer.exposure_target", self.exposure_target)
        _at_least("enhancer.exposure_patch", self.exposure_patch, 1)
        _seed("enhancer.seed", self.seed)


SOFT_TARGETS = ("teacher", "smoothed", "shuffled")
MODELS = ("r2plus1d_18", "r2plus1d_34", "r2plus1d_tiny", "r3d_18", "mc3_18", "swin3d_b")


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """One classifier and how it is trained."""

    model: str
    """Name of the backbone."""
    head: str
    """attention (the paper's BERT head) or average (global average pooling)."""
    head_dropout: float
    """Dropout before the last linear layer, 0 to 1."""
    keep_probability: float
    """Chance that a time token can be attended to in training, above 0 to 1; 1 masks none."""
    bn_momentum: float
    """Share of the new batch in BatchNorm's running statistics, 0 to 1; swin3d_b has none."""
    normalization: str
    """kinetics (torchvision's video ResNets, ig65m), imagenet (swin3d_b), or dataset: the training subset's own."""
    remove_temporal_mean: bool
    """Subtract each pixel's mean over the view's frames: what stands still becomes zero. For few scenes a class."""
    weights: str | None
    """Pretrained file to start from; null starts from random weights."""
    weights_up_to: str
    """How far the file is used: backbone; head (all but the last linear layer); or classifier (all of it)."""
    epochs: int
    """Passes over the training clips."""
    batch_size: int
    """Clips a step of the optimizer, whatever the number of parts and processes."""
    micro_batches: int
    """Parts that a batch is cut into; divides batch_size. Each passes forward and back by itself, so batch
    normalisation sees each alone, and gradients add up to the batch's: less memory, another result. P processes take
    1 / P of the parts each, so P has to divide it, and changes the result by rounding alone."""
    lr: float
    """AdamW's learning rate, above 0."""
    weight_decay: float
    """AdamW's decoupled weight decay, at least 0."""
    schedule: str
    """constant, or a cosine that comes near zero at the last step."""
    warmup_epochs: int
    """Epochs over which the learning rate rises from zero."""
    select: str
    """last epoch, or best on the held-out scenes."""
    seed: int
    """Draws initialisation, order and dropout."""

    def __post_init__(self) -> None:
        section = self.section()
        _one_of(f"{section}.model", self.model, MODELS)
        _one_of(f"{section}.head", self.head, ("attention", "average"))
        _share(f"{section}.head_dropout", self.head_dropout)
        _share(f"{section}.keep_probability", self.keep_probability)
        _above(f"{section}.keep_probability", self.keep_probability, 0)
        _share(f"{section}.bn_momentum", self.bn_momentum)
        _one_of(f"{section}.weights_up_to", self.weights_up_to, ("backbone", "head", "classifier"))
        _one_of(f"{section}.normalization", self.normalization, ("kinetics", "imagenet", "dataset"))
        _at_least(f"{section}.epochs", self.epochs, 1)
        _at_least(f"{section}.batch_size", self.batch_size, 1)
        _at_least(f"{section}.micro_batches", self.micro_batches, 1)
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"{section}.micro_batches: found {self.micro_batches}, wanted a divisor of {section}.batch_size "
                f"{self.batch_size}; change one of them"
            )
        _above(f"{section}.lr", self.lr, 0)
        _at_least(f"{section}.weight_decay", self.weight_decay, 0)
        _one_of(f"{section}.schedule", self.schedule, ("constant", "cosine"))
        _at_least(f"{section}.warmup_epochs", self.warmup_epochs, 0)
        _one_of(f"{section}.select", self.select, ("last", "best"))
        _seed(f"{section}.seed", self.seed)

    @classmethod
    def section(cls) -> str:
        """The section of params.yaml that this holds."""
        return cls.__name__.removesuffix("Config").lower()


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(ClassifierConfig):
    """The teacher: enhancer and classifier."""

    input: str
    """enhanced (the paper's); both: DarkLight's two streams, dark and enhanced; dark: a control without any light."""
    unfreeze_enhancer: bool
    """Train the enhancer with the classifier's loss; needs enhancer.on: view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of("teacher.input", self.input, ("dark", "enhanced", "both"))
        if self.unfreeze_enhancer and self.input == "dark":
            raise ValueError("teacher.unfreeze_enhancer: true needs an enhancer, but teacher.input is dark")


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(ClassifierConfig):
    """The student without soft targets; its values are read from the section `student`."""

    @classmethod
    def section(cls) -> str:
        """The baseline has no section of its own: it is the student but for the soft targets."""
        return "student"


@dataclass(frozen=True, kw_only=True)
class StudentConfig(ClassifierConfig):
    """The student: classifier and soft targets (Eq. 5-8)."""

    kd_weight: float
    """alpha_0, the weight of the soft targets in the first epoch (Eq. 7), at least 0."""
    kd_decay: float
    """gamma: the weight is multiplied by it after every epoch (Eq. 8), above 0 to 1."""
    temperature: float
    """tau, which both logits are divided by (Eq. 6), above 0."""
    scale_by_temperature_squared: bool
    """Hinton's tau^2 before the soft targets' loss; the paper's Eq. 5 to 7 print none.

    Near the teacher's logits the loss pulls with kd_weight / tau^2 of the force of an untempered match without it,
    1.5 / 25 = 0.06 with the paper's numbers, and with kd_weight = 1.5 with it: two very different experiments.
    """
    soft_targets: str
    """teacher, or a control that keeps some of what the teacher's logits hold and takes the rest: smoothed, the labels
    smoothed to the mean entropy of the soft targets; shuffled, the logits of another clip of the same class.
    """
    pixel_check: str
    """strict or warn: what happens when a stored view no longer gives the pixels that the teacher saw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("student.kd_weight", self.kd_weight, 0)
        _share("student.kd_decay", self.kd_decay)
        _above("student.kd_decay", self.kd_decay, 0)
        _above("student.temperature", self.temperature, 0)
        _one_of("student.soft_targets", self.soft_targets, SOFT_TARGETS)
        _one_of("student.pixel_check", self.pixel_check, ("strict", "warn"))


# The student's own keys of the section `student`, which the baseline leaves alone.
STUDENT_ONLY = tuple(
    field.name
    for field in dataclasses.fields(StudentConfig)
    if field.name not in {field.name for field in dataclasses.fields(BaselineConfig)}
)


@dataclass(frozen=True, kw_only=True)
class LogitsConfig:
    """The store of the teacher's logits."""

    views: int
    """Views of every clip, V; epoch t uses view t mod V."""
    batch_size: int
    """Rows a forward pass; a part of the bytes, since the last bits of logits depend on it."""
    minimum_top1: float | None
    """Top-1 over the stored rows below which the stage fails; null: twice chance, or half way from it to 1 if less."""

    def __post_init__(self) -> None:
        _at_least("logits.views", self.views, 1)
        _at_least("logits.batch_size", self.batch_size, 1)
        if self.minimum_top1 is not None:
            _share("logits.minimum_top1", self.minimum_top1)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The test."""

    batch_size: int
    """Views a forward pass."""
    clips: int
    """Clips in time of every test video, evenly spaced; 1 is the middle."""
    crops: str
    """centre; five (corners and centre); or ten (the same mirrored as well)."""
    average: str
    """Over a video's views: logits or probabilities."""
    calibration_bins: int
    """Bins of the expected calibration error."""
    bootstrap: int
    """Resamples behind the intervals of the calibration error and of top-1 by darkness."""
    luma_bins: int
    """Parts of about as many test clips each, by mean luma, that are measured apart."""
    stress_ev: tuple[float, ...]
    """Stops of light that the dark model adds to test clips, 0 and below; 0 leaves them as they are. [] for none."""
    stress_clips: int
    """Most test clips that are darkened, drawn by the seed from all classes alike."""
    seed: int
    """Draws the resamples, and the darkened clips, their cameras and their noise."""

    def __post_init__(self) -> None:
        _at_least("evaluate.batch_size", self.batch_size, 1)
        _at_least("evaluate.clips", self.clips, 1)
        _one_of("evaluate.crops", self.crops, ("centre", "five", "ten"))
        _one_of("evaluate.average", self.average, ("logits", "probabilities"))
        _at_least("evaluate.calibration_bins", self.calibration_bins, 2)
        _at_least("evaluate.bootstrap", self.bootstrap, 100)
        _at_least("evaluate.luma_bins", self.luma_bins, 1)
        _at_least("evaluate.stress_clips", self.stress_clips, 1)
        _seed("evaluate.seed", self.seed)
        if len(set(self.stress_ev)) < len(self.stress_ev) or not all(-20 <= ev <= 0 for ev in self.stress_ev):
            raise ValueError(
                f"evaluate.stress_ev: found {list(self.stress_ev)}, wanted different stops from -20 to 0, or []: clips "
                "can be darkened, not given light that was not filmed"
            )


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """The machine."""

    device: str
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: int
    """CPU threads of torch; a part of the bytes, since sums depend on it."""
    deterministic: bool
    """On a GPU: the same bytes each time, slower; an operation that cannot do it is an error. A CPU always does."""
    precision: str
    """fp32, or bf16: convolutions and matrix products of the classifiers in bfloat16, all else in float32."""
    checkpoint_activations: bool
    """Training keeps only what comes into each block of a trunk and computes the rest again on the way back: a
    fraction of the memory for a third more time. Changes no result."""
    workers: int
    """Processes that read clips; 0 reads in the main one. Changes no result."""
    cache: str
    """auto, on or off: keep every clip's resized frames on disk after the first decode. Changes no result."""
    cache_gb: float
    """Largest cache that auto makes, in 10^9 bytes."""

    def __post_init__(self) -> None:
        _at_least("compute.threads", self.threads, 1)
        _one_of("compute.precision", self.precision, ("fp32", "bf16"))
        _at_least("compute.workers", self.workers, 0)
        _one_of("compute.cache", self.cache, ("auto", "on", "off"))
        _at_least("compute.cache_gb", self.cache_gb, 0)


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """Where a run's clips come from."""

    videos: str
    """Root that clip ids are relative to."""
    train: str
    """List, or folder of class folders, of the training clips."""
    test: str
    """The same of the test clips."""
    classes: tuple[str, ...]
    """Class names by label."""
    class_ids: tuple[int, ...]
    """What lists with numbers call those classes; 0, 1, 2, ... but in UG2+, which counts from 5."""

    def __post_init__(self) -> None:
        if len(self.class_ids) != len(self.classes) or len(set(self.class_ids)) != len(self.class_ids):
            raise ValueError(
                f"inputs: class_ids: found {str(list(self.class_ids))[:200]}, wanted one number for each of the "
                f"{len(self.classes)} classes, none twice"
            )
        if len(set(self.classes)) != len(self.classes) or not all(self.classes):
            raise ValueError("inputs: classes: found a name twice or an empty one; give every class its own name")


SECTION_TYPES: dict[str, type[Any]] = {
    "render": RenderConfig,
    "prepare": PrepareConfig,
    "views": ViewsConfig,
    "enhancer": EnhancerConfig,
    "teacher": TeacherConfig,
    "logits": LogitsConfig,
    "student": StudentConfig,
    "evaluate": EvaluateConfig,
    "compute": ComputeConfig,
}


def plain(config: Any) -> dict[str, Any]:
    """A config as plain values, for a checkpoint's json or a work folder's key."""
    return {
        field.name: list(value) if isinstance(value := getattr(config, field.name), tuple) else value
        for field in dataclasses.fields(config)
    }
