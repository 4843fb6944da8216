"""The schedule as a table: accuracies in, learning rates out."""

import pytest

from vgg.recipes.schema import Schedule
from vgg.training.schedule import PlateauState, learning_rate, should_stop_early, update_plateau


def run(schedule, accuracies):
    """(rate in force after each validation, whether training ends there)."""
    state, rows = PlateauState(), []
    for accuracy in accuracies:
        state = update_plateau(state, accuracy, schedule)
        rows.append((learning_rate(0.01, state, schedule), should_stop_early(state, schedule)))
    return rows


@pytest.mark.parametrize(
    ("schedule", "accuracies", "rates"),
    [
        # Improving: the rate stays.
        (Schedule(patience=2), [0.1, 0.2, 0.3], [0.01, 0.01, 0.01]),
        # Two stale validations: one drop; the count starts again after it.
        (Schedule(patience=2), [0.5, 0.5, 0.5, 0.5], [0.01, 0.01, 1e-3, 1e-3]),
        # A gain below min_improvement is no improvement.
        (Schedule(patience=1, min_improvement=0.01), [0.5, 0.505, 0.52], [0.01, 1e-3, 1e-3]),
        # Small gains add up against the best, not against the last.
        (Schedule(patience=3, min_improvement=0.01), [0.5, 0.506, 0.512, 0.518], [0.01] * 4),
        # At most max_drops drops.
        (
            Schedule(patience=1, max_drops=2),
            [0.5, 0.4, 0.4, 0.4, 0.4],
            [0.01, 1e-3, 1e-4, 1e-4, 1e-4],
        ),
        # The paper's three drops end at 1e-5.
        (Schedule(patience=1), [0.5, 0.1, 0.1, 0.1, 0.1], [0.01, 1e-3, 1e-4, 1e-5, 1e-5]),
        # The factor is free.
        (Schedule(patience=1, factor=2), [0.5, 0.1], [0.01, 0.005]),
    ],
)
def test_rates(schedule, accuracies, rates):
    assert [rate for rate, _ in run(schedule, accuracies)] == pytest.approx(rates)


def test_early_stop_counts_over_drops():
    rows = run(Schedule(patience=2, early_stop=4), [0.5, 0.5, 0.5, 0.5, 0.5, 0.6])
    assert [stop for _, stop in rows] == [False, False, False, False, True, False]


def test_never_stops_without_early_stop():
    assert not any(stop for _, stop in run(Schedule(), [0.5] + [0.1] * 50))
