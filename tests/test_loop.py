"""A training is a function of recipe, data and seed: not of workers, micro-batches or interruptions."""

import json
from dataclasses import replace

import pytest
import torch

from cluster.strategy import Layout
from tests.processes import Workers, job
from vgg.recipe import RECIPES, Schedule

# A narrow net at a small rate: at the recipe's own, a rounding error is amplified within a few steps, as one
# decision of a ReLU or a pooling falls the other way.
DIGITS = RECIPES["digits"][1]
RECIPE = replace(DIGITS, model=replace(DIGITS.model, width=0.125), optim=replace(DIGITS.optim, lr=1e-4))


def steps(count, **changes):
    return replace(RECIPE, train=replace(RECIPE.train, steps=count, checkpoint_steps=4, **changes))


@pytest.fixture(scope="module")
def workers():
    with Workers() as started:
        yield started


@pytest.fixture(scope="module")
def straight(workers, digits, tmp_path_factory):
    """Twenty undisturbed steps on one, two and three workers."""
    folder = tmp_path_factory.mktemp("straight")
    return {
        world: workers.run(world, job(digits, folder / str(world), steps(20))).result for world in (1, 2, 3)
    }


def test_losses_do_not_depend_on_the_number_of_workers(straight):
    """256 over three is 86, 85, 85."""
    losses = {world: found["losses"] for world, found in straight.items()}
    assert {len(each) for each in losses.values()} == {20}
    assert losses[2] == pytest.approx(losses[1], rel=1e-5)
    assert losses[3] == pytest.approx(losses[1], rel=1e-5)


def test_losses_fall(straight):
    assert straight[1]["losses"][-1] < straight[1]["losses"][0]


def test_every_validation_image_is_counted_once(straight):
    for found in straight.values():
        assert {v["seen"] for v in found["validations"]} == {364}
        assert found["validations"][-1]["top1"] * 364 == pytest.approx(
            round(found["validations"][-1]["top1"] * 364)
        )


def test_micro_batches_do_not_change_the_losses(workers, digits, straight, tmp_path):
    """128 rows of a worker, 50 at a time: 50, 50, 28."""
    small = job(digits, tmp_path, steps(20), layout=Layout(micro_batch=50))
    assert workers.run(2, small).result["losses"] == pytest.approx(straight[1]["losses"], rel=1e-5)


@pytest.mark.parametrize(("world", "stops"), [(1, 7), (2, 11), (3, 6)])
def test_resumed_is_bit_for_bit_the_undisturbed_training(workers, digits, straight, tmp_path, world, stops):
    """Epochs end at steps 6, 12 and 17, checkpoints also lie at 4, 8 and 16: these stops are on it or not."""
    workers.run(world, job(digits, tmp_path, steps(stops)))
    found = workers.run(world, job(digits, tmp_path, steps(20))).result
    assert found["resumed_from"] == [stops]
    assert found["losses"] == straight[world]["losses"]
    assert found["weights_sha256"] == straight[world]["weights_sha256"]


def test_resumed_on_another_number_of_workers(workers, digits, straight, tmp_path):
    workers.run(3, job(digits, tmp_path, steps(9)))
    found = workers.run(1, job(digits, tmp_path, steps(20))).result
    assert found["losses"] == pytest.approx(straight[1]["losses"], rel=1e-5)


def test_a_finished_training_ends_at_once(workers, digits, straight, tmp_path):
    first = workers.run(1, job(digits, tmp_path, steps(3))).result
    again = workers.run(1, job(digits, tmp_path, steps(3))).result
    assert again["weights_sha256"] == first["weights_sha256"]
    assert again["losses"] == first["losses"]
    assert len(again["validations"]) == len(first["validations"])


def test_the_seed_matters(workers, digits, straight, tmp_path):
    other = workers.run(1, job(digits, tmp_path, steps(1), seed=1)).result
    assert other["losses"][0] != straight[1]["losses"][0]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_near(workers, digits, straight, tmp_path, precision):
    found = workers.run(2, job(digits, tmp_path, steps(5, precision=precision))).result
    assert found["precision"] == precision
    assert found["losses"] == pytest.approx(straight[1]["losses"][:5], rel=0.02)


def test_a_loss_that_is_no_number_ends_the_training(workers, digits, tmp_path):
    wild = replace(steps(20), optim=replace(RECIPE.optim, lr=1e6))
    outcome = workers.run(2, job(digits, tmp_path, wild))
    assert "lower --optim.lr" in outcome.problem
    assert not outcome.users_mistake
    assert not (tmp_path / "result.json").exists()


def test_early_stopping(workers, digits, tmp_path):
    recipe = replace(
        steps(100), schedule=Schedule(patience=1, early_stop=2, min_improvement=1.0), optim=RECIPE.optim
    )
    found = workers.run(1, job(digits, tmp_path, recipe)).result
    assert [v["step"] for v in found["validations"]] == [6, 12]  # epochs of 1433 images at 256 a step
    assert found["steps"] == 12


def test_one_worker_with_a_problem_stops_all(workers, digits, tmp_path):
    """Only rank 0 verifies the shards of its machine; the others hear of it."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in digits.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    shard = broken / "train-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    outcome = workers.run(3, job(broken, tmp_path / "out", steps(2)))
    assert outcome.users_mistake
    assert str(shard) in outcome.problem
    assert "damaged" in outcome.problem
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_result_is_what_a_program_reads(straight, digits):
    manifest = json.loads((digits / "manifest.json").read_text())
    found = straight[2]
    assert found["recipe"] == "digits"
    assert found["difference"]["train.steps"] == [None, 20]
    assert found["steps"] == 20
    assert sum(shard["rows"] for shard in manifest["splits"]["val"]["shards"]) == 364
    assert 0 <= found["data_wait_share"] < 1
    assert found["images_per_s"] > 0
    assert torch.tensor(found["losses"]).isfinite().all()
