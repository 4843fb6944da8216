"""Pictures: what is drawn is what was given, and it can be read. Pixels are looked at, not calls."""

import io
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from tests.conftest import ROOT
from vgg.pictures.confusion import class_accuracy_figure, confusion_figure
from vgg.pictures.curves import Curve, compared_curves, training_curves
from vgg.pictures.heat import heat_maps
from vgg.pictures.images import ShownPrediction, input_montage, prediction_montage, ranked_predictions
from vgg.pictures.style import GREEN, RED

LONG = "a name that is much longer than its picture is wide, and a synonym"


def draw(figure):
    """The figure as it is seen (uint8 HWC), laid out."""
    figure.canvas = FigureCanvasAgg(figure)
    figure.savefig(file := io.BytesIO(), format="png", dpi=100)
    return np.asarray(Image.open(file).convert("RGB"))


def written(figure):
    """Every visible text of the figure with its box in pixels."""
    draw(figure)
    renderer = figure.canvas.get_renderer()
    texts = [text for axes in figure.axes for text in (axes.title, *axes.texts) if text.get_text()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts]


def validation(step, error, lr):
    return {"step": step, "loss": 5 * error, "top1": 1 - error, "top5": 1 - error / 2, "lr": lr}


def test_curves_show_what_was_measured():
    losses = [3.0, 2.0, 1.0, 0.5]
    drops = [validation(2, 0.8, 0.01), validation(3, 0.6, 0.01), validation(4, 0.5, 0.001)]
    left, right = training_curves(losses, drops).axes
    drawn = {line.get_label(): line for line in (*left.lines, *right.lines)}
    np.testing.assert_allclose(np.asarray(drawn["top-1"].get_xydata()), [(2, 80), (3, 60), (4, 50)])
    np.testing.assert_allclose(np.asarray(drawn["top-5"].get_xydata()), [(2, 40), (3, 30), (4, 25)])
    np.testing.assert_allclose(np.asarray(drawn["validation"].get_xydata()), [(2, 4), (3, 3), (4, 2.5)])
    np.testing.assert_allclose(np.asarray(left.lines[0].get_xydata()), [(1, 3), (2, 2), (3, 1), (4, 0.5)])
    ((text, _),) = [pair for pair in written(right.figure) if pair[0].startswith("lr")]
    assert text == "lr 1e-03"
    assert [np.asarray(line.get_xdata())[0] for line in right.lines if line.get_linestyle() == ":"] == [3]


def test_no_top_5_of_five_classes_or_fewer():
    few = [{**validation(step, 0.5, 0.01), "top5": None} for step in (1, 2)]
    drawn = [line.get_label() for line in training_curves([1.0, 0.9], few).axes[1].lines]
    assert drawn == ["top-1", "best: 50.0 %, step 1"]


def test_smoothing_is_the_mean_of_the_last_steps():
    losses = np.random.default_rng(0).normal(3, 1, 200)
    smooth = training_curves(losses.tolist(), []).axes[0].lines[1]
    expected = [(step, losses[step - 5 : step].mean()) for step in range(5, 201)]
    np.testing.assert_allclose(np.asarray(smooth.get_xydata()), expected)


def test_a_step_without_a_loss_leaves_a_gap_of_its_own_only():
    losses = [2.0] * 400
    losses[100] = float("nan")
    smooth = training_curves(losses, []).axes[0].lines[1]
    np.testing.assert_allclose(np.asarray(smooth.get_ydata()), 2.0)


def test_the_axes_are_logarithmic_and_the_best_step_is_marked():
    validations = [validation(10, 0.5, 0.01), validation(20, 0.02, 0.01), validation(30, 0.02, 0.01)]
    left, right = training_curves([1000.0, 2.0, 1.0], validations).axes
    assert left.get_yscale() == right.get_yscale() == "log"
    (best,) = [line for line in right.lines if line.get_marker() == "*"]
    np.testing.assert_allclose(np.asarray(best.get_xydata()), [(20, 2)])
    assert best.get_label() == "best: 2.0 %, step 20"


def test_an_error_of_none_is_drawn_as_half_an_image():
    """A logarithmic axis has no zero."""
    none_wrong = {**validation(1, 0.0, 0.01), "seen": 364}
    axes = training_curves([1.0], [none_wrong]).axes[1]
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), [100 * 0.5 / 364])
    draw(axes.figure)


