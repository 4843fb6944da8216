"""A study of two tiny nets for the tests; run as a program, by `python -m tests.studies.small OUT DATA`."""

import sys
from dataclasses import replace

from cluster.layout import Layout
from vgg.recipes.schema import Recipe, Train
from vgg.studies.digits import BASE
from vgg.studies.graph import Evaluation, Fusion, Study, Training
from vgg.study import StudyOptions, run_study

STEPS = 6


def recipe(lr: float = 1e-3, configuration: str = "A") -> Recipe:
    """A net of eight channels, trained for six updates."""
    return replace(
        BASE,
        model=replace(BASE.model, configuration=configuration, width=0.02),  # type: ignore[arg-type]
        optim=replace(BASE.optim, lr=lr),
        train=Train(
            precision="fp32", batch=16, steps=STEPS, checkpoint_steps=2, log_steps=1, validation_steps=STEPS
        ),
    )


def small_study(*, with_bad: bool = False) -> Study:
    """Two trainings, of which the second starts from the first, their tests, and a fusion.

    `with_bad`: and a training that diverges, with its test.
    """
    start = recipe()
    on = replace(start, model=replace(start.model, initialisation="checkpoint"))
    bad = (
        Training("bad", "digits", recipe(lr=1e30)),
        Evaluation("test-bad", "bad", ("single-crop",), ("single",)),
    )
    return Study(
        "digits",
        "Two tiny nets",
        "digits",
        (
            *(bad if with_bad else ()),
            Training("first", "digits", start),
            Training("second", "digits", on, "first"),
            Evaluation("test-first", "first", ("single-crop", "dense"), ("single",)),
            Evaluation("test-second", "second", ("single-crop", "dense"), ("single",)),
            Fusion("fuse", ("test-first", "test-second"), "dense", "single"),
        ),
    )


def options(out_folder: object, packed: object, **more: object) -> StudyOptions:
    """Two seeds on one core a step."""
    base = StudyOptions(
        "digits", str(out_folder), str(packed), seeds=2, layout=Layout(device="cpu", max_failures=0)
    )
    return replace(base, **more)  # type: ignore[arg-type]


if __name__ == "__main__":
    run_study(small_study(), options(*sys.argv[1:]))
