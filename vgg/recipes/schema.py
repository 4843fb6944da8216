"""The settings of a training as frozen values; derived numbers are methods."""

from dataclasses import dataclass, field
from typing import Literal

from cli.errors import UserError
from vgg.net.architecture import Architecture, Boxes
from vgg.net.precision import Precision

Initialisation = Literal[
    "glorot", "normal", "printed", "torchvision", "shallower", "shallower-glorot", "checkpoint"
]
FROM_SHALLOWER = ("shallower", "shallower-glorot")
"""Those that take some layers of `start_from`."""


@dataclass(frozen=True)
class Model:
    """The net (paper, tables 1 and 2)."""

    configuration: Literal["A", "A-LRN", "B", "B-5x5", "C", "D", "E"] = "D"
    """Column of table 1: A 11 layers, B 13, C 16 with three 1x1 convolutions, D 16, E 19. B-5x5: B with each
    pair of 3x3 convolutions replaced by one of 5x5 (section 4.1)."""
    depth: Literal[11, 13, 16, 19] | None = None
    """Layers with weights, instead of `configuration`: 11 is A, 13 B, 16 D, 19 E, unless the configuration has
    so many already."""
    classes: int | None = None
    """Outputs of the last layer. None: the number of classes of the data."""
    boxes: Boxes | None = None
    """Answer boxes in place of classes (paper, appendix A): single, one; per-class, one for each class. See
    python -m vgg.localise."""
    box_start: Literal["random", "mean"] = "random"
    """What the fresh last layer of a box net answers before the first update. random: whatever its random
    weights make of the image, as in the paper. mean: the mean training box, of each class its own."""
    side: int = 224
    """Crop side in pixels, a multiple of 32. The scales of `input` move with it, unless they are given."""
    width: float = 1.0
    """Factor on every number of channels and hidden units."""
    dropout: float = 0.5
    """Probability of dropping a unit of the first two fully connected layers."""
    initialisation: Initialisation = "glorot"
    """glorot: Glorot and Bengio's uniform. normal: standard deviation 0.01. printed: variance 0.01, as the
    paper prints, which diverges. torchvision: its defaults. shallower: first four convolutions and the fully
    connected layers of `start_from`, the rest normal. shallower-glorot: the rest glorot, for narrow nets, in
    which 0.01 lets nothing through. checkpoint: every layer of `start_from`."""
    start_from: str | None = None
    """Net whose weights `shallower`, `shallower-glorot` and `checkpoint` take: a run's folder (its best
    checkpoint), a checkpoint, runs:/RUN or models:/MODEL of MLflow, or a weights file of torchvision's vgg11,
    13, 16 or 19. Alone it means `checkpoint`. Its mean is subtracted from the pixels, and where its classes are
    others than the data's, the last layer is a fresh one."""
    take_architecture: bool = False
    """Take configuration, side and width from `start_from`; the scales of `input` move with the side."""
    freeze: str | None = None
    """Layers of `start_from` that stay as they are: convolutions, all-but-last, or names such as
    conv1_1,conv1_2,fc6. They take no gradient, decay or momentum and are not exchanged; dropout stays."""


@dataclass(frozen=True)
class Input:
    """The training crop (paper, section 3.1) and the validation crop."""

    min_scale: int = 256
    """Smallest training scale S: shorter side of the rescaled image, in pixels."""
    max_scale: int = 256
    """Largest S; S is drawn uniformly for every image."""
    test_scale: int = 256
    """Validation scale Q: shorter side of the rescaled image, whose centre crop is scored."""
    mirror: bool = True
    """Flip half of the training crops left to right."""
    colour_std: float = 0.1
    """Standard deviation of the PCA colour shift; 0 turns it off."""


@dataclass(frozen=True)
class Optim:
    """The optimizer."""

    name: Literal["sgd", "adam"] = "sgd"
    """sgd: with momentum, as in the paper. adam: Kingma and Ba."""
    lr: float = 0.01
    """Learning rate before any drop. Where another optimizer than the recipe's is named without it: 0.01 for
    sgd, 0.0001 for adam."""
    momentum: float = 0.9
    """Momentum of sgd; adam's first beta."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter."""
    body_lr_factor: float = 1.0
    """Factor on the learning rate of every layer but the last, for fine-tuning."""


