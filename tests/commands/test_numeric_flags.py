"""Every number that a flag takes: a training that can be computed, or one line that names the flag."""

from dataclasses import fields, is_dataclass, replace
from math import isfinite
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cli.errors import UserError
from cluster.layout import Layout
from cluster.parallel.choose import check_layout
from pipelines.shards.manifest import read_manifest
from vgg.evaluate import EvaluateOptions, check_options
from vgg.net.architecture import Architecture, training_flops
from vgg.recipes.check import MAX_SIDE, check_recipe
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Input
from vgg.testing.protocols import grid_corners
from vgg.testing.scales import requested_scales
from vgg.training.dropout import dropout_masks
from vgg.training.plan import TrainingPlan
from vgg.training.schedule import PlateauState, learning_rate
from vgg.weights.trained_net import TrainedNet

RECIPE = RECIPES["digits"][1]
NUMBERS = {
    int: st.one_of(st.integers(-3, 3), st.integers(), st.sampled_from([2**31, 2**63, 10**30])),
    float: st.one_of(st.floats(), st.sampled_from([0.999, 1 - 1e-9, 1e308, 5e-324])),
}


def numeric_fields(owner):
    """(name of the part, field, kind of number) of every numeric setting below a dataclass."""
    hints = get_type_hints(owner)
    for field in fields(owner):
        hint = hints[field.name]
        kinds = [kind for kind in (hint, *get_args(hint)) if kind in NUMBERS]
        if is_dataclass(hint):
            yield from ((field.name, name, kind) for _, name, kind in numeric_fields(hint))
        elif kinds and get_origin(hint) is not Literal:
            yield "", field.name, kinds[0]


def problem_of(action):
    """What the user is told; None where all is well. Any other error is a bug."""
    try:
        action()
    except UserError as error:
        return str(error)
    return None


def compute(recipe, manifest):
    """What follows from the numbers before and during a training."""
    check_recipe(recipe)
    plan = TrainingPlan.resolve("digits", recipe, 0, "data", manifest)
    assert 1 <= plan.total_steps < 10**8
    assert training_flops(plan.architecture) > 0
    least = PlateauState(drops=recipe.schedule.max_drops)
    assert isfinite(learning_rate(recipe.optim.lr, least, recipe.schedule))
    (mask,) = dropout_masks(
        0, 0, range(2), [32], recipe.model.dropout, device=torch.device("cpu"), dtype=torch.float32
    )
    assert mask.isfinite().all()


@pytest.mark.parametrize(("part", "name", "kind"), list(numeric_fields(type(RECIPE))))
def test_a_number_of_the_recipe(digits, part, name, kind):
    manifest = read_manifest(digits)

    @given(NUMBERS[kind])
    def check(number):
        recipe = replace(RECIPE, **{part: replace(getattr(RECIPE, part), **{name: number})})
        flag = f"--{part}.{name.replace('_', '-')}"
        also = {"--model.side": "--input.", "--input.min-scale": "--input.max-scale"}.get(flag, flag)
        problem = problem_of(lambda: compute(recipe, manifest))
        assert problem is None or flag in problem or also in problem

    check()


@pytest.mark.parametrize(("part", "name", "kind"), list(numeric_fields(Layout)))
def test_a_number_of_the_layout(part, name, kind):
    @given(NUMBERS[kind])
    def check(number):
        problem = problem_of(lambda: check_layout(replace(Layout(), **{name: number}), 256))
        if problem is None:
            assert isfinite(number)
            assert number >= 0
        else:
            assert f"--layout.{name.replace('_', '-')}" in problem

    check()


@pytest.mark.parametrize(("part", "name", "kind"), list(numeric_fields(EvaluateOptions)))
def test_a_number_of_an_evaluation(part, name, kind):
    @given(NUMBERS[kind])
    def check(number):
        options = EvaluateOptions(("net",), "data")
        if part == "layout":
            options = replace(options, layout=replace(options.layout, **{name: number}))
        else:
            options = replace(options, **{name: number})
        problem = problem_of(lambda: check_options(options))
        if problem is None:
            assert isfinite(number)
            corners = grid_corners(300, 400, 224, options.grid)
            assert all(0 <= top <= 76 and 0 <= left <= 176 for top, left in corners)
        else:
            assert f"--{'layout.' if part else ''}{name.replace('_', '-')}" in problem

    check()


NET = TrainedNet(
    "net", Architecture("D", 7, 64, 0.125), {}, "sha", (0.0, 0.0, 0.0), Input(64, 80, 64), "recipe", None
)


LISTS = st.lists(st.integers(-9, 5000)).map(lambda scales: ",".join(map(str, scales)))


@given(st.one_of(st.text(), st.integers().map(str), LISTS))
def test_any_value_of_scales(value):
    scales: list[tuple[int, ...]] = []
    problem = problem_of(lambda: scales.append(requested_scales(value, NET)))
    if problem is not None:
        assert problem.startswith("--scales ")
    else:
        assert 64 <= min(scales[0]) <= max(scales[0]) <= MAX_SIDE
        assert list(scales[0]) == sorted(set(scales[0]))


@pytest.mark.parametrize(
    ("flag", "settings"),
    [
        ("--schedule.early-stop", {"early_stop": 0}),
        ("--schedule.factor", {"factor": float("inf")}),
        ("--schedule.patience", {"patience": 0}),
        ("--schedule.patience-steps", {"patience_steps": -1}),
        ("--schedule.min-improvement", {"min_improvement": float("nan")}),
    ],
)
def test_a_schedule_that_cannot_work(flag, settings):
    with pytest.raises(UserError, match=flag):
        check_recipe(replace(RECIPE, schedule=replace(RECIPE.schedule, **settings)))


def test_dropout_that_leaves_nothing():
    """Masks are resolved to 1/256: from 0.998 on every unit would be dropped and the rest divided by zero."""
    with pytest.raises(UserError, match=r"--model\.dropout"):
        check_recipe(replace(RECIPE, model=replace(RECIPE.model, dropout=0.999)))
