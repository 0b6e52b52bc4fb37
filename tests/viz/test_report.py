from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image

from masklet.structures import Classes, Masks, SemanticMap
from masklet.viz.report import card, page

CLASSES = Classes(("background", "cat", "<b>mat</b>"), colors=((0, 0, 0), (200, 40, 40), (30, 90, 210)))


def result(height=60, width=80):
    labels = torch.zeros(height, width, dtype=torch.uint8)
    labels[: height // 2], labels[height // 2 :, : width // 2] = 1, 2
    return SemanticMap(labels, CLASSES)


def photo(height=60, width=80):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data", "poster")]
        if tag not in ("meta", "img", "input", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_needs_nothing_from_outside():
    cards = [card(f"{n}.jpg", photo(), result(), {"in": "0.2 s"}) for n in ("one", "<script>two")]
    text = page(cards, "A & B", {"model": "street"}, about="Two pictures.")
    reader = Reader()
    reader.feed(text)
    assert not reader.open
    assert len(reader.links) == 4
    assert all(link.startswith("data:image/") for link in reader.links)
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    words = " ".join(reader.text)
    for expected in (
        "A & B",
        "street",
        "one.jpg",
        "<script>two",
        "<b>mat</b>",
        "50 %",
        "80 × 60 · in 0.2 s",
        "On average",
    ):
        assert expected in words
    assert "prefers-color-scheme:dark" in text


def test_paint_is_transparent_where_nothing_is():
    one = card("x", photo(), result())
    paint = np.asarray(Image.open(io.BytesIO(one.paint)).convert("RGBA"))
    assert paint[10, 10].tolist() == [200, 40, 40, 118]
    assert paint[59, 79, 3] == 0
    assert paint[29, 60].tolist() == [200, 40, 40, 255]  # outline
    assert one.shares == (("cat", (200, 40, 40), 0.5), ("<b>mat</b>", (30, 90, 210), 0.25))


def test_large_pictures_are_shrunk():
    one = card("x", photo(400, 1000), result(400, 1000), side=200)
    assert Image.open(io.BytesIO(one.photo)).size == Image.open(io.BytesIO(one.paint)).size == (200, 80)
    assert one.size == (400, 1000)
    assert f"{base64.b64encode(one.photo).decode()[:60]}" in page([one])


def test_many_objects_and_no_pictures():
    masks = torch.zeros(200, 40, 40, dtype=torch.bool)
    for i in range(200):
        masks[i, i // 5, 8 * (i % 5) : 8 * (i % 5) + 4] = True
    one = card("crowd", photo(40, 40), Masks.from_dense(masks))
    paint = np.asarray(Image.open(io.BytesIO(one.paint)).convert("RGBA"))
    assert set(np.unique(paint[..., 3])) == {0, 118}
    assert "On average" not in page([one, one])  # 200 names would say nothing
    assert "No pictures." in page([])
    empty = card("nothing", photo(1, 1), SemanticMap(torch.zeros(1, 1, dtype=torch.uint8), CLASSES))
    assert 'alt="nothing: nothing found"' in page([empty])