@dataclass(frozen=True)
class Schedule:
    """When the learning rate drops, and when training stops early."""

    factor: float = 10.0
    """Divisor of the learning rate at each drop."""
    max_drops: int = 3
    """Maximum number of drops; the paper had three."""
    patience: int = 3
    """Validations without improvement before a drop."""
    patience_steps: int = 500
    """Updates without improvement before a drop, at least: of a small training set, a few passes are too few
    updates to leave the plateau that a training begins with (docs/decisions/patience.md)."""
    min_improvement: float = 0.001
    """Smallest gain in top-1 accuracy (a fraction) that counts as an improvement."""
    early_stop: int | None = None
    """Validations without improvement after which training ends. None: never."""
    early_stop_on: Literal["accuracy", "loss"] = "accuracy"
    """What has to improve: the top-1 accuracy, by `min_improvement`, or the loss, by anything."""


@dataclass(frozen=True)
class Train:
    """Length, precision and saving."""

    batch: int = 256
    """Global batch: images of one update, over all workers."""
    epochs: float = 74.0
    """Passes over the training set."""
    steps: int | None = None
    """Number of updates, instead of `epochs`."""
    precision: Precision = "auto"
    """auto: bf16 on GPUs that have it, fp16 with a loss scaler on older ones; on CPUs bf16 where all of them
    multiply it faster (AMX; AVX512-BF16, except where AMX is hidden), else fp32. What is resumed on CPUs goes
    on as it began."""
    deterministic: bool = False
    """Use only deterministic GPU kernels, so that a resumed run is bit-identical on a GPU too."""
    compile: bool = False
    """Compile the net with torch.compile."""
    validation_steps: int = 1
    """Updates between validations, at least: they come at the end of a pass over the training set, of every
    second pass or later where one is shorter, and at the end of the training."""
    checkpoint_steps: int = 2000
    """Updates between checkpoints; every validation saves one too."""
    checkpoint_seconds: float | None = None
    """Seconds between checkpoints, at most, beside `checkpoint_steps`. None: by steps alone."""
    keep_epochs: int | None = None
    """Keep the checkpoint at the end of every so many passes, beside the newest two and the best. None: these
    alone."""
    log_steps: int = 20
    """Updates between tracked metrics, at most: slow ones are tracked every minute."""
    bad_numbers: Literal["stop", "skip", "roll-back"] = "stop"
    """What becomes of an update whose loss or gradient is no number. stop: the training ends. skip: the update
    is not made. roll-back: the training goes on from the newest checkpoint before it, and leaves out that
    update and the one before, which may have led to it; where the next one breaks too, one more on either side.
    More than six in a row end it in any case."""
    profile: int | None = None
    """Trace so many updates with torch's profiler: each worker's trace and summary are left in OUT/profile and
    MLflow. None: no trace."""
    cached_batch: bool = False
    """Train on the first batch over and over: its images/s are those of a loader without cost. The net is worth
    nothing."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a trained net, besides the data and the seed."""

    model: Model = field(default_factory=Model)
    input: Input = field(default_factory=Input)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    train: Train = field(default_factory=Train)

    def architecture(self, classes: int) -> Architecture:
        """The net for data of this many classes. UserError if the recipe has another number."""
        if self.model.classes not in (None, classes):
            raise UserError(
                f"the recipe has {self.model.classes} classes, the data {classes}: "
                f"pass --model.classes {classes} (the run is then tracked as a changed recipe)"
            )
        model = self.model
        return Architecture(model.configuration, classes, model.side, model.width, model.boxes)

    def total_steps(self, images: int) -> int:
        """Updates of the whole training on this many training images."""
        if self.train.steps is not None:
            return self.train.steps
        return -int(-(self.train.epochs * images) // self.train.batch)
