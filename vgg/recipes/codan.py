"""CODaN: ten classes by day, tested by day and by night (Lengyel et al., arXiv:2108.05137)."""

from vgg.recipes.schema import Input, Model, Recipe, Train

CODAN = Recipe(
    model=Model(configuration="A", classes=10),
    input=Input(min_scale=256, max_scale=288, test_scale=256),
    train=Train(epochs=60.0, checkpoint_steps=200),
)
