"""All recipes by name."""

from vgg.net.architecture import parameter_count, training_flops
from vgg.recipes.codan import CODAN
from vgg.recipes.digits import DIGITS
from vgg.recipes.localisation import BOXES, localisation_recipes
from vgg.recipes.paper import paper_recipes
from vgg.recipes.photos import FINE_TUNE, PHOTOS
from vgg.recipes.schema import Recipe
from vgg.recipes.tiny_imagenet import tiny_imagenet_recipes

Recipes = dict[str, tuple[str, Recipe]]
"""Name -> its text in `--help` (command, cost, expected result), and the recipe."""

ILSVRC_BOXED = 544_546
"""Training images of ILSVRC-2012 with boxes, as its development kit counts them."""


def _describe(command: str, recipe: Recipe, images: int, classes: int, expected: str) -> str:
    architecture = recipe.architecture(classes)
    flop = training_flops(architecture) * recipe.total_steps(images) * recipe.train.batch
    verb = "train" if recipe.model.boxes is None else "localise train"
    return (
        f"python -m vgg.{verb} {command}: {parameter_count(architecture) / 1e6:.1f} M parameters, "
        f"{recipe.total_steps(images):,} steps, {flop:.1e} FLOP; {expected}"
    )


_LISTED = [
    *((*entry, 1_281_167, 1000) for entry in paper_recipes()),
    *((*entry, 100_000, 200) for entry in tiny_imagenet_recipes()),
    ("codan", "test with vgg.evaluate --split test_day test_night", CODAN, 10_000, 10),
    ("photos", "for a folder of your own photographs, at 64x64", PHOTOS, 1000, 10),
    ("fine-tune", "from --model.start-from a net, for your own photographs", FINE_TUNE, 1000, 10),
    *((*entry, ILSVRC_BOXED, 1000) for entry in localisation_recipes()),
    ("boxes", "box net from --model.start-from any classifier", BOXES, 1000, 10),
    ("digits", "at least 97 % top-1 accuracy in two minutes on two cores", DIGITS, 1437, 10),
]


RECIPES: Recipes = {
    name: (_describe(name, recipe, images, classes, expected), recipe)
    for name, expected, recipe, images, classes in _LISTED
}
"""All."""

CLASSIFIERS: Recipes = {name: entry for name, entry in RECIPES.items() if entry[1].model.boxes is None}
"""Those of `python -m vgg.train`."""

BOX_NETS: Recipes = {name: entry for name, entry in RECIPES.items() if name not in CLASSIFIERS}
"""Those of `python -m vgg.localise train`."""
