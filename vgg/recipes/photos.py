"""A net for somebody's own photographs: a few hundred to a few thousand, on two cores, in minutes.

Adam and small batches leave the plateau at ln K soon; validations and patience are counted in updates, since
a pass over so few images takes three of them.
"""

from vgg.recipes.schema import Input, Model, Optim, Recipe, Schedule, Train

PHOTOS = Recipe(
    model=Model(configuration="A", side=64, width=0.5),
    input=Input(min_scale=64, max_scale=80, test_scale=72),
    optim=Optim(name="adam", lr=3e-4),
    schedule=Schedule(patience=4, patience_steps=100, factor=3.0, min_improvement=0.005),
    train=Train(batch=64, steps=600, validation_steps=25, checkpoint_steps=200, log_steps=25),
)
