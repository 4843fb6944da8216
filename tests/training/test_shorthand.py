"""Flags that stand for others, by the command line itself: what the resolved recipe is."""

import pytest

from vgg import train
from vgg.recipes.difference import difference
from vgg.recipes.registry import RECIPES


@pytest.fixture
def resolved(monkeypatch):
    """The difference from the recipe that these arguments make."""
    seen = []
    monkeypatch.setattr(train, "execute", lambda options: seen.append(options.recipe))

    def resolve(name, *flags):
        monkeypatch.setattr("sys.argv", ["vgg.train", name, *flags])
        train.main()
        return {key: new for key, (_, new) in difference(seen[-1], RECIPES[name][1]).items()}

    return resolve


@pytest.mark.parametrize(
    ("name", "flags", "changes"),
    [
        ("paper-a", [], {}),
        ("paper-a", ["--model.depth", "16"], {"model.configuration": "D"}),
        ("paper-a", ["--model.depth=19"], {"model.configuration": "E"}),
        # A depth that the configuration has already changes nothing: A-LRN has 11 layers, C 16.
        ("paper-a-lrn", ["--model.depth", "11"], {}),
        ("paper-c", ["--model.depth", "16"], {}),
        ("paper-c", ["--model.depth", "13"], {"model.configuration": "B"}),
        ("paper-a", ["--model.depth=16", "--model.configuration=C"], {"model.configuration": "C"}),
        # An optimizer brings its rate, unless one is given, even the recipe's.
        ("paper-a", ["--optim.name", "adam"], {"optim.name": "adam", "optim.lr": 1e-4}),
        ("paper-a", ["--optim.name", "adam", "--optim.lr", "0.01"], {"optim.name": "adam"}),
        ("paper-a", ["--optim.name", "sgd"], {}),
        ("photos", ["--optim.name", "sgd"], {"optim.name": "sgd", "optim.lr": 0.01}),
        # The side moves the scales, unless they are given.
        (
            "paper-a",
            ["--model.side", "64"],
            {"model.side": 64, "input.min_scale": 73, "input.max_scale": 73, "input.test_scale": 73},
        ),
        (
            "tiny-imagenet-11",
            ["--model.side=128", "--input.max-scale=200"],
            {"model.side": 128, "input.min_scale": 128, "input.max_scale": 200, "input.test_scale": 128},
        ),
        (
            "tiny-imagenet-11",
            ["--model.side=128", "--input.max_scale=200"],
            {"model.side": 128, "input.min_scale": 128, "input.max_scale": 200, "input.test_scale": 128},
        ),
        ("paper-a", ["--model.side", "224"], {}),
    ],
)
def test_what_a_flag_stands_for(resolved, name, flags, changes):
    assert resolved(name, *flags) == changes


def test_a_depth_that_contradicts_the_configuration(resolved, capsys):
    with pytest.raises(SystemExit) as ended:
        resolved("paper-a", "--model.depth", "13", "--model.configuration", "D")
    assert ended.value.code == 2
    assert "--model.depth 13 contradicts --model.configuration D, which has 16 layers" in " ".join(
        capsys.readouterr().err.split()
    )
