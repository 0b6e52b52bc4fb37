from __future__ import annotations

import numpy as np
import pytest

from masklet.structures import Classes
from masklet.structures.errors import UserError
from masklet.viz import words
from masklet.viz.contact import contact_sheet, with_legend
from masklet.viz.overlay import Layer
from masklet.viz.words import clipped, legend, percent, text_size, writable

CLASSES = Classes(("background", "cat", "mat"), colors=((0, 0, 0), (200, 40, 40), (30, 90, 210)))


def picture(height, width, value=128):
    return np.full((height, width, 3), value, np.uint8)


def test_a_sheet_holds_pictures_headings_captions_and_legend():
    rows = [[picture(60, 80), picture(60, 80, 7), None], [picture(100, 50), picture(10, 200)]]
    plain = contact_sheet(rows, width=600)
    full = contact_sheet(rows, ("photo", "truth", "ours"), [["a"], ["b", "c"]], CLASSES, width=600, title="A title")
    assert plain.shape[1] == full.shape[1] == 600
    assert full.shape[0] > plain.shape[0] + 60
    assert (plain == 7).all(-1).sum() > 60 * 80
    assert (full == np.array(CLASSES.colors[1])).all(-1).any()
    assert (plain[:, :4] == 255).all()


def test_small_pictures_are_enlarged_without_blur():
    tiny = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)
    assert set(np.unique(contact_sheet([[tiny]], width=400))) == {0, 255}


@pytest.mark.parametrize(
    ("rows", "headings", "captions", "message"),
    [
        ([], (), (), "a contact sheet needs at least one picture"),
        ([[picture(4, 4)]], ("a", "b"), (), "there are more headings than the 1 columns of pictures"),
        ([[picture(4, 4)]], (), [["a", "b"]], "there are more captions than the 1 columns of pictures"),
    ],
)
def test_sheets_that_cannot_be(rows, headings, captions, message):
    with pytest.raises(UserError) as error:
        contact_sheet(rows, headings, captions)
    assert str(error.value) == message


def test_a_legend_under_a_picture():
    layer = Layer(
        np.array([[1, 2]], np.uint8),
        np.array([[0, 0, 0], [9, 8, 7], [1, 2, 3]] + [[0, 0, 0]] * 253, np.uint8),
        ("cat",),
    )
    found = with_legend(picture(40, 300), layer)
    assert found.shape[1] == 300
    assert (found[:40] == 128).all()
    for color in ((9, 8, 7), (1, 2, 3)):
        assert (found[40:] == np.array(color)).all(-1).any()
    assert not (with_legend(picture(40, 300), CLASSES) == 0).all(-1).any()  # background has no swatch


def test_legends_wrap_and_long_names_are_clipped():
    entries = [(f"class number {i}", (i, 100, 50), 0.1 * i) for i in range(9)]
    assert legend(entries, 200).shape[0] > 3 * legend(entries, 2000).shape[0]
    assert legend([("x" * 500, (1, 2, 3), None)], 120).shape[1] == 120
    assert clipped("short", 12, 500) == "short"
    cut = clipped("a very long name indeed", 12, 60)
    assert cut.endswith("...")
    assert text_size(cut, 12)[0] <= 60


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.0004, "< 0.1 %"), (0.034, "3.4 %"), (0.5, "50 %"), (1.0, "100 %")]
)
def test_percent(share, text):
    assert percent(share) == text


def test_without_a_font_for_them_accents_fall(monkeypatch):
    words.font.cache_clear()

    real = words.ImageFont.truetype

    def missing(font, *args, **kwargs):
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return real(font, *args, **kwargs)

    monkeypatch.setattr(words.ImageFont, "truetype", missing)
    assert writable("Straße à Łódź") == "Stra?e a ?odz"
    assert text_size("é", 20)[0] > 0
    words.font.cache_clear()
    assert writable("plain") == "plain"
