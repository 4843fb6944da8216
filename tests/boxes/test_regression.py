"""Geometry and loss of box nets, against torchvision and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_convert, box_iou

from cluster.layout import Worker
from cluster.parallel.ddp import DDPReducer
from pipelines.loading.batch import Batch
from vgg.boxes.geometry import overlaps, to_centres, to_edges
from vgg.boxes.regression import BoxRegression, box_targets, boxes_of_classes
from vgg.boxes.scores import validate_boxes
from vgg.net.precision import MixedPrecision
from vgg.recipes.schema import Optim
from vgg.training.optimizer import make_optimizer
from vgg.training.step import train_step

CPU = torch.device("cpu")


def random_edges(seed, count=64):
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([corners.min(1).values, corners.max(1).values], 1)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**30))
def test_overlap_is_torchvisions(seed):
    one_B4, other_B4 = random_edges(seed), random_edges(seed + 1)
    torch.testing.assert_close(overlaps(one_B4, other_B4), box_iou(one_B4, other_B4).diagonal())
    stretch = torch.tensor([3.0, 0.5, 3.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(overlaps(one_B4 * stretch, other_B4 * stretch), overlaps(one_B4, other_B4))


@pytest.mark.parametrize(
    ("one", "other", "iou"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),  # edge to edge
        ((0, 0, 2, 2), (1, 1, 1, 1), 0),  # no area
        ((1, 1, 1, 1), (1, 1, 1, 1), 0),
        ((2, 2, 0, 0), (0, 0, 2, 2), 0),  # the wrong way round, as a net may answer
    ],
)
def test_overlap_by_hand(one, other, iou):
    found = overlaps(torch.tensor([one]).float(), torch.tensor([other]).float())
    assert found.item() == pytest.approx(iou)


def test_centres_are_torchvisions_and_go_back():
    edges_B4 = random_edges(0)
    torch.testing.assert_close(to_centres(edges_B4), box_convert(edges_B4, "xyxy", "cxcywh"))
    torch.testing.assert_close(to_edges(to_centres(edges_B4)), edges_B4)


def test_each_class_has_its_own_four_outputs():
    outputs_bK = torch.arange(24.0).reshape(2, 12)
    assert boxes_of_classes(outputs_bK, torch.tensor([2, 0]), "per-class").tolist() == [
        [8, 9, 10, 11],
        [12, 13, 14, 15],
    ]
    assert boxes_of_classes(outputs_bK[:, :4], torch.tensor([2, 0]), "single").tolist() == [
        [0, 1, 2, 3],
        [12, 13, 14, 15],
    ]


@pytest.mark.parametrize("boxes", ["single", "per-class"])
def test_the_loss_is_half_the_squared_distance_and_only_the_true_class_learns(boxes):
    generator = torch.Generator().manual_seed(0)
    outputs_bK = torch.randn(5, 4 if boxes == "single" else 12, generator=generator, dtype=torch.float64)
    outputs_bK.requires_grad_()
    classes = torch.tensor([2, 0, 1, 1, 2])
    boxes_b4 = to_centres(random_edges(1, 5))
    targets_b5 = torch.cat([classes[:, None].double(), boxes_b4], 1)
    loss = BoxRegression(boxes).loss(outputs_bK, targets_b5)
    wanted, gradient = 0.0, np.zeros(outputs_bK.shape)
    for row in range(5):
        first = 0 if boxes == "single" else 4 * int(classes[row])
        for k in range(4):
            distance = outputs_bK[row, first + k].item() - boxes_b4[row, k].item()
            wanted += distance**2 / 2
            gradient[row, first + k] = distance
    assert loss.item() == pytest.approx(wanted)
    loss.backward()
    assert outputs_bK.grad is not None
    np.testing.assert_allclose(outputs_bK.grad.numpy(), gradient, atol=1e-12)


class Answers(torch.nn.Module):
    """A net whose only layer maps pixels to outputs."""

    def __init__(self, outputs):
        super().__init__()
        self.fc8 = torch.nn.Linear(3 * 8 * 8, outputs)

    def forward(self, images_BCHW, masks_BF=None):
        return self.fc8(images_BCHW.flatten(1) / 255)[:, :, None, None]


@pytest.mark.parametrize("micro_batch", [10, 4, 1])
def test_an_update_is_that_of_the_mean_over_the_batch(micro_batch):
    """Against plain autograd in float64, whatever the micro-batch; hits are counted before the update."""
    torch.manual_seed(0)
    net = Answers(12).double()
    images_BCHW = 255 * torch.rand(10, 3, 8, 8, dtype=torch.float64)
    targets_B5 = torch.cat([torch.randint(0, 3, (10, 1)).double(), to_centres(random_edges(2, 10))], 1)
    outputs_BK = net(images_BCHW).flatten(1)
    objective = BoxRegression("per-class")
    found_B4 = boxes_of_classes(outputs_BK, targets_B5[:, 0], "per-class")
    located = (overlaps(to_edges(found_B4), to_edges(targets_B5[:, 1:])) > 0.5).sum()
    loss = (found_B4 - targets_B5[:, 1:]).square().sum(1).mean() / 2
    (gradient,) = torch.autograd.grad(loss, [net.fc8.weight])
    wanted = net.fc8.weight.detach() - 0.1 * (gradient + 5e-4 * net.fc8.weight.detach())
    reducer = DDPReducer(net, Worker(0, 1, 0, CPU, 1), 10, micro_batch, torch.zeros(1))
    hits, precision = torch.zeros((), dtype=torch.int64), MixedPrecision(torch.float32, CPU)
    losses_L = train_step(
        reducer, make_optimizer(net, Optim(lr=0.1)), precision, images_BCHW, targets_B5, None,
        lr=0.1, objective=objective, hits=hits,
    )  # fmt: skip
    assert losses_L.sum().item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(net.fc8.weight.detach(), wanted, rtol=1e-5, atol=1e-8)
    assert hits == located


def test_validation_counts_what_is_located():
    """Two batches of unequal size: sums over images, not means of means."""
    torch.manual_seed(1)
    net, truth_N4 = Answers(8), random_edges(3, 7).float()
    images_NHWC, labels_N = torch.randint(0, 256, (7, 8, 8, 3), dtype=torch.uint8), torch.randint(0, 2, (7,))
    batches = [
        Batch(images_NHWC[rows], torch.zeros(len(images_NHWC[rows]), 3), labels_N[rows], np.arange(7)[rows],
              truth_N4[rows])
        for rows in (slice(0, 5), slice(5, None))
    ]  # fmt: skip
    with torch.no_grad():
        outputs_NK = net(images_NHWC.permute(0, 3, 1, 2).float()).flatten(1)
        net.fc8.bias.add_(0.4)
        outputs_NK += 0.4
    found_N4 = torch.stack([outputs_NK[i, 4 * label : 4 * label + 4] for i, label in enumerate(labels_N)])
    iou_N = box_iou(box_convert(found_N4, "cxcywh", "xyxy"), truth_N4).diagonal().clamp(min=0)
    scores = validate_boxes(
        net, batches, objective=BoxRegression("per-class"), device=CPU,
        precision=MixedPrecision(torch.float32, CPU),
    )  # fmt: skip
    assert (scores.seen, scores.located) == (7, int((iou_N > 0.5).sum()))
    assert scores.mean_iou == pytest.approx(iou_N.mean().item(), rel=1e-5)
    wanted_N4 = box_convert(truth_N4, "xyxy", "cxcywh")
    assert scores.loss == pytest.approx(((found_N4 - wanted_N4) ** 2).sum(1).mean().item() / 2, rel=1e-5)
    for batch in batches:
        assert box_targets(batch)[:, 0].tolist() == batch.labels_B.tolist()
