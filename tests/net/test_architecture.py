"""The net against torchvision, the paper's numbers, and float64 arithmetic written out by hand."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from tests.conftest import ROOT
from vgg.net.architecture import (
    CONFIGURATIONS,
    Architecture,
    forward_flops,
    layers,
    parameter_count,
    training_flops,
)
from vgg.net.initialise import initialise
from vgg.net.module import VGG, normalise_locally
from vgg.net.torchvision import load_torchvision, to_torchvision

GOLDEN = json.loads((ROOT / "tests" / "golden" / "model.json").read_text())
PAPER_PARAMETERS = {
    "A": 132_863_336,
    "A-LRN": 132_863_336,
    "B": 133_047_848,
    "B-5x5": 25 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512 * 512) + 64 + 128 + 256 + 1024 + 123_642_856,
    "C": 133_638_952,
    "D": 138_357_544,
    "E": 143_667_240,
}


def noise(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(configuration="D", side=32, classes=7, scheme="torchvision"):
    """A net an eighth as wide, with biases that are not zero."""
    net = VGG(Architecture(configuration, classes, side, 1 / 8))
    initialise(net, scheme, 5)
    for i, parameter in enumerate(net.parameters()):
        if parameter.dim() == 1:
            parameter.data = noise(*parameter.shape, seed=i, scale=0.1)
    return net


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
class TestGolden:
    def test_table(self, configuration):
        golden, architecture = GOLDEN[configuration], Architecture(configuration)
        assert parameter_count(architecture) == golden["parameters"] == PAPER_PARAMETERS[configuration]
        assert forward_flops(architecture) == golden["forward_flop"]
        assert training_flops(architecture) == golden["training_flop"]
        ours = [
            f"linear {s.channels}" if s.kind == "linear" else f"{s.kind} {s.channels}x{s.height}x{s.width}"
            for s in layers(architecture)
        ]
        assert ours == golden["outputs"]

    def test_net_does_what_the_table_says(self, configuration):
        net = VGG(Architecture(configuration)).to("meta")
        outputs = []
        for module in net.children():
            module.register_forward_hook(lambda _m, _in, out: outputs.append("x".join(map(str, out.shape[1:]))))
        images_BCHW = torch.empty(1, 3, 224, 224, device="meta")
        with FlopCounterMode(display=False) as flop:
            scores_BKhw = net(images_BCHW)
            scores_BKhw.sum().backward()
        golden = [line.split() for line in GOLDEN[configuration]["outputs"]]
        assert outputs == [shape for kind, shape in golden if kind in ("conv", "linear")]
        assert flop.get_total_flops() == GOLDEN[configuration]["training_flop"]
        assert sum(p.numel() for p in net.parameters()) == PAPER_PARAMETERS[configuration]
        assert scores_BKhw.shape == (1, 1000, 1, 1)


@pytest.mark.parametrize(("configuration", "gflop"), [("D", 92.65), ("E", 117.62)])
def test_training_cost_is_the_papers(configuration, gflop):
    assert round(training_flops(Architecture(configuration)) / 1e9, 2) == gflop


@pytest.mark.parametrize(
    ("configuration", "name"), [("A", "vgg11"), ("B", "vgg13"), ("D", "vgg16"), ("E", "vgg19")]
)
def test_scores_equal_torchvisions(configuration, name):
    """At full width and 224 pixels, weights taken from torchvision and given back."""
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(init_weights=False)
    generator = torch.Generator().manual_seed(3)
    state = {}
    for key, parameter in theirs.state_dict().items():
        bound = (6 / max(parameter[0].numel(), 100)) ** 0.5
        state[key] = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
    theirs.load_state_dict(state, assign=True)
    ours = VGG(Architecture(configuration))
    load_torchvision(ours, state)
    back = to_torchvision(ours)
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) for key in state)
    images_BCHW = noise(1, 3, 224, 224)
    with torch.no_grad():
        expected_BK = theirs.eval()(images_BCHW)
        scores_BK = ours(images_BCHW).flatten(1)
    assert expected_BK.std() > 1e-3
    assert (scores_BK - expected_BK).abs().max() < 1e-5 * expected_BK.abs().max()


def test_c_is_ds_net_with_one_by_one_convolutions():
    """Configuration C as a plain torch.nn.Sequential, read off table 1."""
    net = small("C", side=64)
    layers = []
    for name, module in net.named_children():
        if name.startswith("conv"):
            layers += [module, torch.nn.ReLU()]
            if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
                layers.append(torch.nn.MaxPool2d(2))
    layers += [torch.nn.Flatten(), net.fc6, torch.nn.ReLU(), net.fc7, torch.nn.ReLU(), net.fc8]
    ones = {name for name, module in net.named_children() if getattr(module, "kernel_size", 0) == (1, 1)}
    assert ones == {"conv3_3", "conv4_3", "conv5_3"}
    images_BCHW = noise(2, 3, 64, 64)
    torch.testing.assert_close(net(images_BCHW).flatten(1), torch.nn.Sequential(*layers)(images_BCHW))


class TestLRN:
    def by_equation(self, maps_BCHW):
        """Krizhevsky et al., section 3.3: b_i = a_i / (k + alpha sum_{|j - i| <= n/2} a_j^2)^beta."""
        maps = maps_BCHW.double().numpy()
        channels = maps.shape[1]
        found = np.empty_like(maps)
        for i in range(channels):
            window = maps[:, max(0, i - 2) : min(channels - 1, i + 2) + 1]
            found[:, i] = maps[:, i] / (2 + 1e-4 * (window**2).sum(1)) ** 0.75
        return torch.from_numpy(found)

    def test_equation(self):
        maps_BCHW = noise(2, 9, 3, 4, scale=200.0)
        torch.testing.assert_close(
            normalise_locally(maps_BCHW).double(), self.by_equation(maps_BCHW), rtol=1e-5, atol=1e-5
        )

    @pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
    def test_squares_do_not_overflow_in_half_precision(self, dtype, rtol):
        maps_BCHW = noise(1, 9, 2, 2, scale=1000.0).to(dtype)
        expected = self.by_equation(maps_BCHW.float())
        assert normalise_locally(maps_BCHW).dtype == dtype
        torch.testing.assert_close(normalise_locally(maps_BCHW).double(), expected, rtol=rtol, atol=1e-3)

    def test_stands_behind_the_first_convolution_of_a_lrn_alone(self):
        images_BCHW = noise(1, 3, 64, 64, scale=50.0)
        for configuration, lrn in (("A-LRN", self.by_equation), ("A", torch.Tensor.double)):
            net = small(configuration, side=64)
            inputs: list[torch.Tensor] = []
            net.conv2_1.register_forward_pre_hook(lambda _module, given, kept=inputs: kept.append(given[0]))
            net(images_BCHW)
            expected = F.max_pool2d(lrn(F.relu(net.conv1_1(images_BCHW)).detach()), 2)
            torch.testing.assert_close(inputs[0].double(), expected, rtol=1e-4, atol=1e-4)


class TestDense:
    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_classifier_slid_by_hand(self, configuration):
        """On a larger image: the crop's classifier at every position of the last feature map."""
        net = small(configuration, side=64).double()
        images_BCHW = noise(2, 3, 128, 165).double()
        maps_BCHW = net.features(images_BCHW)
        assert maps_BCHW.shape[2:] == (4, 5)
        scores_BKhw = net(images_BCHW)
        assert scores_BKhw.shape == (2, 7, 3, 4)
        for top in range(3):
            for left in range(4):
                inputs_BF = maps_BCHW[:, :, top : top + 2, left : left + 2].reshape(2, -1)
                hidden_BF = (inputs_BF @ net.fc6.weight.T + net.fc6.bias).clamp(min=0)
                hidden_BF = (hidden_BF @ net.fc7.weight.T + net.fc7.bias).clamp(min=0)
                scores_BK = hidden_BF @ net.fc8.weight.T + net.fc8.bias
                torch.testing.assert_close(scores_BKhw[:, :, top, left], scores_BK, rtol=1e-9, atol=1e-9)

    def test_at_224(self):
        net = VGG(Architecture("A", 5, 224, 1 / 8))
        initialise(net, "glorot", 0)
        with torch.no_grad():
            assert net(noise(1, 3, 256, 384)).shape == (1, 5, 2, 6)
            images_BCHW = noise(1, 3, 224, 250)  # 250 pixels still give a 7x7 map
            assert net(images_BCHW).shape == (1, 5, 1, 1)

    def test_image_smaller_than_the_crop(self):
        with pytest.raises(ValueError, match="64x32 pixels is smaller than the net's crop, 64"):
            small(side=64)(noise(1, 3, 64, 32))


