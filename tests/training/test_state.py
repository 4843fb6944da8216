"""When a training says how far it is."""

import pytest

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
