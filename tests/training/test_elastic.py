"""Workers are lost and come back while a training goes on: nothing of it changes."""

from dataclasses import replace

from cluster.layout import Layout
from cluster.stop_request import Asked
from tests.processes import job
from tests.training.test_stopping import OnlyRank, looking_each_step
from vgg.recipes.registry import RECIPES

RECIPE = RECIPES["digits"][1]
STEPS = 10
SHORT = replace(RECIPE, train=replace(RECIPE.train, steps=STEPS, checkpoint_steps=3))
RANGE = Layout(workers=4, fewest_workers=3)


def test_four_three_and_four_workers_end_with_the_bytes_of_one(workers, digits, tmp_path):
    """The first four move at step 2, as they are about to be fewer; the three at step 6, as there is room."""
    undisturbed = workers.run(1, job(digits, tmp_path / "undisturbed", SHORT)).result
    training = job(digits, tmp_path / "elastic", SHORT, layout=RANGE)
    for world, look in ((4, 3), (3, 5)):
        outcome = workers.run(world, training, looking_each_step, OnlyRank(world - 1, look, Asked.MOVE))
        assert outcome.moves, outcome.problem
    found = workers.run(4, training).result
    assert found["resumed_from"] == [2, 6]
    assert found["losses"] == undisturbed["losses"]
    assert found["weights_sha256"] == undisturbed["weights_sha256"]
