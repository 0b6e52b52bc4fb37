from __future__ import annotations

import builtins

import numpy as np
import pytest
from PIL import Image

from masklet.structures import Classes, Curve
from masklet.structures.errors import UserError
from masklet.viz.curves import confusion_picture, curve_picture, loss_curves, score_bars

pytest.importorskip("matplotlib")
CLASSES = Classes(("sky", "road", "car"))
HISTORY = [
    {"epoch": i, "loss": 2 / i, "val_loss": 2.2 / i, "miou": 1 - 1 / i, "lr": 0.1, "seconds": 4.0, "iou/sky": 0.5}
    for i in range(1, 6)
]


def colored(picture):
    return int((picture.astype(int).max(-1) - picture.astype(int).min(-1) > 60).sum())


def test_losses_and_scores_side_by_side(tmp_path):
    both = loss_curves(HISTORY, tmp_path / "new" / "curves.png", title="street")
    assert both.dtype == np.uint8
    assert colored(both) > 500
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "curves.png")), both)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["curves.png"]
    losses = loss_curves([{"loss": 1.0}, {"loss": float("nan")}, {"loss": 0.5, "epoch": 3}])
    assert losses.shape[1] < both.shape[1]


@pytest.mark.parametrize("history", [[], [{"epoch": 1, "note": "x"}]])
def test_histories_without_numbers(history):
    with pytest.raises(UserError, match="history"):
        loss_curves(history)


def test_curves_of_a_metric_have_one_panel_per_group(tmp_path):
    recall = np.linspace(0, 1, 101)
    lines = [Curve(n, recall, 1 - recall**k, "recall", "precision", "IoU .5") for n, k in (("cat", 4.0), ("dog", 2.0))]
    one = curve_picture(lines, tmp_path / "pr.png", title="precision and recall")
    assert colored(one) > 500
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "pr.png")), one)
    gap = Curve("far", np.arange(3.0), np.array([2.0, np.nan, 4.0]), group="another")
    assert curve_picture([*lines, gap]).shape[1] == 2 * one.shape[1]
    with pytest.raises(UserError, match="there are no curves to draw; score something first"):
        curve_picture([])


def test_confusion_leaves_out_classes_without_pixels():
    table = np.array([[90, 10, 0], [5, 95, 0], [0, 0, 0]])
    assert confusion_picture(table, CLASSES).shape[0] == confusion_picture(table[:2, :2], ("sky", "road")).shape[0]
    with pytest.raises(UserError, match="the table is 3x3 but there are 2 classes"):
        confusion_picture(table, ("sky", "road"))


def test_bars_are_in_class_colours():
    found = score_bars({"iou/sky": 0.9, "iou/road": 0.5, "iou/car": float("nan"), "miou": 0.7}, CLASSES)
    for color, drawn in zip(CLASSES.colors, (True, True, False), strict=True):
        assert (found == np.array(color)).all(-1).any() == drawn
    with pytest.raises(UserError, match=r"no dice/<class> among the scores; there are: miou"):
        score_bars({"miou": 0.5}, CLASSES, kind="dice")


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"matplotlib is not installed; pip install 'masklet\[report\]'"):
        loss_curves(HISTORY)
