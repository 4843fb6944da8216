"""Trainings that start from a trained net: what they take, what stays, and what is sent."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torchvision
from torch import nn

from cli.errors import UserError
from cluster.layout import Layout, Worker
from cluster.parallel.ddp import _distributed
from cluster.parallel.fixed_order import FixedOrderReducer
from cluster.parallel.gathered import gather_linears
from pipelines.shards.manifest import read_manifest
from tests.processes import job
from vgg.net.architecture import Architecture
from vgg.recipes.fine_tuning import fitted, frozen_layers
from vgg.recipes.registry import RECIPES
from vgg.recipes.schema import Model, Optim
from vgg.training.loop import train
from vgg.training.optimizer import make_optimizer
from vgg.training.plan import TrainingPlan
from vgg.weights.open_net import TORCHVISION_MEAN, open_net
from vgg.weights.retention import open_checkpoint

RECIPE = RECIPES["digits"][1]
ALONE = Worker(0, 1, 0, torch.device("cpu"), 1)
CONVOLUTIONS = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2"]


def recipe(steps=3, start=None, **model):
    changed = replace(RECIPE.model, start_from=None if start is None else str(start), **model)
    return replace(RECIPE, model=changed, train=replace(RECIPE.train, steps=steps))


@pytest.fixture(scope="module")
def parent(digits, tmp_path_factory):
    """A run of two steps."""
    out = tmp_path_factory.mktemp("parent")
    assert train(ALONE, job(digits, out, recipe(2)), lambda _: []).result
    return out


def other_classes(digits, folder):
    """The digits under other names."""
    folder.mkdir()
    for file in digits.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = replace(read_manifest(digits), class_names=tuple("abcdefghij"), mean_rgb=(1.0, 2.0, 3.0))
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """torchvision's net A for crops of 32 pixels and seven classes, at random weights; its file."""
    torch.manual_seed(0)
    features = torchvision.models.vgg11(num_classes=1).features
    net = torchvision.models.VGG(features, num_classes=7)
    net.avgpool = nn.Identity()
    net.classifier[0] = nn.Linear(512, 4096)
    file = tmp_path_factory.mktemp("published") / "vgg11.pth"
    torch.save(net.state_dict(), file)
    return file


class TestNames:
    @pytest.mark.parametrize(
        ("freeze", "expected"),
        [
            (None, []),
            ("convolutions", CONVOLUTIONS),
            ("all-but-last", [*CONVOLUTIONS, "fc6", "fc7"]),
            ("fc7, conv1_1", ["conv1_1", "fc7"]),
        ],
    )
    def test_of_the_frozen_layers(self, freeze, expected):
        assert list(frozen_layers(Model("A", freeze=freeze), Architecture("A"), ["fc8"])) == expected

    def test_a_fresh_layer_must_learn(self):
        with pytest.raises(UserError, match=r"--model\.freeze fc8 would keep the random weights"):
            frozen_layers(Model("A", freeze="fc7,fc8"), Architecture("A"), ["fc8"])


def test_the_architecture_is_taken_with_scales_in_proportion():
    base = RECIPES["fine-tune"][1]
    asked = replace(base, model=replace(base.model, start_from="x"))
    found = fitted(asked, Architecture("A", 10, 64, 0.5), base)
    assert (found.model.configuration, found.model.side, found.model.width) == ("A", 64, 0.5)
    assert (found.input.min_scale, found.input.max_scale, found.input.test_scale) == (73, 82, 73)
    assert fitted(asked, Architecture("D"), base).input == asked.input
    assert fitted(found, Architecture("A", 10, 64, 0.5), base) == found
    given = replace(asked, input=replace(asked.input, max_scale=90))
    assert fitted(given, Architecture("A", 10, 64, 0.5), base).input == replace(found.input, max_scale=90)