class TestMasks:
    def test_multiply_hidden_activations(self):
        net = small(side=64)
        images_BCHW = noise(3, 3, 64, 64)
        masks = [2.0 * (noise(3, units, seed=i) > 0) for i, units in enumerate(net.hidden)]
        hidden_BF = F.relu(net.fc6(net.features(images_BCHW).flatten(1))) * masks[0]
        hidden_BF = F.relu(net.fc7(hidden_BF)) * masks[1]
        torch.testing.assert_close(net(images_BCHW, masks).flatten(1), net.fc8(hidden_BF))
        assert not torch.allclose(net(images_BCHW), net(images_BCHW, masks))

    def test_no_random_state_is_read(self):
        net, images_BCHW = small(), noise(2, 3, 32, 32)
        masks = [torch.ones(2, units) for units in net.hidden]
        before = torch.get_rng_state()
        assert torch.equal(net.train()(images_BCHW, masks), net.eval()(images_BCHW))
        assert torch.equal(before, torch.get_rng_state())


class TestExecution:
    """The forms in which a training runs the net."""

    @pytest.mark.parametrize("configuration", ["A-LRN", "D"])
    def test_channels_last(self, configuration):
        net, images_BCHW = small(configuration, side=64), noise(2, 3, 64, 64)
        expected = net(images_BCHW)
        net, layouts = net.to(memory_format=torch.channels_last), []
        for module in net.children():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(
                    lambda _m, _in, out: layouts.append(out.is_contiguous(memory_format=torch.channels_last))
                )
        scores = net(images_BCHW.to(memory_format=torch.channels_last))
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
        assert layouts
        assert all(layouts)

    @pytest.mark.parametrize("configuration", ["A-LRN", "C"])
    def test_bf16_autocast(self, configuration):
        net, images_BCHW = small(configuration, side=64), noise(2, 3, 64, 64, scale=50.0)
        expected = net(images_BCHW)
        with torch.autocast("cpu", torch.bfloat16):
            scores = net(images_BCHW)
        assert scores.dtype == torch.bfloat16
        assert (scores - expected).norm() < 0.05 * expected.norm()

    def test_compiles_without_a_graph_break(self):
        net, images_BCHW = small("A-LRN"), noise(2, 3, 32, 32)
        masks = [2.0 * (noise(2, units) > 0) for units in net.hidden]
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images_BCHW, masks), net(images_BCHW, masks))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"side": 100}, "--model.side 100 must be a multiple of 32"),
        ({"side": 0}, "--model.side 0"),
        ({"configuration": "F"}, "--model.configuration F is not one of A, A-LRN, B, B-5x5, C, D, E"),
        ({"classes": 0}, "--model.classes 0"),
        ({"width": 0.0}, r"--model.width 0.0 must lie in \(0, 8\]"),
    ],
)
def test_bad_architecture(values, message):
    with pytest.raises(ValueError, match=message):
        Architecture(**values)


class TestTorchvisionStates:
    def state(self):
        return to_torchvision(small("A", side=32))

    def test_another_configuration(self):
        with pytest.raises(ValueError, match=r"of configuration B at side 32: features\.2\.weight"):
            load_torchvision(small("B", side=32), self.state())

    def test_another_side(self):
        with pytest.raises(ValueError, match=r"classifier\.0\.weight has shape .* for fc6\.weight"):
            load_torchvision(small("A", side=64), self.state())

    def test_one_too_many(self):
        with pytest.raises(ValueError, match=r"it also has features\.1\.running_mean"):
            load_torchvision(small("A", side=32), {**self.state(), "features.1.running_mean": torch.zeros(8)})

    @pytest.mark.parametrize("configuration", ["A-LRN", "B-5x5", "C"])
    def test_nets_that_torchvision_lacks(self, configuration):
        net = small(configuration)
        with pytest.raises(ValueError, match=f"torchvision has no configuration {configuration}"):
            to_torchvision(net)
        with pytest.raises(ValueError, match=f"torchvision has no configuration {configuration}"):
            load_torchvision(net, self.state())
