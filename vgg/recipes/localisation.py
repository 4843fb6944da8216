"""The paper's box nets (appendix A), whose last layer starts at random, and one for any net, which starts at
the mean box (docs/decisions/localisation.md)."""

from collections.abc import Iterator

from vgg.net.architecture import Boxes
from vgg.recipes.schema import Input, Model, Optim, Recipe, Schedule, Train

TUNED = Train(epochs=20.0)
"""The paper does not say how long a box net is trained: as long as our other fine-tunings."""


def localisation_recipes() -> Iterator[tuple[str, str, Recipe]]:
    """Name, expected result and recipe of each: lr 1e-3, no scale jitter, the last layer from scratch."""
    true_class = "expected error with the true class on the centre crop (paper, table 8)"
    for scale, suffix, boxes, freeze, expected in [
        (256, "", "per-class", None, "expected top-5 localisation error, dense (paper, table 9): 29.5 %"),
        (384, "", "per-class", None, f"{true_class}: 33.1 %; top-5, dense 28.2 %"),
        (384, "-fc", "per-class", "convolutions", f"{true_class}: 34.3 %"),
        (384, "-single-fc", "single", "convolutions", f"{true_class}: 36.4 %"),
    ]:
        start = "paper-d" if scale == 256 else f"paper-d-{scale}"
        kind: Boxes = boxes  # type: ignore[assignment]  # a Literal
        recipe = Recipe(
            model=Model(classes=1000, boxes=kind, freeze=freeze, initialisation="checkpoint"),
            input=Input(min_scale=scale, max_scale=scale, test_scale=scale),
            optim=Optim(lr=1e-3),
            train=TUNED,
        )
        name = f"paper-d-boxes-{scale}{suffix}"
        yield name, f"S = {scale} from --model.start-from {start}; {expected}", recipe


BOXES = Recipe(
    model=Model(boxes="per-class", box_start="mean", take_architecture=True),
    optim=Optim(lr=1e-3),
    schedule=Schedule(patience=5),
    train=TUNED,
)
"""From any classifier, at its own configuration and side."""