@pytest.mark.parametrize(("name", "value"), [("configuration", "B"), ("side", 96), ("width", 0.25)])
def test_a_flag_that_contradicts_the_architecture_that_is_taken(name, value):
    base = RECIPES["fine-tune"][1]
    asked = replace(base, model=replace(base.model, start_from="x", **{name: value}))
    with pytest.raises(UserError, match=rf"--model\.{name} {value}: .*--model\.no-take-architecture"):
        fitted(asked, Architecture("A", 10, 64, 0.5), base)


@pytest.mark.parametrize("reduce", ["fixed-order", "ddp"])
def test_frozen_layers_stay_and_the_others_learn_on_any_number_of_workers(
    workers, digits, parent, tmp_path, reduce
):
    layout = Layout(reduce=reduce)
    asked = recipe(3, parent, freeze="convolutions")
    results = {
        world: workers.run(world, job(digits, tmp_path / str(world), asked, layout=layout)).result
        for world in (1, 2)
    }
    if reduce == "fixed-order":
        assert results[1]["weights_sha256"] == results[2]["weights_sha256"]
    assert results[1]["losses"] == pytest.approx(results[2]["losses"], rel=1e-4)
    assert results[1]["frozen_layers"] == CONVOLUTIONS
    assert results[1]["difference"]["model.freeze"] == [None, "convolutions"]
    before, after = open_checkpoint(str(parent)).model, open_checkpoint(str(tmp_path / "2"))
    for name, value in after.model.items():
        assert torch.equal(value, before[name]) == (name.split(".")[0] in CONVOLUTIONS), name
    # Momentum of fc6, fc7 and fc8 alone: three weights and three biases.
    assert sorted(after.optimizer) == [f"{i}.momentum_buffer" for i in range(6)]


def test_interrupted_and_resumed_with_frozen_layers(workers, digits, parent, tmp_path):
    asked = {steps: recipe(steps, parent, freeze="all-but-last") for steps in (2, 4)}
    workers.run(1, job(digits, tmp_path / "out", asked[2]))
    resumed = workers.run(2, job(digits, tmp_path / "out", asked[4])).result
    straight = workers.run(1, job(digits, tmp_path / "straight", asked[4])).result
    assert resumed["weights_sha256"] == straight["weights_sha256"]
    thawed = workers.run(1, job(digits, tmp_path / "out", recipe(5, parent)))
    assert "model.freeze is all-but-last there, None here" in thawed.problem


class TestBytes:
    """What is sent: the gradients of layers that learn, and nothing else."""

    def net(self):
        net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
        net[0].requires_grad_(False)
        return net

    def test_in_fixed_order(self):
        net, rows = self.net(), torch.ones(8, 8)
        reducer = FixedOrderReducer(net, ALONE, 8, None, gather=False)
        sent = [parameter for bucket in reducer._tree._buckets for parameter in bucket.parameters]
        assert sum(parameter.numel() for parameter in sent) == 4 * 2 + 2
        reducer.backward(lambda part: net(rows[part]).sum(), torch.amp.GradScaler("cpu", enabled=False))
        assert net[0].weight.grad is None
        assert torch.equal(net[1].bias.grad, torch.full((2,), 8.0))

    def test_gathered(self):
        net = self.net()
        layers = gather_linears(net, ALONE, [range(1)])
        assert [(layer.in_features, layer.out_features) for layer in layers] == [(4, 2)]

    def test_by_ddp(self, tmp_path):
        dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
        try:
            sent = _distributed(self.net(), ALONE, torch.ones(1, 8), [])._get_ddp_logging_data()
        finally:
            dist.destroy_process_group()
        assert sent["total_parameter_size_bytes"] == 4 * (4 * 2 + 2)


