"""One update, against float64 arithmetic written out by hand."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cluster.layout import Worker
from cluster.parallel.ddp import DDPReducer
from vgg.net.precision import MixedPrecision
from vgg.recipes.schema import Optim
from vgg.training.dropout import MaskSource, dropout_masks
from vgg.training.optimizer import make_optimizer
from vgg.training.step import train_step

CPU = torch.device("cpu")


class Small(torch.nn.Module):
    """A convolution and two linear layers that takes masks as VGG does."""

    hidden = (8,)

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.fc1 = torch.nn.Linear(4 * 36, 8)
        self.fc2 = torch.nn.Linear(8, 5)

    def forward(self, images_BCHW, masks):
        hidden_BF = F.relu(self.fc1(F.relu(self.conv(images_BCHW)).flatten(1)))
        if masks is not None:
            hidden_BF = hidden_BF * masks[0]
        return self.fc2(hidden_BF)[:, :, None, None]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Small()


def batch_of(rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    images_BCHW = torch.randn(rows, 3, 6, 6, generator=generator, dtype=torch.float64).to(dtype)
    labels_B = torch.randint(0, 5, (rows,), generator=generator)
    masks = dropout_masks(3, 0, range(rows), [8], 0.5, device=CPU, dtype=dtype)
    return images_BCHW, labels_B, masks


def update(net, rows, micro_batch, steps=3, optim=None, dtype=torch.float32):
    """`steps` updates on one batch."""
    optimizer = make_optimizer(net, optim or Optim(lr=0.1))
    reducer = DDPReducer(net, Worker(0, 1, 0, CPU, 1), rows, micro_batch, torch.zeros(1))
    precision = MixedPrecision(dtype, CPU)
    images_BCHW, labels_B, masks = batch_of(rows, next(net.parameters()).dtype)
    losses = []
    for _ in range(steps):
        loss = train_step(reducer, optimizer, precision, images_BCHW, labels_B, masks, lr=0.1)
        losses.append(loss.sum().item())
    return losses


def by_hand(net, rows, steps, lr=0.1, momentum=0.9, decay=5e-4):
    """SGD with momentum and an L2 penalty in float64: v <- m v + (g + d w), w <- w - lr v."""
    net = copy.deepcopy(net).double()
    images_BCHW, labels_B, masks = batch_of(rows, torch.float64)
    velocity = [torch.zeros_like(p) for p in net.parameters()]
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(net(images_BCHW, masks).flatten(1), labels_B)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for w, g, v in zip(net.parameters(), gradients, velocity, strict=True):
                v.mul_(momentum).add_(g + decay * w)
                w.sub_(lr * v)
        losses.append(loss.sum().item())
    return losses, net


@pytest.mark.parametrize("micro_batch", [10, 4, 3, 1])
def test_update_is_the_mean_over_the_batch_for_any_micro_batch(net, micro_batch):
    losses, reference = by_hand(net, 10, 3)
    assert update(net, 10, micro_batch) == pytest.approx(losses, rel=1e-5)
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-6)


def test_hits_are_the_rows_whose_best_class_is_the_true_one(net):
    images_BCHW, labels_B, masks = batch_of(10)
    right = (net(images_BCHW, masks).flatten(1).argmax(1) == labels_B).sum().item()
    reducer = DDPReducer(net, Worker(0, 1, 0, CPU, 1), 10, 4, torch.zeros(1))
    hits = torch.tensor(100)
    optimizer, precision = make_optimizer(net, Optim(lr=0.1)), MixedPrecision(torch.float32, CPU)
    train_step(reducer, optimizer, precision, images_BCHW, labels_B, masks, lr=0.1, hits=hits)
    assert hits.item() == 100 + right


def test_bf16_autocast_keeps_fp32_weights_and_stays_near(net):
    losses, _ = by_hand(net, 10, 1)
    got = update(net, 10, 10, steps=1, dtype=torch.bfloat16)
    assert got == pytest.approx(losses, rel=0.02)
    assert got != pytest.approx(losses, rel=1e-6)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_adam_is_torchs_adam(net):
    reference = copy.deepcopy(net)
    update(net, 10, 4, optim=Optim(name="adam", lr=0.1))
    adam = torch.optim.Adam(reference.parameters(), 0.1, betas=(0.9, 0.999), weight_decay=5e-4)
    images_BCHW, labels_B, masks = batch_of(10)
    for _ in range(3):
        adam.zero_grad()
        F.cross_entropy(reference(images_BCHW, masks).flatten(1), labels_B).backward()
        adam.step()
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


class TestMasks:
    def masks(self, rows, step=7, seed=1, widths=(100, 33), p=0.5):
        return dropout_masks(seed, step, rows, widths, p, device=CPU, dtype=torch.float32)

    @pytest.mark.parametrize("world", [2, 3, 7])
    def test_rows_do_not_depend_on_who_draws_them(self, world):
        whole = self.masks(range(256))
        cuts = np.linspace(0, 256, world + 1).astype(int)
        parts = [self.masks(range(a, b)) for a, b in pairwise(cuts)]
        for layer in range(2):
            assert torch.equal(whole[layer], torch.cat([part[layer] for part in parts]))

    def test_every_key_matters(self):
        base = self.masks(range(256))
        assert not torch.equal(base[0], self.masks(range(256), step=8)[0])
        assert not torch.equal(base[0], self.masks(range(256), seed=2)[0])
        assert not torch.equal(base[0][:, :33], base[1])
        assert not torch.equal(base[0][0], base[0][1])

    @pytest.mark.parametrize("p", [0.25, 0.5, 0.75])
    def test_share_and_mean(self, p):
        (mask,) = self.masks(range(256), widths=(4096,), p=p)
        assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
        # Four standard deviations of a binomial share over a million draws are below 0.002.
        assert (mask == 0).double().mean().item() == pytest.approx(p, abs=0.002)

    def test_none_dropped_at_zero(self):
        assert torch.equal(self.masks(range(4), p=0.0)[0], torch.ones(4, 100))

    def test_words_are_philox_counters(self):
        """Row r is what NumPy's Philox yields at counter (r * blocks, step, 0, 2)."""
        (mask,) = self.masks(range(5, 6), widths=(64,), seed=9, step=11)
        words = np.random.Philox(key=[9, 0], counter=[10, 11, 0, 2]).random_raw(8)
        assert torch.equal(mask[0] > 0, torch.from_numpy(words.view(np.uint8) >= 128))


