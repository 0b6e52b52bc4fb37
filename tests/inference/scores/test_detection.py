"""Scoring COCO's files, as a function and as a command."""

import json

import numpy as np
import pytest

import coco_sets
from masklet.inference.scores import SCORERS, options, scorer
from masklet.inference.scores.detection import score_ap, score_voc_ap


@pytest.fixture
def files(tmp_path):
    """A random set with masks, in files; results hold boxes too."""
    truth, results = coco_sets.made(np.random.default_rng(4), "mask")
    for item in results:
        item["bbox"] = [1.0, 2.0, 30.0, 40.0]
    paths = tmp_path / "results.json", tmp_path / "truth.json"
    for path, data in zip(paths, (results, truth), strict=True):
        path.write_text(json.dumps(data))
    return *paths, results, truth


def test_files_equal_pycocotools(files):
    """Areas are those of the masks, also where the results have boxes besides."""
    results_path, truth_path, results, truth = files
    seen = []
    score = score_ap(results_path, truth_path, progress=lambda done, total: seen.append((done, total)))
    plain = [{key: value for key, value in item.items() if key != "bbox"} for item in results]
    theirs, printed = coco_sets.verdict(truth, plain, "mask", (1, 10, 100))
    assert score.iou_type == "mask"
    assert score.summary() == printed.rstrip("\n")
    assert seen[-1] == (len(truth["images"]),) * 2
    assert score.image_ids == [image["id"] for image in truth["images"]]
    boxes = score_ap(results_path, truth_path, iou_type="box", max_dets=[5], use_classes=False)
    theirs, _ = coco_sets.verdict(truth, results, "box", (5,), use_classes=False)
    assert np.array_equal(boxes.precision_recall()[0], theirs.eval["precision"][..., 0])
    assert score_ap(results_path, truth_path, iou_type="boundary").compute()["ap"] <= score.compute()["ap"]


def test_voc_on_the_same_files(files):
    results_path, truth_path, _, truth = files
    score = score_voc_ap(results_path, truth_path, points="eleven", progress=lambda done, total: None)
    assert 0 <= score.compute()["ap"] <= 1
    assert sum(row["truths"] for row in score.table()) == sum(not item["iscrowd"] for item in truth["annotations"])


def test_the_table_of_scorers_knows_them():
    assert [*options("ap")] == ["iou_type", "max_dets", "use_classes", "federated", "sigmas"]
    assert scorer("voc_ap") is score_voc_ap
    assert {"ap", "voc_ap"} <= SCORERS.keys()


def test_bad_choices(files):
    results_path, truth_path, _, _ = files
    for options_, message in (
        ({"iou_type": "segm"}, "iou_type is 'segm'; choose from box, keypoints, mask, boundary"),
        (
            {"federated": True},
            "the truth does not tell which classes were checked; LVIS has neg_category_ids in images",
        ),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
            score_ap(results_path, truth_path, **options_)
        assert str(caught.value) == message


def test_no_results_at_all(files, tmp_path):
    _, truth_path, _, _ = files
    (tmp_path / "none.json").write_text("[]")
    assert score_ap(tmp_path / "none.json", truth_path, iou_type="mask").compute()["ap"] == 0
