"""A small net on the embedded handwritten digits, for two cores and two minutes.

In fp32, so that it ends alike on CPUs with and without instructions for bf16.
"""

from vgg.recipes.schema import Input, Model, Optim, Recipe, Schedule, Train

DIGITS = Recipe(
    model=Model(configuration="A", side=32, width=0.25),
    input=Input(min_scale=32, max_scale=36, test_scale=32, mirror=False, colour_std=0.0),
    optim=Optim(lr=0.01),
    schedule=Schedule(patience_steps=0),  # the loss leaves ln 10 within the first pass, six updates
    train=Train(epochs=30.0, precision="fp32", checkpoint_steps=50, log_steps=5),
)
