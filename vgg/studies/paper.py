"""The paper's study: A first, its layers into B to E, S = 256 into 384 into jitter, protocols, fusions."""

from vgg.recipes.registry import RECIPES
from vgg.studies.graph import Evaluation, Fusion, Step, Study, Training

_SEVEN = ("c", "c-384", "d", "d-384", "d-jitter", "e", "e-384")


def paper_study() -> Study:
    """Sections 3 and 4, tables 3 to 7."""
    trainings = [_training("a", "paper-a-normal"), _training("a-lrn", "paper-a-lrn")]
    trainings.append(_training("b-5x5", "paper-b-5x5"))
    trainings += [_training(letter, f"paper-{letter}-from-a", "a") for letter in "bcde"]
    for letter in "cde":
        trainings.append(_training(f"{letter}-384", f"paper-{letter}-384", letter))
        trainings.append(_training(f"{letter}-jitter", f"paper-{letter}-jitter", f"{letter}-384"))
    tests: list[Step] = [_test(each.name) for each in trainings]
    two = ("test-d-jitter", "test-e-jitter")
    fusions = [
        Fusion("fuse-seven-dense", tuple(f"test-{name}" for name in _SEVEN), "dense", "several"),
        Fusion("fuse-two-dense", two, "dense", "several"),
        Fusion("fuse-two-multi-crop", two, "multi-crop", "several"),
        Fusion("fuse-two-both", two, "both", "several"),
    ]
    return Study("paper", "The paper's study on ILSVRC-2012", "ILSVRC-2012", (*trainings, *tests, *fusions))


def _training(name: str, recipe: str, start: str | None = None) -> Training:
    return Training(name, recipe, RECIPES[recipe][1], start)


def _test(training: str) -> Evaluation:
    # Table 5 asks for multi-crop of the jittered nets alone, which costs 25 times a dense pass.
    if training in ("d-jitter", "e-jitter"):
        return Evaluation(f"test-{training}", training, ("dense", "multi-crop", "both"))
    if training in ("b", "b-5x5"):  # compared on a centre crop (section 4.1)
        return Evaluation(f"test-{training}", training, ("single-crop", "dense"))
    return Evaluation(f"test-{training}", training, ("dense",))
