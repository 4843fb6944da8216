"""What workers send in a step: the cost model against counts made by hand, and against a real link."""

import pytest
import torch

from benchmarks.scaling import Scaling, measure
from benchmarks.scaling_worker import Proportioned
from benchmarks.traffic import LAYOUTS, Machine, bytes_sent, step_seconds
from tests.conftest import needs_namespaces
from vgg.net.architecture import Architecture, parameter_count

D = Architecture("D", 1000, 224, 1.0)
LINEAR = 25088 * 4096 + 4096 * 4096 + 4096 * 1000 + 4096 + 4096 + 1000
FACTORS = 256 * (25088 + 4096 + 4096 + 4096 + 4096 + 1000)
CONVOLUTIONS = 138_357_544 - LINEAR


@pytest.mark.parametrize(
    ("workers", "layout", "numbers"),
    [
        (1, "ddp", 0),
        (8, "ddp", 2 * 7 / 8 * 138_357_544),
        (8, "ddp bf16", 7 / 8 * 138_357_544),  # half the bytes of a float32
        (8, "ddp gathered", 7 / 8 * (2 * CONVOLUTIONS + FACTORS)),
        (8, "fixed-order gathered", 7 / 8 * (2 * CONVOLUTIONS + FACTORS)),
        (2, "fixed-order", 138_357_544),
        # Ranks 0, 1, 2 hold leaves 0–2, 3–5, 6–7: the subtrees 0–1 and 2, 3 and 4–5, 6–7.
        (3, "fixed-order", 2 / 3 * (2 + 1) * 138_357_544),
    ],
)
def test_bytes_sent(workers, layout, numbers):
    assert bytes_sent(D, 256, workers, layout) == pytest.approx(4 * numbers)


def test_gathering_sends_a_seventh():
    """969 and 141 MB for 8 workers."""
    assert round(bytes_sent(D, 256, 8, "ddp") / 1e6) == 969
    assert round(bytes_sent(D, 256, 8, "ddp gathered") / 1e6) == 141


def test_a_fixed_order_has_a_worker_a_leaf_at_most():
    with pytest.raises(ValueError, match="8 leaves"):
        bytes_sent(D, 256, 16, "fixed-order")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_worker_takes_the_arithmetic_and_the_update(layout):
    least, most = step_seconds(D, 256, 1, layout, Machine(flop_per_s=1e12, memory_bytes_per_s=1e12))
    assert least == most == pytest.approx(256 * 92.65e9 / 1e12 + 138_357_544 * 26 / 1e12, rel=1e-3)


def test_the_measured_net_has_the_proportions_of_configuration_d():
    net = Proportioned(16)
    linear = sum(p.numel() for name, p in net.named_parameters() if name.startswith("fc"))
    total = sum(p.numel() for p in net.parameters())
    assert linear / total == pytest.approx(LINEAR / parameter_count(D), abs=0.01)


@needs_namespaces
def test_bytes_counted_on_a_real_link():
    found = measure(Scaling(scale=16, steps=1, rounds=1, megabits_per_s=1000, seconds=300), 2)
    numbers = sum(p.numel() for p in Proportioned(16).parameters())
    for name, share in (("torch DDP", 1), ("ddp", 1), ("fixed-order", 1), ("torch DDP bf16", 0.5)):
        assert found[name]["bytes_sent"] == pytest.approx(4 * numbers * share, rel=0.1), name
    # Links carry TCP's headers besides, and barriers; 6.83 without them.
    for name in ("ddp gathered", "fixed-order gathered"):
        assert 5.5 < found["torch DDP"]["bytes_sent"] / found[name]["bytes_sent"] < 7
    assert torch.tensor([row["seconds"] for row in found.values()]).gt(0).all()
