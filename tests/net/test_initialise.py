"""Starting weights: their distributions in float64, and what each is a function of."""

import math

import pytest
import torch
import torchvision

from vgg.net.architecture import Architecture
from vgg.net.initialise import initialise
from vgg.net.module import VGG
from vgg.recipes.schema import Model
from vgg.training.starting_weights import start_from_shallower, starting_weights


def net_of(configuration="D", scheme="glorot", seed=0, classes=7, side=32, width=1 / 8):
    net = VGG(Architecture(configuration, classes, side, width))
    initialise(net, scheme, seed)
    return net


# Layer: (fan_in, fan_out) in configuration D at a quarter of its width and 64 pixels, with 50 classes.
FANS = {
    "conv3_1": (32 * 9, 64 * 9),
    "conv4_2": (128 * 9, 128 * 9),
    "fc6": (128 * 4, 1024),
    "fc8": (1024, 50),
}


class TestDistribution:
    """Bounds are four standard deviations of each estimate."""

    def weights(self, scheme, name):
        net = net_of("D", scheme, seed=1, classes=50, side=64, width=0.25)
        return net.get_parameter(f"{name}.weight").detach().double().flatten()

    @pytest.mark.parametrize("name", FANS)
    @pytest.mark.parametrize("scheme", ["normal", "printed", "torchvision"])
    def test_normal(self, scheme, name):
        w = self.weights(scheme, name)
        std = {"normal": 0.01, "printed": math.sqrt(1e-2), "torchvision": 0.01}[scheme]
        if scheme == "torchvision" and name.startswith("conv"):
            std = math.sqrt(2 / FANS[name][1])
        n = w.numel()
        assert abs(w.mean()) < 4 * std / math.sqrt(n)
        assert w.std() == pytest.approx(std, rel=4 / math.sqrt(2 * n))
        # A normal's fourth moment is 3 sigma^4, its estimate's standard deviation sqrt(96 / n) of sigma^4.
        assert (w**4).mean() / std**4 == pytest.approx(3, abs=4 * math.sqrt(96 / n))
        assert (w.abs() > 3 * std).double().mean() == pytest.approx(0.0027, abs=4 * math.sqrt(0.0027 / n))

    @pytest.mark.parametrize("name", FANS)
    def test_glorot(self, name):
        w = self.weights("glorot", name)
        bound, n = math.sqrt(6 / sum(FANS[name])), w.numel()
        assert 0.999 * bound < w.abs().max() <= bound * (1 + 1e-6)
        assert abs(w.mean()) < 4 * bound / math.sqrt(3 * n)
        assert w.std() == pytest.approx(bound / math.sqrt(3), rel=4 * math.sqrt(0.2 / n))
        # Uniform: the sorted weights lie on a line (Kolmogorov-Smirnov, far beyond 0.1 %).
        line = torch.linspace(-bound, bound, n, dtype=torch.float64)
        assert (w.sort().values - line).abs().max() < 2 * bound * 2 / math.sqrt(n)

    @pytest.mark.parametrize("scheme", ["glorot", "normal", "printed", "torchvision"])
    def test_biases_are_zero(self, scheme):
        biases = [p for name, p in net_of(scheme=scheme).named_parameters() if name.endswith(".bias")]
        assert len(biases) == 16
        assert not any(bias.any() for bias in biases)

    def test_torchvision_agrees_with_torchvision(self):
        """Standard deviation of each layer of torchvision's own vgg11, full width."""
        theirs = torchvision.models.vgg11(weights=None).features
        ours = net_of("A", "torchvision", width=1.0, classes=1)
        for place, name in ((0, "conv1_1"), (3, "conv2_1"), (8, "conv3_2"), (18, "conv5_2")):
            expected = theirs[place].weight.std().item()
            assert ours.get_parameter(f"{name}.weight").std().item() == pytest.approx(expected, rel=0.08)


class TestFunctionOfSeedAndName:
    def test_no_random_state_is_read_or_changed(self):
        torch.manual_seed(1)
        first, before = net_of(), torch.get_rng_state()
        torch.manual_seed(2)
        second, after = net_of(), torch.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(after, torch.get_rng_state())
        assert not torch.equal(before, after)
        for name, parameter in first.named_parameters():
            assert torch.equal(parameter, second.get_parameter(name))

    def test_neither_order_nor_company_matters(self):
        """Layers that two configurations share start alike."""
        a, e = net_of("A"), net_of("E")
        for name, parameter in a.named_parameters():
            if parameter.shape == e.get_parameter(name).shape:
                assert torch.equal(parameter, e.get_parameter(name)), name

    def test_memory_layout_does_not_matter(self):
        plain, last = net_of(), VGG(Architecture("D", 7, 32, 1 / 8)).to(memory_format=torch.channels_last)
        initialise(last, "glorot", 0)
        for name, parameter in plain.named_parameters():
            assert torch.equal(parameter, last.get_parameter(name)), name

    @pytest.mark.parametrize("seed", [1, 2**20, 2**32, 2**63 - 1])
    def test_every_seed_differs(self, seed):
        assert not torch.equal(net_of(seed=0).conv1_1.weight, net_of(seed=seed).conv1_1.weight)

    def test_every_layer_has_a_stream_of_its_own(self):
        starts = [
            tuple(parameter.flatten()[:8].tolist())
            for name, parameter in net_of("E", "normal").named_parameters()
            if name.endswith(".weight")
        ]
        assert len(set(starts)) == 19
        # Streams that are shifted copies of each other would share numbers.
        numbers = [number for start in starts for number in start]
        assert len(set(numbers)) == len(numbers)


