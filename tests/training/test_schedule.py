"""The schedule as a table: accuracies in, learning rates out."""

from dataclasses import replace

import pytest

from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Schedule
from vgg.training.schedule import PlateauState, learning_rate, should_stop_early, update_plateau


def run(schedule, accuracies, steps=1000, losses=None):
    """(rate in force after each validation, whether training ends there); so many updates between two."""
    state, rows = PlateauState(), []
    for number, accuracy in enumerate(accuracies, start=1):
        loss = 1.0 if losses is None else losses[number - 1]
        state = update_plateau(state, accuracy, loss, number * steps, schedule)
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


class TestFloor:
    """A patience in updates: so many since the last improvement or drop, whatever the passes."""

    @pytest.mark.parametrize(
        ("steps", "at"),
        [
            # 5,000 images: three passes are 60 updates, and the 500th since the first comes after 26.
            (20, [26, 51, 76]),
            # 50,000: three passes are 585 updates, beyond the floor.
            (195, [4, 7, 10]),
            # The validation at which it is reached counts.
            (500, [4, 7, 10]),
            (167, [4, 7, 10]),
            (166, [5, 9, 13]),
        ],
    )
    def test_validations_at_which_the_rate_drops(self, steps, at):
        rates = [rate for rate, _ in run(Schedule(), [0.1] * 100, steps)]
        drops = [i for i in range(2, 101) if rates[i - 1] < rates[i - 2]]
        assert drops == at

    def test_an_improvement_starts_the_count_anew(self):
        accuracies = [0.1] * 20 + [0.2] + [0.1] * 40
        rates = [rate for rate, _ in run(Schedule(), accuracies, 20)]
        assert rates.index(1e-3) == 20 + 25

    @pytest.mark.parametrize("recipe", [recipe for name, (_, recipe) in RECIPES.items() if "paper" in name])
    def test_is_without_effect_at_imagenets_size(self, recipe):
        """A pass over 1,281,167 images at 256 a step is 5,004 updates, the last one cut."""
        accuracies = [0.3, 0.3, 0.4, *[0.4] * 40]
        unlimited = replace(recipe.schedule, patience_steps=0)
        assert run(recipe.schedule, accuracies, 5004) == run(unlimited, accuracies, 5004)
        assert run(recipe.schedule, accuracies, 20) != run(unlimited, accuracies, 20)


def test_early_stop_counts_over_drops():
    rows = run(Schedule(patience=2, early_stop=4), [0.5, 0.5, 0.5, 0.5, 0.5, 0.6])
    assert [stop for _, stop in rows] == [False, False, False, False, True, False]


def test_early_stop_on_loss():
    """Any fall counts, and accuracy does not."""
    losses = [2.0, 1.5, 1.4999, 1.6, 1.5, 1.4, 1.4, 1.5]
    on_loss = run(Schedule(early_stop=2, early_stop_on="loss"), [0.1] * 8, losses=losses)
    assert [stop for _, stop in on_loss] == [False] * 4 + [True, False, False, True]
    on_accuracy = run(Schedule(early_stop=2), [0.1] * 8, losses=losses)
    assert [stop for _, stop in on_accuracy] == [False] * 2 + [True] * 6


def test_never_stops_without_early_stop():
    assert not any(stop for _, stop in run(Schedule(), [0.5] + [0.1] * 50))
