"""The page of scores."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from masklet.structures import Curve
from masklet.structures.errors import UserError
from masklet.viz.scores import save_score_page, score_page


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def tags(page: str) -> list[tuple[str, dict]]:
    parser = Tags()
    parser.feed(page)
    return parser.seen


CURVE = Curve("cat", np.array([0, 0.5, 1.0]), np.array([1.0, 0.5, 0.25]), "recall", "precision", "IoU .5")


def test_everything_is_on_the_page():
    rows = [{"class": "cat <3", "ap": 0.5, "truths": 3}, {"class": "dog", "ap": float("nan"), "truths": 0}]
    page = score_page("ap", {"ap": 0.123456, "ap/cat": 0.5}, "Average & co", rows, [CURVE], {"truth": "a.json"})
    for text in ("<b>0.1235</b><span>ap</span>", "Average &amp; co", "cat &lt;3", "<td>–</td>", "<b>truth</b> a.json"):
        assert text in page
    assert "ap/cat" not in page
    assert not [t for t in tags(page) if "src" in t[1] or "href" in t[1]], "the page asks for nothing from outside"


def test_curve_points_stand_where_they_belong():
    page = score_page("ap", {}, curves=[CURVE])
    (line,) = [attrs["points"] for tag, attrs in tags(page) if tag == "polyline"]
    points = [tuple(map(float, p.split(","))) for p in line.split()]
    assert points == [(46.0, 12.0), (247.0, 148.0), (448.0, 216.0)]  # 402 wide, 272 high, y downwards


def test_gaps_and_groups():
    holes = Curve("j", np.arange(5.0), np.array([0.1, 0.2, np.nan, 0.4, 0.5]), group="a")
    page = score_page("jf", {}, curves=[holes, Curve("f", np.arange(2.0), np.ones(2), group="b")])
    lines = [attrs["points"].split() for tag, attrs in tags(page) if tag == "polyline"]
    assert [len(points) for points in lines] == [2, 2, 2]
    assert page.count("<figure>") == 2


def test_curves_without_numbers_and_far_numbers():
    page = score_page(
        "x", {}, curves=[Curve("none", np.zeros(0), np.zeros(0)), Curve("flat", np.arange(2.0), np.full(2, 30.0))]
    )
    assert "nan" not in page


def test_many_lines_share_one_key():
    page = score_page("x", {}, curves=[Curve(f"c{i}", np.arange(2.0), np.arange(2.0)) for i in range(30)])
    assert "<li>and 6 more</li>" in page


def test_file_is_whole_or_not_there(tmp_path):
    path = save_score_page(tmp_path / "deep" / "scores.html", "miou", {"miou": 1.0})
    assert path.read_text().startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["scores.html"]


def test_crooked_curve():
    with pytest.raises(UserError, match=r"curve 'pr' has x of shape \(2,\) and y of shape \(3,\); give two lists of"):
        Curve("pr", np.zeros(2), np.zeros(3))
