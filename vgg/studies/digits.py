"""The six configurations on the embedded digits, at reduced width: for two cores and twenty minutes."""

from dataclasses import replace

from vgg.recipes.digits import DIGITS
from vgg.recipes.schema import Optim, Recipe, Schedule, Train
from vgg.studies.graph import Evaluation, Fusion, Step, Study, Training
from vgg.testing.protocols import Protocol

PROTOCOLS: tuple[Protocol, ...] = ("single-crop", "dense", "multi-crop", "both")

# At this rate Adam leaves the plateau at ln 10 in so few updates in all six. At 1e-3 E stays there, on both of
# two seeds, and D comes to 95 % on one and 83 % on the other.
BASE = replace(
    DIGITS,
    model=replace(DIGITS.model, width=0.125),
    input=replace(DIGITS.input, mirror=True),  # dense and multi-crop average over mirror images
    optim=Optim(name="adam", lr=3e-4),
    schedule=Schedule(patience_steps=60, max_drops=2),
    train=Train(precision="fp32", batch=64, steps=400, validation_steps=100, checkpoint_steps=25, log_steps=10),
)


def digits_study() -> Study:
    """The six at one scale, B's shallow twin, D and E on with scale jitter, all protocols, two fusions."""
    trainings: list[Training] = []
    for configuration in ("A", "A-LRN", "B", "C", "D", "E", "B-5x5"):
        model = replace(BASE.model, configuration=configuration)
        trainings.append(Training(configuration.lower(), "digits", replace(BASE, model=model)))
    for start in ("d", "e"):
        trainings.append(_jittered(start, next(t.recipe for t in trainings if t.name == start)))
    tests: list[Step] = [Evaluation(f"test-{each.name}", each.name, PROTOCOLS) for each in trainings]
    six = tuple(f"test-{each.name}" for each in trainings[:6])
    fusions = [
        Fusion("fuse-six-dense", six, "dense", "several"),
        Fusion("fuse-d-e-both", ("test-d-jitter", "test-e-jitter"), "both", "several"),
    ]
    return Study("digits", "Six configurations on handwritten digits", "digits", (*trainings, *tests, *fusions))


def _jittered(start: str, recipe: Recipe) -> Training:
    """Trained on from the weights of `start`, with S drawn from a range, as the paper's S in [256; 512]."""
    model = replace(recipe.model, initialisation="checkpoint")
    crop = replace(recipe.input, min_scale=32, max_scale=48, test_scale=40)
    shorter = replace(recipe.train, steps=100, validation_steps=50)
    tuned = replace(recipe, model=model, input=crop, optim=replace(recipe.optim, lr=1e-4), train=shorter)
    return Training(f"{start}-jitter", "digits", tuned, start)
