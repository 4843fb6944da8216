"""Which values of a recipe are valid, alone and with each other."""

from math import isfinite

from cli.errors import UserError, require
from vgg.net.architecture import Architecture
from vgg.recipes.schema import FROM_SHALLOWER, Input, Model, Optim, Recipe, Schedule, Train

MAX_STEPS = 99_999_999  # of a training: names of checkpoints have eight digits
MAX_SIDE = 4096  # of a crop or a rescaled image, in pixels


def check_recipe(recipe: Recipe) -> None:
    """UserError naming the first flag whose value is invalid, alone or with the others."""
    _check_model(recipe.model)
    _check_input(recipe.input, recipe.model.side)
    _check_optimizer(recipe.optim, recipe.schedule)
    _check_length(recipe.train)


def check_steps(steps: int) -> None:
    """UserError where a training would be longer than checkpoints can be numbered."""
    require(steps <= MAX_STEPS, "--train.epochs", f"so few that they are at most {MAX_STEPS:,} steps")


def _check_model(model: Model) -> None:
    Architecture(model.configuration, 1 if model.classes is None else model.classes, model.side, model.width)
    require(model.side <= MAX_SIDE, "--model.side", f"at most {MAX_SIDE}")
    require(0 <= model.dropout <= 0.99, "--model.dropout", "a probability of at most 0.99")
    needs_start = model.initialisation in ("checkpoint", *FROM_SHALLOWER)
    if needs_start and model.start_from is None:
        raise UserError(
            f"--model.start-from is missing: the trained net to start from, a run's folder for one "
            f"(--model.initialisation {model.initialisation}; glorot starts without one, from random weights)"
        )
    if model.start_from is not None and not needs_start and model.initialisation != "glorot":
        raise UserError(
            f"--model.start-from with --model.initialisation {model.initialisation}: choose checkpoint (every "
            "layer) or shallower (paper, section 3.1)"
        )
    if model.boxes is not None and (model.start_from is None or model.initialisation in FROM_SHALLOWER):
        raise UserError(
            "--model.boxes needs --model.start-from, a trained classifier whose layers but the last it takes: "
            "python -m vgg.localise train"
        )
    of_boxes = model.box_start == "random" or model.boxes is not None
    require(of_boxes, "--model.box-start mean", "used with --model.boxes")
    for flag, used in (("freeze", model.freeze is not None), ("take-architecture", model.take_architecture)):
        require(not used or model.start_from is not None, f"--model.{flag}", "used with --model.start-from")


def _check_input(crop: Input, side: int) -> None:
    require(crop.min_scale >= side, "--input.min-scale", f"at least the crop, {side}")
    require(crop.max_scale >= crop.min_scale, "--input.max-scale", "at least --input.min-scale")
    require(crop.max_scale <= MAX_SIDE, "--input.max-scale", f"at most {MAX_SIDE}")
    require(side <= crop.test_scale <= MAX_SIDE, "--input.test-scale", f"from {side} to {MAX_SIDE}")
    require(0 <= crop.colour_std <= 100, "--input.colour-std", "from 0 to 100")


def _check_optimizer(optim: Optim, schedule: Schedule) -> None:
    require(optim.lr > 0 and isfinite(optim.lr), "--optim.lr", "positive and finite")
    require(0 <= optim.momentum < 1, "--optim.momentum", "in [0, 1)")
    decays = optim.weight_decay >= 0 and isfinite(optim.weight_decay)
    require(decays, "--optim.weight-decay", "not negative, and finite")
    factor = optim.body_lr_factor
    slower = factor > 0 and isfinite(factor)
    require(slower, "--optim.body-lr-factor", "positive and finite (--model.freeze holds layers fixed)")
    require(1 < schedule.factor <= 1e6, "--schedule.factor", "greater than 1, and at most a million")
    require(schedule.patience >= 1, "--schedule.patience", "at least 1")
    floor = 0 <= schedule.patience_steps <= MAX_STEPS
    require(floor, "--schedule.patience-steps", f"from 0 to {MAX_STEPS:,}")
    require(0 <= schedule.max_drops <= 20, "--schedule.max-drops", "from 0 to 20")
    require(0 <= schedule.min_improvement <= 1, "--schedule.min-improvement", "a fraction from 0 to 1")
    stops = schedule.early_stop is None or schedule.early_stop >= 1
    require(stops, "--schedule.early-stop", "at least 1")


def _check_length(train: Train) -> None:
    require(1 <= train.batch <= 2**20, "--train.batch", f"from 1 to {2**20:,}")
    require(0 < train.epochs <= 1e6, "--train.epochs", "positive, and at most a million")
    limited = train.steps is None or 1 <= train.steps <= MAX_STEPS
    require(limited, "--train.steps", f"at least 1, and at most {MAX_STEPS:,}")
    apart = 1 <= train.validation_steps <= MAX_STEPS
    require(apart, "--train.validation-steps", f"at least 1, and at most {MAX_STEPS:,}")
    require(train.checkpoint_steps >= 1, "--train.checkpoint-steps", "at least 1")
    if (seconds := train.checkpoint_seconds) is not None:
        require(seconds > 0, "--train.checkpoint-seconds", "more than 0")
    require(train.keep_epochs is None or train.keep_epochs >= 1, "--train.keep-epochs", "at least 1")
    require(train.profile is None or 1 <= train.profile <= 1000, "--train.profile", "from 1 to 1,000")
    require(train.log_steps >= 1, "--train.log-steps", "at least 1")
