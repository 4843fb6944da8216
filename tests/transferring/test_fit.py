"""Classifiers on features: against scikit-learn by hand, over random splits, with several classes, refused.

Shapes: N images, K classes.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import recall_score
from sklearn.svm import LinearSVC

from cli.errors import UserError
from tests.transferring import made_features as made
from vgg import transfer
from vgg.metrics.average_precision import average_precision_2007, average_precision_2010
from vgg.metrics.interval import wilson_interval
from vgg.transfer import FitOptions
from vgg.transferring.measures import OneClass
from vgg.transferring.targets import Rule, drawn, held_out, targets


@pytest.fixture
def one_class(tmp_path):
    train, test = made.one_class(20, "train"), made.one_class(10, "val")
    made.save(tmp_path, "train", train)
    made.save(tmp_path, "val", test)
    return tmp_path, train, test


def test_the_splits_of_the_data_set(one_class, capsys):
    """The cost is the one chosen, the machines are those of all training images, and the measures are right."""
    folder, train, test = one_class
    result, out = transfer.fit(FitOptions(str(folder), costs=(0.01, 1.0)))
    (draw,) = result["draws"]
    machine = LinearSVC(C=draw["cost"], random_state=0, max_iter=10_000)
    labels = np.array(train.labels)[:, 0]
    machine.fit(train.features_NF.astype(np.float64), labels)
    truth, found = np.array(test.labels)[:, 0], machine.predict(test.features_NF.astype(np.float64))
    assert 3 < (found != truth).sum() < 25
    assert draw["right"] == (found == truth).sum()
    assert result["mean_class_recall"] == pytest.approx(100 * recall_score(truth, found, average="macro"))
    low, high = wilson_interval(30 - draw["right"], 30)
    assert draw["accuracy_interval"] == pytest.approx([100 - high, 100 - low])
    assert draw["cost"] == max(draw["tried"], key=lambda each: each[1])[0]
    assert (draw["trained_on"], draw["images"], result["accuracy_std"]) == (60, 30, None)
    assert out.read_json("result.json") == json.loads(json.dumps(result))
    assert f"C = {draw['cost']:g} of 0.01: " in capsys.readouterr().out


def test_mean_class_recall_by_hand():
    """Classes of 4, 1 and no images: 3/4 and 0/1."""
    scores_NK = np.eye(3)[[0, 0, 0, 1, 0]]
    tested = OneClass.of(scores_NK, targets(((0,),) * 4 + ((1,),), ((),) * 5, 3))
    assert tested.mean_class_recall == pytest.approx(37.5)
    assert tested.to_json()["accuracy"] == 60


def test_random_splits(one_class):
    """Learned from so many of each class, tested on at most so many of the rest, of both splits together."""
    folder, _, _ = one_class
    options = FitOptions(str(folder), per_class=12, at_most=15, draws=4, costs=(1.0,))
    result, _ = transfer.fit(options)
    assert [draw["trained_on"] for draw in result["draws"]] == [36] * 4
    assert [draw["images_by_class"] for draw in result["draws"]] == [[15] * 3] * 4
    recalls = [draw["mean_class_recall"] for draw in result["draws"]]
    assert len(set(recalls)) > 1
    assert result["mean_class_recall"] == pytest.approx(np.mean(recalls))
    assert result["mean_class_recall_std"] == pytest.approx(np.std(recalls, ddof=1))
    again, _ = transfer.fit(options)
    assert again == result


def test_a_draw_has_no_image_on_both_sides():
    labels_N = np.repeat([0, 1, 2], [40, 90, 35])
    seen = []
    for draw in range(3):
        found = drawn(labels_N, made.CLASSES, Rule(30, 50, 3), 7, draw)
        assert not set(found.train_N) & set(found.test_N)
        assert np.bincount(labels_N[found.train_N]).tolist() == [30, 30, 30]
        assert np.bincount(labels_N[found.test_N]).tolist() == [10, 50, 5]
        seen.append(tuple(found.train_N))
    assert len(set(seen)) == 3
    assert np.bincount(labels_N[drawn(labels_N, made.CLASSES, Rule(30, 0, 3), 7, 0).test_N])[1] == 60
    with pytest.raises(UserError, match="the class cat has 35 images, none is left"):
        drawn(labels_N, made.CLASSES, Rule(35, 50, 3), 7, 0)


def test_the_share_for_the_cost_is_of_every_class():
    one_each = targets(((0,),) * 30 + ((1,),) * 11 + ((2,),) * 2, ((),) * 43, 3)
    split = held_out(one_each, 0.2, 3)
    assert (one_each[split.test_N] == 1).sum(0).tolist() == [6, 2, 1]
    assert sorted([*split.train_N, *split.test_N]) == list(range(43))


class TestSeveralClasses:
    @pytest.fixture
    def stored(self, tmp_path):
        train, test = made.several_classes(90, "train"), made.several_classes(60, "val")
        made.save(tmp_path, "train", train, several_labels=True)
        made.save(tmp_path, "val", test, several_labels=True)
        return tmp_path, train, test

    def test_mean_average_precision(self, stored):
        """A machine a class, images where the class is difficult in neither training nor test."""
        folder, train, test = stored
        result, _ = transfer.fit(FitOptions(str(folder), costs=(1.0,)))
        by_year: dict[int, list[float]] = {2007: [], 2010: []}
        for k in range(3):
            truth = [np.array([k in labels for labels in each.labels]) for each in (train, test)]
            counted = [np.array([k not in hard for hard in each.difficult]) for each in (train, test)]
            assert not counted[0].all()
            assert not counted[1].all()
            machine = LinearSVC(C=1.0, random_state=0, max_iter=10_000)
            machine.fit(train.features_NF[counted[0]].astype(np.float64), truth[0][counted[0]])
            scores = machine.decision_function(test.features_NF[counted[1]].astype(np.float64))
            by_year[2007].append(100 * average_precision_2007(scores, truth[1][counted[1]]))
            by_year[2010].append(100 * average_precision_2010(scores, truth[1][counted[1]]))
        (draw,) = result["draws"]
        assert draw["ap_2007_by_class"] == pytest.approx(by_year[2007])
        assert draw["ap_2010_by_class"] == pytest.approx(by_year[2010])
        assert result["map_2007"] == pytest.approx(np.mean(by_year[2007]))
        assert result["map_2010"] == pytest.approx(np.mean(by_year[2010]))
        assert 40 < result["map_2010"] < 99
        assert "accuracy" not in result

    def test_random_splits_are_of_one_class_each(self, stored):
        with pytest.raises(UserError, match="--per-class draws images of one class each"):
            transfer.fit(FitOptions(str(stored[0]), per_class=10))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"costs": (0.0,)}, "--costs"),
        ({"costs": ()}, "--costs"),
        ({"validation_share": 1.0}, "--validation-share"),
        ({"per_class": -1}, "--per-class"),
        ({"per_class": 5, "draws": 0}, "--draws"),
        ({"test": ("train",)}, "--train and --test must be different splits"),
        ({"test": ("test",)}, "no features of split test: python -m vgg.transfer features"),
        ({"features": "/nowhere"}, "no features of split train"),
    ],
)
def test_mistakes(one_class, changes, match):
    folder, _, _ = one_class
    with pytest.raises(UserError, match=match):
        transfer.fit(FitOptions(**{"features": str(folder), **changes}))
    assert not list(folder.glob("svm*"))


@pytest.mark.parametrize("several", [True, False])
def test_a_split_without_classes(one_class, several):
    folder, train, test = one_class
    made.save(folder, "train", train, several_labels=several)
    made.save(folder, "val", replace(test, labels=((),) * 30), several_labels=several)
    with pytest.raises(UserError, match="images of split val have no class"):
        transfer.fit(FitOptions(str(folder)))


def test_features_of_two_kinds(one_class):
    folder, _, test = one_class
    made.save(folder, "val", test, combine="stack")
    with pytest.raises(UserError, match="val has other features than train"):
        transfer.fit(FitOptions(str(folder)))


def test_an_image_of_both_splits(one_class):
    folder, train, _ = one_class
    made.save(folder, "val", train)
    with pytest.raises(UserError, match="an image is in two of the splits"):
        transfer.fit(FitOptions(str(folder)))
