"""Somebody's own photographs: a few hundred to a few thousand, on two cores, in minutes."""

from vgg.recipes.schema import Input, Model, Optim, Recipe, Schedule, Train

# Adam and small batches leave the plateau at ln K soon. Validations and patience are counted in updates, since
# a pass over so few images takes three of them.
PHOTOS = Recipe(
    model=Model(configuration="A", side=64, width=0.5),
    input=Input(min_scale=64, max_scale=80, test_scale=72),
    optim=Optim(name="adam", lr=3e-4),
    schedule=Schedule(patience=4, patience_steps=100, factor=3.0, min_improvement=0.005),
    train=Train(batch=64, steps=600, validation_steps=25, checkpoint_steps=200, log_steps=25),
)

# A published or an own net: its last layer anew, the others as they are, so that a step needs no backward pass
# through them.
FINE_TUNE = Recipe(
    model=Model(configuration="D", initialisation="checkpoint", take_architecture=True, freeze="all-but-last"),
    input=Input(min_scale=256, max_scale=288, test_scale=256),
    optim=Optim(lr=0.01),
    schedule=Schedule(patience=4, patience_steps=50, min_improvement=0.005),
    train=Train(batch=32, steps=150, validation_steps=25, checkpoint_steps=75, log_steps=10),
)