def test_printed_variance_explodes_where_its_square_stalls():
    """Paper, section 3.1, taken to the letter: the logits of D reach 1e10 and more.

    Without biases the scores are proportional to every layer's scale; both schemes draw the same normals, so
    a tenth of the standard deviation in 16 layers gives 1e-16 of them.
    """
    net = net_of("D", "printed", classes=1000, side=224, width=1.0)
    pixels_BCHW = torch.randint(0, 256, (1, 3, 224, 224), generator=torch.Generator().manual_seed(0)) - 115.0
    with torch.no_grad():
        scores_K = net(pixels_BCHW).flatten()
        assert scores_K.abs().median() > 1e10
        initialise(net, "normal", 0)
        stalled_K = net(pixels_BCHW).flatten()
    torch.testing.assert_close(stalled_K.double(), scores_K.double() * 1e-16, rtol=1e-3, atol=1e-9)


class TestShallower:
    @pytest.mark.parametrize(("name", "rest"), [("shallower", "normal"), ("shallower-glorot", "glorot")])
    def test_takes_seven_layers_of_a(self, name, rest):
        a, d = net_of("A", seed=8), VGG(Architecture("D", 7, 32, 1 / 8))
        model = Model("D", initialisation=name)
        starting_weights(d, model, 1, a.state_dict())
        fresh = net_of("D", rest, seed=1)
        taken = {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"}
        for name, parameter in d.named_parameters():
            source = a if name.split(".")[0] in taken else fresh
            assert torch.equal(parameter, source.get_parameter(name)), name
        assert not torch.equal(fresh.conv1_1.weight, a.conv1_1.weight)

    @pytest.mark.parametrize("configuration", ["A-LRN", "B", "C", "D", "E"])
    def test_fits_every_configuration_at_full_width(self, configuration):
        """The paper's nets: shapes alone, on no device."""
        with torch.device("meta"):
            state = VGG(Architecture("A")).to("meta").state_dict()
        start_from_shallower(VGG(Architecture(configuration)).to("meta"), state)

    def test_another_side(self):
        expected = r"fc6\.weight has shape \(512, 64\) in the checkpoint, .*D, side 64, .* wants \(512, 256\)"
        with pytest.raises(ValueError, match=expected):
            start_from_shallower(net_of("D", side=64), net_of("A").state_dict())

    def test_another_number_of_classes(self):
        with pytest.raises(ValueError, match=r"fc8\.weight has shape \(9, 512\)"):
            start_from_shallower(net_of("D"), net_of("A", classes=9).state_dict())

    def test_a_layer_is_missing(self):
        state = net_of("A").state_dict()
        del state["conv3_2.bias"]
        with pytest.raises(ValueError, match=r"conv3_2\.bias is missing in the checkpoint"):
            start_from_shallower(net_of("D"), state)

    def test_nothing_is_taken_where_one_does_not_fit(self):
        net = net_of("D")
        before = {name: p.clone() for name, p in net.named_parameters()}
        with pytest.raises(ValueError, match="fc8"):
            start_from_shallower(net, net_of("A", classes=9, seed=4).state_dict())
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


class TestCheckpoint:
    def test_takes_every_layer(self):
        source, net = net_of("C", seed=3), VGG(Architecture("C", 7, 32, 1 / 8))
        starting_weights(net, Model("C", initialisation="checkpoint"), 1, source.state_dict())
        assert all(torch.equal(p, source.get_parameter(name)) for name, p in net.named_parameters())

    @pytest.mark.parametrize(
        ("configuration", "message"),
        [("D", r"conv3_3\.weight has shape"), ("E", r"conv3_3\.weight"), ("B", r"conv3_3\.bias, which")],
    )
    def test_another_configuration(self, configuration, message):
        with pytest.raises(ValueError, match=message):
            starting_weights(
                net_of(configuration),
                Model(initialisation="checkpoint"),
                1,
                net_of("C").state_dict(),
            )