def test_other_classes_get_a_fresh_last_layer_and_the_net_keeps_its_mean(digits, parent, tmp_path):
    data = other_classes(digits, tmp_path / "data")
    asked = job(data, tmp_path / "out", recipe(1, parent, freeze="all-but-last"))
    before = open_net(str(parent))
    assert asked.plan.fresh == ("fc8",)
    assert asked.plan.mean_rgb == before.mean_rgb == read_manifest(digits).mean_rgb
    result = train(ALONE, asked, lambda _: []).result
    assert result is not None
    assert result["fresh_layers"] == ["fc8"]
    after = open_net(str(tmp_path / "out"))
    assert after.class_names == tuple("abcdefghij")
    assert after.mean_rgb == before.mean_rgb
    same = [name for name, value in after.weights.items() if torch.equal(value, before.weights[name])]
    assert {name.split(".")[0] for name in before.weights} - {name.split(".")[0] for name in same} == {"fc8"}
    assert after.weights["fc8.weight"].std() < 0.2, "drawn by Glorot and Bengio's rule, then one small step"


def test_the_same_classes_keep_the_last_layer(digits, parent, tmp_path):
    assert job(digits, tmp_path, recipe(1, parent)).plan.fresh == ()


class TestPublished:
    """torchvision's weights, whose first convolution has taken in the scale of the pixels."""

    def resolve(self, digits, published, freeze="convolutions"):
        found = RECIPES["fine-tune"][1]
        model = replace(found.model, start_from=str(published), freeze=freeze)
        asked = replace(found, model=model, train=replace(found.train, steps=2))
        return TrainingPlan.resolve("fine-tune", asked, 0, str(digits), read_manifest(digits), open_net)

    def test_trains_on_its_own_mean_with_a_fresh_last_layer(self, digits, published, tmp_path):
        plan = self.resolve(digits, published)
        assert (plan.architecture.configuration, plan.architecture.side) == ("A", 32)
        assert plan.fresh == ("fc8",)
        assert plan.mean_rgb == pytest.approx([255 * mean for mean in TORCHVISION_MEAN])
        (ancestor,) = plan.lineage
        assert (ancestor.recipe, ancestor.seed, ancestor.data) == ("torchvision-a", None, "")
        asked = replace(job(digits, tmp_path), plan=plan)
        result = train(ALONE, asked, lambda _: [], open_net).result
        assert result is not None
        assert np.isfinite(result["losses"]).all()
        after, before = open_net(str(tmp_path)), open_net(str(published))
        assert torch.equal(after.weights["conv1_1.weight"], before.weights["conv1_1.weight"])
        assert not torch.equal(after.weights["fc6.weight"], before.weights["fc6.weight"])
        assert after.mean_rgb == before.mean_rgb
        assert after.started_from == ("torchvision-a (other data)",)
        # Its descendants inherit the scale.
        child = recipe(1, tmp_path, width=1.0)
        with pytest.raises(UserError, match="goes back to torchvision-a"):
            TrainingPlan.resolve("digits", child, 0, str(digits), read_manifest(digits), open_net)

    @pytest.mark.parametrize("freeze", [None, "conv2_1,fc6"])
    def test_its_first_convolution_must_not_learn(self, digits, published, freeze):
        with pytest.raises(UserError, match=r"cannot be trained: pass --model\.freeze conv1_1"):
            self.resolve(digits, published, freeze)

    def test_its_first_convolution_alone_may_be_frozen(self, digits, published):
        assert self.resolve(digits, published, "conv1_1").frozen == ("conv1_1",)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_body_learns_at_its_own_rate(name):
    """Of one gradient, a tenth of the update, as torch's own optimizer with a tenth of the rate makes it."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc7, self.fc8 = nn.Linear(3, 3), nn.Linear(3, 2)

    torch.manual_seed(0)
    net = Two()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = make_optimizer(net, Optim(name=name, lr=0.1, body_lr_factor=0.1))
    reference = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["lr_factor"]
    optimizer.step()
    for key, parameter in net.named_parameters():
        expected = before[key].clone().requires_grad_()
        expected.grad = torch.ones_like(expected)
        reference([expected], lr=0.1 if key.startswith("fc8") else 0.01, weight_decay=5e-4).step()
        torch.testing.assert_close(parameter, expected)
