"""The optimizer where gradients overflow."""

import pytest
import torch

from vgg.recipes.schema import Optim
from vgg.training.optimizer import make_optimizer


@pytest.fixture
def uninitialised_is_nan():
    """Memory that nobody has written to reads as NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_overflow_at_the_first_step_leaves_nothing_behind(uninitialised_is_nan, name):
    """The scaler skips that update; the next one is what it would have been without it."""
    results = []
    for gradients in ([torch.inf, 1.0], [1.0]):
        net = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.ones_(net.weight)
        optimizer = make_optimizer(net, Optim(name=name, lr=0.1))
        scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=100)
        for gradient in gradients:
            optimizer.zero_grad()
            scaler.scale(net(torch.tensor([[1.0, 2.0]])).sum() * gradient).backward()
            scaler.step(optimizer)
            scaler.update()
        results.append(net.weight.detach().clone())
    assert results[0].isfinite().all()
    assert torch.equal(*results)