class TestMaskSource:
    def source(self, p):
        return MaskSource(3, range(5, 9), [64, 32], p, device=CPU, dtype=torch.float32)

    def test_masks_are_those_of_the_step_in_any_order(self):
        with self.source(0.5) as source:
            for step in (0, 1, 2, 7, 3):
                drawn = source.of(step)
                wanted = dropout_masks(3, step, range(5, 9), [64, 32], 0.5, device=CPU, dtype=torch.float32)
                assert drawn is not None
                assert all(torch.equal(ours, theirs) for ours, theirs in zip(drawn, wanted, strict=True))

    @pytest.mark.parametrize("p", [0.0, 0.001])
    def test_none_where_nothing_is_dropped(self, p):
        """A probability is a multiple of 1/256."""
        with self.source(p) as source:
            assert source.of(0) is None

    def test_update_without_masks_is_that_of_ones(self, net):
        other = copy.deepcopy(net)
        images_BCHW, labels_B, _ = batch_of(10)
        hidden = [torch.ones(10, 8)]
        for trained, masks in ((net, None), (other, hidden)):
            reducer = DDPReducer(trained, Worker(0, 1, 0, CPU, 1), 10, None, torch.zeros(1))
            optimizer, precision = make_optimizer(trained, Optim(lr=0.1)), MixedPrecision(torch.float32, CPU)
            train_step(reducer, optimizer, precision, images_BCHW, labels_B, masks, lr=0.1)
        for ours, theirs in zip(net.parameters(), other.parameters(), strict=True):
            assert torch.equal(ours, theirs)
