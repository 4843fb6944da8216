"""Several trainings on one sheet: every line is there, names do not overlap, answers stand in their places."""

from itertools import combinations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from vgg.pictures.study_sheets import Answer, History, answers_sheet, curves_sheet
from vgg.pictures.style import GREEN, RED


def history(name, error):
    return History(name, [10, 20], [None, error + 1], [60.0, error], [2.0, 1.0], [2.1, error / 10])


def drawn(figure):
    FigureCanvasAgg(figure).draw()
    return figure


def test_a_line_a_seed_and_a_name_a_training():
    histories = [history(f"depth {i}", 20 + i / 10 + seed / 100) for i in range(5) for seed in (0, 1)]
    figure = drawn(curves_sheet(histories))
    assert [len(axes.lines) for axes in figure.axes] == [10] * 4
    train_error, val_error, _, val_loss = figure.axes
    assert list(train_error.lines[0].get_xdata()) == [20], "the first validation had counted nothing"
    np.testing.assert_allclose(val_error.lines[3].get_ydata(), [60, 20.11])
    np.testing.assert_allclose(val_loss.lines[3].get_ydata(), [2.1, 2.011])
    assert val_error.lines[0].get_color() == val_error.lines[1].get_color() != val_error.lines[2].get_color()
    for axes in figure.axes:
        names = [each for each in axes.texts if isinstance(each, Annotation)]
        assert len(names) == 5
        for one, other in combinations(names, 2):
            assert not one.get_window_extent().overlaps(other.get_window_extent())
    assert val_error.texts[0].get_text() == "depth 0  20"


def test_a_loss_that_is_no_number_is_left_out():
    lost = History("lost", [10, 20], [None, None], [90.0, 90.0], [float("nan")] * 2, [float("inf"), 5.0])
    figure = drawn(curves_sheet([lost, history("fine", 10.0)]))
    assert [len(axes.lines) for axes in figure.axes] == [1, 2, 1, 2]


def test_answers_stand_beside_their_images():
    images = [np.full((30, 60, 3), 50, np.uint8), np.full((60, 60, 3), 200, np.uint8)]
    answers = {
        "depth-11": [Answer("cat", 0.9, True), Answer("cat", 0.4, False)],
        "depth-13": [Answer("dog, hound", 0.6, False), Answer("dog, hound", 0.7, True)],
    }
    (axes,) = drawn(answers_sheet(images, ["cat", "dog"], answers, "dense")).axes
    assert [np.asarray(each.get_array())[0, 0, 0] for each in axes.images] == [50, 200]
    assert [to_hex(each.get_facecolor()) for each in axes.patches] == [GREEN, RED, RED, GREEN]
    in_rows = sorted(
        (int(text.get_position()[1]), text.get_position()[0], text.get_text())
        for text in axes.texts
        if text.get_position()[1] > 0
    )
    assert [(row, text) for row, _, text in in_rows] == [
        (0, "cat"), (0, "cat\n90%"), (0, "dog\n60%"), (1, "dog"), (1, "cat\n40%"), (1, "dog\n70%"),
    ]  # fmt: skip