def test_compared_curves_have_a_panel_a_data_set_and_labels_that_do_not_overlap():
    curves = [Curve(f"net {i}", [10, 20], [50.0, 40 + i / 10], "digits") for i in range(5)]
    figure = compared_curves([*curves, Curve("other", [5.0, 9.0], [3.0, 0.0], "photos")])
    digits, photos = figure.axes
    assert (digits.get_title(), photos.get_title()) == ("digits", "photos")
    assert digits.get_yscale() == "log"
    labels = [(text, box) for text, box in written(figure) if text.startswith(("net", "other"))]
    assert [text for text, _ in labels] == [f"net {i}  {40 + i / 10:.1f} %" for i in range(5)] + [
        "other  0.0 %"
    ]
    for (_, one), (_, another) in combinations(labels, 2):
        assert not one.overlaps(another)


@pytest.mark.parametrize("losses", [[], [3.0], [float("nan")] * 3], ids=["none", "one", "no number"])
def test_curves_of_almost_nothing(losses):
    figure = training_curves(losses, [])
    draw(figure)
    assert (figure.axes[0].lines[1].get_marker() == "o") == (losses == [3.0])  # a line would not be seen


def shown(figure):
    """The images of a montage, in order."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_inputs_are_shown_in_their_colours():
    pixels_BHWC = np.zeros((3, 8, 8, 3), np.float32)
    pixels_BHWC[0, ..., 0] = 255
    pixels_BHWC[1, ..., 1] = 300  # colour shifts leave the range of pixels
    pixels_BHWC[2] = -20
    figure = input_montage(pixels_BHWC, ["red", "green", "black"])
    image = draw(figure)
    for axes, colour in zip(figure.axes, [(255, 0, 0), (0, 255, 0), (0, 0, 0)], strict=False):
        box = axes.get_position()
        row = round((1 - (box.y0 + box.y1) / 2) * image.shape[0])
        column = round((box.x0 + box.x1) / 2 * image.shape[1])
        np.testing.assert_array_equal(image[row, column], colour)
    assert [axes.get_title() for axes in figure.axes] == ["red", "green", "black"]


def prediction(true, predicted, confidence=1.0, value=0):
    return ShownPrediction(np.full((8, 8, 3), value, np.uint8), true, predicted, confidence)


def test_predictions_tell_right_from_wrong_and_worst_from_random():
    worst = [prediction("dog", "cat", 0.55, 255)]
    random = [prediction("cat, feline", "cat, feline", 0.9), prediction("dog", "cow", 0.5)]
    figure = prediction_montage(worst, random, "a net, its protocol")
    titles = [(axes.title.get_text(), axes.title.get_color()) for axes in figure.axes]
    assert titles == [("cat\n55%, is dog", RED), ("cat\n90%", GREEN), ("cow\n50%, is dog", RED)]
    np.testing.assert_array_equal(shown(figure)[0], 1.0)
    headings = [figure.get_suptitle(), *(part.get_suptitle() for part in figure.subfigs)]
    assert headings == ["a net, its protocol", "Worst mistakes", "Taken at random"]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 24])
def test_captions_do_not_run_into_each_other(count):
    pixels_BHWC, names = np.zeros((count, 8, 8, 3)), [LONG] * count
    others = [prediction(LONG, f"{i} {LONG}") for i in range(count)]
    for figure, captions in (
        (input_montage(pixels_BHWC, names), count),
        (prediction_montage(others, others), 2 * count),
        (prediction_montage([], others), count),
    ):
        texts = written(figure)
        assert len(texts) == len(shown(figure)) == captions
        for (_, one), (_, other) in combinations(texts, 2):
            assert not one.overlaps(other)
        width, _ = figure.get_size_inches() * figure.dpi
        assert all(box.x0 >= 0 and box.x1 <= width for _, box in texts)


def test_ranked_predictions_say_of_what_they_are():
    image = np.zeros((8, 8, 3), np.uint8)
    figure = ranked_predictions([image], [[("cat", 0.7512), ("dog", 0.2)]], ["a$b.jpg"], "net, dense, Q = 32")
    texts = [text for text, _ in written(figure)]
    assert texts == ["a\\$b.jpg", " 75.1%", " 20.0%"]
    assert figure.get_suptitle() == "net, dense, Q = 32"


@pytest.mark.parametrize("count", [1, 4, 16])
def test_pictures_of_predictions_fit_on_a_screen(count):
    images = [np.zeros((48, 64, 3), np.uint8)] * count
    names = [f"a photograph {i}.jpg" for i in range(count)]
    best = [[("class of a long name", 0.75), ("dog", 0.2)]] * count
    heat = [np.zeros((2, 2))] * count
    for figure in (
        ranked_predictions(images, best, names, "net, dense, Q = 32"),
        heat_maps(images, heat, [each[0] for each in best], names, "net, Grad-CAM"),
    ):
        width, height = figure.get_size_inches()
        assert 0.8 < width / height < 3
        titles = [(text, box) for text, box in written(figure) if text.startswith("a photograph")]
        assert [text for text, _ in titles] == names
        for (_, one), (_, other) in combinations(titles, 2):
            assert not one.overlaps(other)


def test_accuracy_of_each_class_the_lowest_first():
    counts_KK = np.array([[8, 2, 0, 0], [0, 5, 0, 0], [3, 0, 1, 0], [0, 0, 0, 0]])
    axes = class_accuracy_figure(counts_KK, ["cat", "dog, hound", "cow", "unseen"], "a net").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cow", "cat", "dog"]
    assert [bar.get_width() for bar in axes.containers[0]] == [25, 80, 100]
    assert [text.get_text() for text in axes.texts] == [" 25 % of 4", " 80 % of 10", " 100 % of 5"]


def test_accuracy_of_many_classes_is_that_of_the_lowest_and_the_highest():
    right = np.arange(1, 101)
    counts_KK = np.diag(right)
    counts_KK[:, 0] += 100 - right
    axes = class_accuracy_figure(counts_KK, [f"class {k}" for k in range(100)]).axes[0]
    assert len(axes.patches) == 40
    assert "of 100 classes" in axes.get_title()
    draw(axes.figure)


def test_confusion_of_few_classes_has_every_count_in_its_cell():
    counts_KK = np.array([[8, 2, 0], [0, 5, 0], [1, 0, 3]])
    figure = confusion_figure(counts_KK, ["cat", "dog, hound", "cow"])
    axes = figure.axes[0]
    share_KK = counts_KK / counts_KK.sum(1, keepdims=True)
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), share_KK)
    found = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "8", (0, 1): "2", (1, 1): "5", (2, 0): "1", (2, 2): "3"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "cow"]


@pytest.mark.parametrize("classes", [200, 1000])
def test_confusion_of_many_classes_names_the_worst(classes):
    counts_KK = 50 * np.eye(classes, dtype=np.int64)
    counts_KK[17, 17], counts_KK[17, 30] = 20, 30
    counts_KK[99, 99], counts_KK[99, 98] = 44, 6
    counts_KK[5] = 0  # never seen: neither right nor wrong
    names = [f"class {k}" for k in range(classes)]
    figure = confusion_figure(counts_KK, names)
    ((text, box),) = [pair for pair in written(figure) if "Confused" in pair[0]]
    least, confused = (part.splitlines()[1:] for part in text.split("\n\n"))
    assert [line.strip() for line in least[:2]] == ["40%  class 17", "88%  class 99"]
    assert confused == ["30 of 50  class 17 taken for class 30", "6 of 50  class 99 taken for class 98"]
    assert box.x1 <= figure.get_figwidth() * figure.dpi
    assert box.y0 >= 0
    image, cells = draw(figure), figure.axes[0].get_position()
    for k in (0, classes // 2, classes - 1):  # the diagonal is seen, however thin it is
        row = round((1 - cells.y1 + (k + 0.5) / classes * cells.height) * image.shape[0])
        column = round((cells.x0 + (k + 0.5) / classes * cells.width) * image.shape[1])
        near = image[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3].astype(int)
        assert near.sum(-1).min() < 500


def test_drawing_leaves_pyplot_alone():
    """Pyplot keeps global state, and is not for threads."""
    program = (
        "import numpy as np, sys; from vgg.pictures.confusion import confusion_figure\n"
        "confusion_figure(np.eye(40), list(map(str, range(40)))).savefig(sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, "/dev/null"], cwd=ROOT, check=True, timeout=120)
