"""A training is a function of recipe, data and seed: not of workers, micro-batches or interruptions."""

import json
from dataclasses import replace

import pytest
import torch

from cluster.layout import Layout
from pipelines.pack import pack
from pipelines.packing.options import PackOptions
from tests.processes import job, with_processor
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Schedule

RECIPE = RECIPES["digits"][1]
# Under DDP the sum over workers has another order for each number of them; at the recipe's own rate and width
# that rounding grows within a few steps, as a decision of a ReLU or a pooling falls the other way.
CALM = replace(RECIPE, model=replace(RECIPE.model, width=0.125), optim=replace(RECIPE.optim, lr=1e-4))
DDP = Layout(reduce="ddp")


def steps(count, recipe=RECIPE, **changes):
    return replace(recipe, train=replace(recipe.train, steps=count, checkpoint_steps=4, **changes))


@pytest.fixture(scope="module")
def straight(workers, digits, tmp_path_factory):
    """Twenty undisturbed steps of the recipe on one, two and three workers."""
    folder = tmp_path_factory.mktemp("straight")
    return {
        world: workers.run(world, job(digits, folder / str(world), steps(20))).result for world in (1, 2, 3)
    }


@pytest.fixture(scope="module")
def straight_ddp(workers, digits, tmp_path_factory):
    """The same under DDP, in calm waters."""
    folder = tmp_path_factory.mktemp("straight")
    return {
        world: workers.run(world, job(digits, folder / str(world), steps(20, CALM), layout=DDP)).result
        for world in (1, 2, 3)
    }


def test_the_fixed_order_gives_the_very_same_training_on_any_number_of_workers(straight):
    for world in (2, 3):
        assert straight[world]["losses"] == straight[1]["losses"]
        assert straight[world]["weights_sha256"] == straight[1]["weights_sha256"]


def test_losses_under_ddp_do_not_depend_on_the_number_of_workers(straight_ddp):
    """256 over three is 86, 85, 85."""
    losses = {world: found["losses"] for world, found in straight_ddp.items()}
    assert {len(each) for each in losses.values()} == {20}
    for world in (2, 3):
        assert losses[world][:10] == pytest.approx(losses[1][:10], rel=1e-6)
        # On some processors a rounding turns a ReLU or a maximum over by the sixteenth step.
        assert losses[world] == pytest.approx(losses[1], rel=1e-4)


def test_both_orders_compute_the_same(workers, digits, straight_ddp, tmp_path):
    found = workers.run(3, job(digits, tmp_path, steps(20, CALM))).result
    assert found["losses"] == pytest.approx(straight_ddp[1]["losses"], rel=1e-5)
    assert found["losses"] != straight_ddp[3]["losses"]


def test_losses_fall(straight):
    assert straight[1]["losses"][-1] < straight[1]["losses"][0]


def test_every_validation_image_is_counted_once(straight):
    for found in straight.values():
        assert {v["seen"] for v in found["validations"]} == {364}
        assert found["validations"][-1]["top1"] * 364 == pytest.approx(
            round(found["validations"][-1]["top1"] * 364)
        )


def test_where_there_is_a_holdout_val_is_not_even_read(workers, tmp_path):
    data = tmp_path / "data"
    pack(PackOptions("digits", data, workers=1, holdout_share=0.2))
    for file in data.glob("val*"):
        file.unlink()
    found = workers.run(2, job(data, tmp_path / "out", steps(6))).result
    (seen,) = {v["seen"] for v in found["validations"]}
    assert seen == pytest.approx(0.2 * 1433, abs=5), "a fifth of each of ten classes, rounded"
    assert found["data"]["validated_on"] == "holdout"


@pytest.mark.parametrize("reduce", ["fixed-order", "ddp"])
def test_micro_batches_do_not_change_the_losses(workers, digits, straight_ddp, tmp_path, reduce):
    """128 rows of a worker, 50 at a time under DDP (50, 50, 28), 20 at a time of each leaf (20, 12)."""
    layout = Layout(micro_batch=50 if reduce == "ddp" else 20, reduce=reduce)
    found = workers.run(2, job(digits, tmp_path, steps(20, CALM), layout=layout)).result
    assert found["losses"] == pytest.approx(straight_ddp[1]["losses"], rel=1e-5)


@pytest.mark.parametrize(("world", "stops"), [(1, 7), (2, 11), (3, 6)])
def test_resumed_is_bit_for_bit_the_undisturbed_training(workers, digits, straight, tmp_path, world, stops):
    """Epochs end at steps 6, 12 and 17, checkpoints also lie at 4, 8 and 16: these stops are on it or not."""
    workers.run(world, job(digits, tmp_path, steps(stops)))
    found = workers.run(world, job(digits, tmp_path, steps(20))).result
    assert found["resumed_from"] == [stops]
    assert found["losses"] == straight[world]["losses"]
    assert found["weights_sha256"] == straight[world]["weights_sha256"]


def test_resumed_under_ddp(workers, digits, straight_ddp, tmp_path):
    """On three workers a ring's order depends on DDP's buckets, which it regroups after its first step."""
    workers.run(3, job(digits, tmp_path, steps(9, CALM), layout=DDP))
    found = workers.run(3, job(digits, tmp_path, steps(20, CALM), layout=DDP)).result
    assert found["weights_sha256"] == straight_ddp[3]["weights_sha256"]


def test_resumed_on_another_number_of_workers(workers, digits, straight, tmp_path):
    """Losing a worker and winning two changes nothing."""
    workers.run(2, job(digits, tmp_path, steps(5)))
    workers.run(1, job(digits, tmp_path, steps(9)))
    found = workers.run(3, job(digits, tmp_path, steps(20))).result
    assert found["resumed_from"] == [5, 9]
    assert found["weights_sha256"] == straight[1]["weights_sha256"]


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
def test_lower_precision_stays_near(workers, digits, straight_ddp, tmp_path, precision):
    found = workers.run(2, job(digits, tmp_path, steps(5, CALM, precision=precision))).result
    assert found["precision"] == precision
    assert found["losses"] == pytest.approx(straight_ddp[1]["losses"][:5], rel=0.02)


def of_two_kinds(rank):
    """Nodes of which only the first multiplies bf16."""
    return with_processor(*("avx512_bf16",) * (rank == 0))


def all_multiply_bf16(rank):
    return with_processor("amx_bf16")


def test_nodes_of_two_kinds_train_in_fp32(workers, digits, straight, tmp_path):
    found = workers.run(2, job(digits, tmp_path, steps(3, precision="auto")), of_two_kinds).result
    assert found["precision"] == "fp32"
    assert found["losses"] == straight[1]["losses"][:3]


def test_the_fixed_order_holds_in_bf16(workers, digits, tmp_path):
    recipe = steps(4, precision="auto")
    found = {
        world: workers.run(world, job(digits, tmp_path / str(world), recipe), all_multiply_bf16).result
        for world in (1, 2, 3)
    }
    assert {each["precision"] for each in found.values()} == {"bf16"}
    assert found[1]["weights_sha256"] == found[2]["weights_sha256"] == found[3]["weights_sha256"]


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
    again = workers.run(1, job(digits, tmp_path, recipe)).result
    assert again["weights_sha256"] == found["weights_sha256"], "it had ended"


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
    assert found["data"]["validated_on"] == "val"
    assert sum(shard["rows"] for shard in manifest["splits"]["val"]["shards"]) == 364
    assert 0 <= found["data_wait_share"] < 1
    assert found["images_per_s"] > 0
    assert torch.tensor(found["losses"]).isfinite().all()
