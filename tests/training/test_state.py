"""When a training says how far it is."""

import math

import pytest
import torch

from cluster.agreement import Agreement
from cluster.layout import Worker
from vgg.recipes.schema import Train
from vgg.training.pace import Pace
from vgg.training.state import next_told


@pytest.mark.parametrize(
    ("step", "log_steps", "seconds_per_step", "told"),
    [
        (1, 20, 0.1, 20),
        (20, 20, 0.1, 40),
        (25, 20, 0.1, 40),  # after a checkpoint between them
        (1, 20, 30.0, 3),  # a minute takes two steps
        (20, 20, 90.0, 21),  # a step takes longer than a minute
        (7, 1, 0.0, 8),
    ],
)
def test_progress_is_told_every_log_steps_or_every_minute(step, log_steps, seconds_per_step, told):
    assert next_told(step, log_steps, seconds_per_step) == told


@pytest.mark.parametrize(
    ("limit_seconds", "seconds_per_step", "steps"),
    [(60.0, 2.0, 30), (60.0, 100.0, 1), (0.001, 2.0, 1), (None, 2.0, math.inf)],
)
def test_checkpoints_by_the_clock(limit_seconds, seconds_per_step, steps):
    """A window longer than the interval ends in the next step."""
    alone = Agreement(Worker(0, 1, 0, torch.device("cpu"), 1))
    pace = Pace(Train(checkpoint_seconds=limit_seconds), alone, 7)
    assert pace.save_at == math.inf
    pace.renew(8, seconds_per_step, saves=True)
    assert pace.save_at == 8 + steps
