"""AP against pycocotools (live), worked examples of the specification, lvis (recorded), and its own promises."""

import itertools
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import coco_sets
from conftest import shared
from masklet.data.coco import parse_results, parse_truth
from masklet.data.sources import open_source
from masklet.inference.scores.detection import score_ap, score_tables
from masklet.metrics.ap import AveragePrecision, keypoint_ap, lvis_ap
from masklet.structures import Classes, Instances, Masks
from masklet.structures.objects import Objects, concat

KINDS = ("box", "mask", "keypoints")


def scored(truth, results, kind, **options):
    known = parse_truth(truth, "mask" if kind == "boundary" else kind)
    found = parse_results(results, known, "mask" if kind == "boundary" else kind)
    return score_tables(found, known, kind, **options)


def numbers(score):
    return [-1 if math.isnan(value) else value for key, value in score.compute().items() if "/" not in key]


def compare(kind, count, first=0):
    """Every number of `COCOeval` on `count` random sets: precision at each recall, recall, and the summary."""
    limits = [(20,), (3,)] if kind == "keypoints" else [(1, 10, 100), (1, 3, 7), (2, 5, 100)]
    made = ((seed, *coco_sets.made(np.random.default_rng(seed), kind)) for seed in itertools.count(first))
    readable = (item for item in made if item[2])  # pycocotools cannot read an empty list
    for seed, truth, results in itertools.islice(readable, count):
        max_dets, use_classes = limits[seed % len(limits)], kind == "keypoints" or seed % 4 > 0
        theirs, printed = coco_sets.verdict(truth, results, kind, max_dets, use_classes)
        ours = scored(truth, results, kind, max_dets=max_dets, use_classes=use_classes)
        for i, limit in enumerate(max_dets):
            precision, recall = ours.precision_recall(limit)
            np.testing.assert_allclose(
                precision, theirs.eval["precision"][..., i], rtol=0, atol=1e-12, err_msg=str(seed)
            )
            np.testing.assert_allclose(recall, theirs.eval["recall"][..., i], rtol=0, atol=1e-12, err_msg=str(seed))
        if max_dets[-1] in (20, 100):  # the summary of pycocotools is -1 for others
            np.testing.assert_allclose(numbers(ours), theirs.stats, rtol=0, atol=1e-12)
            assert ours.summary() == printed.rstrip("\n")


@pytest.mark.parametrize("kind", KINDS)
def test_equals_pycocotools(kind):
    compare(kind, 100)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_equals_pycocotools_on_many_more(kind):
    compare(kind, 1000, first=1000)


def test_the_comparison_can_fail():
    """One score moved, one crowd no crowd: the numbers change."""
    truth, results = coco_sets.made(np.random.default_rng(1), "box")
    before = scored(truth, results, "box").precision_recall()[0]
    first = max(results, key=lambda item: item["score"])
    first["score"] = 0.0
    assert not np.array_equal(scored(truth, results, "box").precision_recall()[0], before)


@pytest.mark.parametrize(
    ("file", "kind", "use_classes"),
    [
        ("bbox", "box", True),
        ("bbox", "box", False),
        ("segm", "mask", True),
        ("segm", "mask", False),
        ("keypoints", "keypoints", True),
    ],
)
def test_recorded_numbers(file, kind, use_classes):
    """Truth with polygons, run lengths and crowds, as pycocotools 2.0.11 scored it."""
    folder = shared("oracles", "coco_ap", "made")
    want = json.loads((folder / "meta.json").read_text())["results"][file]
    score = score_ap(folder / f"dt_{file}.json", folder / "gt.json", use_classes=use_classes)
    assert score.iou_type == kind, "recognised from the results"
    assert numbers(score) == pytest.approx(want["stats" if use_classes else "stats_useCats_0"], abs=1e-12)
    if use_classes:
        each = [-1 if math.isnan(row["ap"]) else row["ap"] for row in score.table()]
        assert each == pytest.approx([*want["ap_per_category_area_all"].values()], abs=1e-12)


def image(boxes, scores=None, **more):
    return Objects.of_image([0] * len(boxes), boxes=boxes, scores=scores, **more)


def ap(*pairs, **options):
    score = AveragePrecision(1, **options)
    for i, (pred, truth) in enumerate(pairs):
        score.update(pred, truth, image=i)
    return score.compute()


def test_examples_worked_by_hand():
    """The specification's, with the numbers of pycocotools."""
    two = image([[0, 0, 40, 40], [100, 0, 140, 40]])
    found = image([[0, 0, 40, 40], [50, 50, 90, 90], [100, 0, 140, 40]], [0.9, 0.8, 0.7])
    # Right, wrong, right: precision 1 up to recall .5 (51 of 101 points), then 2/3.
    assert ap((found, two))["ap"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert ap((found, two))["ap"] == pytest.approx(0.835, abs=5e-4)
    shorter = ap((image([[0, 0, 50, 40]], [0.5]), image([[0, 0, 50, 50]])))  # IoU .8: right at seven of ten thresholds
    assert shorter["ap"] == pytest.approx(0.7)
    assert shorter["ap75"] == pytest.approx(1)
    assert ap((image([[10, 0, 110, 100]], [0.5]), image([[0, 0, 100, 100]])))["ap"] == pytest.approx(0.7)  # IoU .818
    crowd = image([[0, 0, 80, 80], [200, 0, 240, 40]], crowd=[True, False])
    inside = image([[10, 10, 30, 30], [200, 0, 240, 40]], [0.9, 0.8])
    assert ap((inside, crowd))["ap"] == pytest.approx(1), "what lies in a crowd does not count"
    assert ap((inside, crowd))["ar@1"] == 0, "but it was the best one"


def test_keypoints_worked_by_hand():
    """All 17 points 3 pixels off in an area of 5000: OKS .903, above nine of ten thresholds."""
    points = np.concatenate([np.random.default_rng(0).uniform(20, 80, (17, 2)), np.full((17, 1), 2)], 1)
    truth = Objects.of_image([0], boxes=[[0, 0, 100, 100]], keypoints=[points], areas=[5000])
    score = keypoint_ap(Classes(("person",)))
    score.update(Objects.of_image([0], keypoints=[points + np.array([3, 0, 0])], scores=[1]), truth, image="a")
    sigmas = np.array(score.sigmas)
    assert np.exp(-9 / (8 * sigmas**2 * 5000)).mean() == pytest.approx(0.903157, abs=1e-6)
    assert score.compute()["ap"] == pytest.approx(0.9)
    assert [line[51:59] for line in score.summary().splitlines()][3:5] == ["  medium", "   large"][
        :2
    ] or score.summary()


def test_boundary_is_the_stricter_one():
    """A large disc with a wobbling edge: the masks agree, the boundaries less so; equal masks agree in both."""
    y, x = np.mgrid[:200, :200] - 100
    disc, wobbly = x**2 + y**2 < 80**2, np.hypot(x, y) < 80 + 6 * np.sin(9 * np.arctan2(y, x))
    truth = Objects.of_image([0], masks=disc[None])
    same, near = (Objects.of_image([0], masks=m[None], scores=[1.0]) for m in (disc, wobbly))
    assert ap((near, truth), iou_type="mask")["ap"] > ap((near, truth), iou_type="boundary")["ap"]
    assert ap((same, truth), iou_type="boundary")["ap"] == pytest.approx(1)
    # By hand: 2 % of the diagonal of 200x200 are 6 pixels, so of two squares only their frames of 6 pixels count
    square, moved = np.zeros((2, 200, 200), bool)
    square[50:150, 50:150] = moved[50:150, 60:160] = True
    frame = np.zeros((2, 200, 200), bool)
    frame[0, 50:150, 50:150] = frame[1, 50:150, 60:160] = True
    frame[0, 56:144, 56:144] = frame[1, 56:144, 66:154] = False
    boundary = (frame[0] & frame[1]).sum() / (frame[0] | frame[1]).sum()
    pair = Objects.of_image([0], masks=moved[None], scores=[1.0]), Objects.of_image([0], masks=square[None])
    limits = (boundary - 1e-6, boundary + 1e-6)
    below, above = (ap(pair, iou_type="boundary", thresholds=(limit,))["ap"] for limit in limits)
    assert (below, above) == (pytest.approx(1), 0)


def pieces(seed, kind="box", ties=True):
    """A random set as tables, one entry for each image."""
    rng = np.random.default_rng(seed)
    truth, results = coco_sets.made(rng, kind)
    if not ties:
        for item, score in zip(results, rng.permutation(len(results)), strict=True):
            item["score"] = float(score)
    known = parse_truth(truth, kind)
    found = parse_results(results, known, kind)
    n = len(known.ids)
    return known.classes, [(found.objects(i, i + 1), known.objects(i, i + 1), known.ids[i]) for i in range(n)]


def together(classes, images, **options):
    score = AveragePrecision(classes, **options)
    for pred, truth, image_id in images:
        score.update(pred, truth, image=image_id)
    return score


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a.precision_recall(), b.precision_recall(), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["box", "mask"]), st.data())
def test_parts_merge_into_the_whole(seed, kind, data):
    """In any order, with equal scores, however the images are dealt out; also after a trip through another process."""
    classes, images = pieces(seed, kind)
    whole = together(classes, images, iou_type=kind)
    dealt = data.draw(st.lists(st.integers(0, 2), min_size=len(images), max_size=len(images)))
    order = data.draw(st.permutations(range(len(images))))
    parts = [together(classes, [images[i] for i in order if dealt[i] == part], iou_type=kind) for part in range(3)]
    merged = pickle.loads(pickle.dumps(parts[2]))
    merged.merge(parts[0])
    merged.merge(parts[1])
    assert same(merged, whole)
    assert merged.images == whole.images == len(images)
    assert all(a == b or a != a for a, b in zip(merged.compute().values(), whole.compute().values(), strict=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_order_of_images_and_range(seed, random):
    """Without equal scores neither the names nor the order of the images matter; scores are within [0, 1]."""
    classes, images = pieces(seed, ties=False)
    score = together(classes, images)
    mixed = [(pred, truth, f"name {name}") for name, (pred, truth, _) in enumerate(random.sample(images, len(images)))]
    assert same(together(classes, mixed), score)
    assert all(math.isnan(value) or 0 <= value <= 1 for value in score.compute().values())
    for curve in score.curves():
        assert (np.diff(curve.y) <= 1e-12).all(), "precision beyond a recall never grows with it"


def test_perfect_and_empty():
    boxes = [[0, 0, 40, 40], [50, 50, 90, 90]]
    perfect = ap((image(boxes, [0.9, 0.8]), image(boxes)))
    assert all(perfect[key] == pytest.approx(1) for key in ("ap", "ap50", "ap75", "ap_medium", "ar@10", "ap/0"))
    assert math.isnan(perfect["ap_small"]), "there are no small ones"
    nothing = image(np.zeros((0, 4)), [])
    assert ap((nothing, image(boxes)))["ap"] == 0
    assert all(map(math.isnan, ap((nothing, image(np.zeros((0, 4))))).values()))
    assert all(map(math.isnan, AveragePrecision(2).compute().values())), "no image at all"
    assert AveragePrecision(2).summary().splitlines()[0].endswith("maxDets=100 ] = -1.000")
    assert AveragePrecision(2).curves() == []


def test_instances_and_their_masks():
    """Results of models go in as they are; dense masks and run lengths are the same."""
    masks = torch.zeros(2, 30, 30, dtype=torch.bool)
    masks[0, 2:12, 2:12] = masks[1, 15:25, 15:27] = True
    classes = Classes(("cat", "dog"))
    truth = Instances.from_masks(Masks.from_dense(masks), torch.tensor([0, 1]), classes)
    for kind in ("box", "mask", "boundary"):
        score = AveragePrecision(classes, kind)
        score.update(truth, truth, image="a.jpg")
        score.update(truth, truth, image="b.jpg", crowd=[False, True])
        assert score.compute()["ap"] == pytest.approx(1)
        assert [row["truths"] for row in score.table()] == [2, 1]
    dense = Objects.of_image([0, 1], masks=masks, scores=[1, 1])
    assert dense.areas.tolist() == [100, 120]
    assert [curve.name for curve in score.curves()] == ["IoU 0.50", "IoU 0.75", "IoU 0.50 to 0.95", "cat", "dog"]


def test_own_thresholds_and_areas():
    """One threshold, one area, and more than 64 of both at once."""
    classes, images = pieces(5)
    usual = together(classes, images)
    one = together(classes, images, thresholds=(0.75,), areas={"all": (0, 1e10)}, max_dets=(100,))
    assert [*one.compute()][:3] == ["ap", "ap75", "ar@100"]
    assert np.array_equal(one.precision_recall()[0][0, ..., 0], usual.precision_recall()[0][5, ..., 0])
    fine = together(classes, images, thresholds=tuple(np.linspace(0.5, 0.95, 46).tolist()))
    for t in range(10):
        assert np.array_equal(fine.precision_recall()[0][5 * t], usual.precision_recall()[0][t])


def test_memory_is_that_of_scores_not_of_masks():
    """After matching, about 20 bytes for each found object are left."""
    rng = np.random.default_rng(0)
    score = AveragePrecision(3, "mask")
    for i in range(40):
        masks = np.zeros((20, 60, 60), bool)
        for mask in masks:
            y, x = rng.integers(0, 40, 2)
            mask[y : y + 20, x : x + 20] = True
        labels = rng.integers(0, 3, 20)
        pred, truth = (Objects.of_image(labels, masks=masks, scores=s) for s in (rng.random(20), None))
        score.update(pred, truth, image=i)
    score.compute()
    assert not score._waiting
    assert sum(part.nbytes for column in score._columns.values() for part in column) < 800 * 40


BOX = [[0, 0, 4, 4]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AveragePrecision(1, "segm"), "iou_type is 'segm'; choose from box, mask, boundary, keypoints"),
        (lambda: AveragePrecision(1, limit="all"), "limit is 'all'; choose from class, image"),
        (
            lambda: AveragePrecision(1, max_dets=(10, 1)),
            "max_dets are (10, 1); give rising numbers from 1, such as (1, 10, 100)",
        ),
        (lambda: AveragePrecision(1, limit="image"), "max_dets are (1, 10, 100); give one number with limit='image'"),
        (
            lambda: AveragePrecision(1, thresholds=(0.0,)),
            "thresholds are (0.0,); give rising numbers above 0, such as (.5, .75)",
        ),
        (lambda: AveragePrecision(1, areas={}), "there are 0 areas; give 1 to 32 ranges by name, the first for all"),
        (lambda: lvis_ap(2, "r"), "there are 2 classes but 1 frequencies; give r, c or f for each class"),
        (lambda: AveragePrecision(1).precision_recall(7), "max_det is 7; choose from 1, 10, 100"),
        (
            lambda: AveragePrecision(1).update(image(BOX, [math.nan]), image(BOX), image="a"),
            "scores of object 0 are not finite numbers: nan",
        ),
        (
            lambda: AveragePrecision(1).update(
                replace(image(BOX, [1]), scores=np.array([math.nan])), image(BOX), image="a"
            ),
            "image 'a': a prediction has the score nan; scores are finite numbers",
        ),
        (
            lambda: AveragePrecision(1).update(replace(image(BOX, [1]), labels=np.array([1])), image(BOX), image="a"),
            "image 'a': the prediction has the label 1; labels are 0..0",
        ),
        (
            lambda: AveragePrecision(1).update(image(BOX), image(BOX), image="a"),
            "the predictions have no scores; give one score for each object",
        ),
        (
            lambda: ap((image(BOX, [1]), image(BOX)), iou_type="mask"),
            "the predictions have no masks; score what both sides have, or choose another iou_type",
        ),
        (
            lambda: ap((image(BOX, [1]), image(BOX)), iou_type="keypoints"),
            "the predictions have no keypoints; score what both sides have, or choose another iou_type",
        ),
        (
            lambda: ap(
                (
                    Objects.of_image([0], masks=np.ones((1, 4, 5), bool), scores=[1]),
                    Objects.of_image([0], masks=np.ones((1, 5, 4), bool)),
                ),
                iou_type="mask",
            ),
            "image 0 has masks of 4x5 and of 5x4; "
            "masks of the prediction and of the truth are of the size of the image",
        ),
        (
            lambda: ap(
                (
                    Objects.of_image([0], keypoints=[[[1, 1, 1]]], scores=[1]),
                    Objects.of_image([0], boxes=BOX, keypoints=[[[1, 1, 1]]]),
                ),
                iou_type="keypoints",
            ),
            "objects have 1 keypoints but there are 17 sigmas; give one sigma for each keypoint",
        ),
        (
            lambda: AveragePrecision(1).merge(AveragePrecision(1, "mask")),
            "cannot merge scores of different settings: iou_type is box and mask; use the same settings for every part",
        ),
        (
            lambda: AveragePrecision(1).merge(AveragePrecision(2)),
            "cannot merge scores of different settings: classes is ('0',) and ('0', '1'); "
            "use the same settings for every part",
        ),
        (lambda: twice("a").merge(twice("a")), "image 'a' is in both parts; give every image to one part only"),
        (lambda: twice("a", "a"), "image 'a' came twice; update once for each image, with everything in it"),
    ],
)
def test_bad_input_says_what_came_and_what_to_do(call, message, as_user):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        call()
    assert str(caught.value) == message


def twice(*names):
    score = AveragePrecision(1)
    for name in names:
        score.update(image(BOX, [1]), image(BOX), image=name)
    return score


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Objects.of_image([0], boxes=[[0, 0, 1]]),
            "boxes have the shape (1, 3); for these objects it is (1, 4)",
        ),
        (
            lambda: Objects.of_image([0], boxes=[[4, 0, 1, 1]]),
            "box 0 ends before it begins: [4.0, 0.0, 1.0, 1.0]; boxes are x0 y0 x1 y1, not x y width height",
        ),
        (
            lambda: Objects.of_image([0], boxes=[[0, 0, 1, math.inf]]),
            "boxes of object 0 are not finite numbers: [0.0, 0.0, 1.0, inf]",
        ),
        (lambda: Objects.of_image([0]), "objects need boxes, masks or keypoints, and came with none of them"),
        (
            lambda: Objects.of_image([0], boxes=BOX, crowd=[True, False]),
            "every object needs one entry in every field, but there are 1 labels but 2 crowd",
        ),
        (
            lambda: Objects.of_image([0], boxes=BOX, scores=[1, 2]),
            "scores have the shape (2,); for these objects it is (1)",
        ),
    ],
)
def test_tables_check_themselves(call, message, as_user):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        call()
    assert str(caught.value) == message


def test_tables_join_and_choose():
    a, b = image(BOX, [0.5]), image([[1, 1, 2, 2], [3, 3, 5, 5]], [0.1, 0.2])
    both = concat([a, b.of(1)])
    assert both.image.tolist() == [0, 1, 1]
    assert both.take(np.array([2, 0])).boxes.tolist() == [[3, 3, 2, 2], [0, 0, 4, 4]]
    assert concat([a, image(BOX)]).scores is None


@pytest.mark.parametrize("limit", ["300", "12"])
def test_federated_truth_equals_lvis(limit):
    """Numbers that lvis 0.5.3 gave for made sets; 12 found objects an image instead of its 300 in some."""
    recorded = json.loads((Path(__file__).parent / "lvis_numbers.json").read_text())[limit]
    for seed, want in recorded.items():
        kind = "mask" if int(seed) % 2 else "box"
        score = scored(*coco_sets.federated(int(seed), kind), kind, max_dets=None if limit == "300" else (12,))
        assert numbers(score) == pytest.approx(want, abs=1e-12)
    assert (
        score.summary().splitlines()[6].startswith(" Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=")
    )
    assert " catIds=  r] = " in score.summary().splitlines()[6]


def test_federated_by_hand():
    """Of three found objects one is right, one of an unchecked class, one of a class that is not listed completely."""
    boxes = [[0, 0, 40, 40], [50, 0, 90, 40], [0, 50, 40, 90]]
    found = Objects.of_image([0, 1, 0], boxes=boxes, scores=[0.5, 0.9, 0.8])
    truth = Objects.of_image([0], boxes=boxes[:1])

    def ap(**checked):
        score = lvis_ap(2, "rf", "box")
        score.update(found, truth, image=0, **checked)
        return score.compute()

    assert ap()["ap"] == pytest.approx(0.5), "the third one is wrong, and better by score"
    assert ap(negatives=[], incomplete=[0])["ap"] == pytest.approx(1)
    assert ap(incomplete=[0])["ap_rare"] == pytest.approx(1)
    assert math.isnan(ap(negatives=[1])["ap_frequent"]), "no true object of class 1"


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in pycocotools
def test_keypoints_of_instances_equal_pycocotools_on_photographs(capsys):
    """People without a labelled point are ignored, and crowds of `Instances` count as crowds."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    root = shared("data", "coco_keypoints_mini")
    data, score = open_source(f"coco:{root}", "val"), keypoint_ap(Classes(("person",)))
    official = COCO(str(root / "annotations" / "person_keypoints_val2017.json"))
    results, rng, unlabelled = [], np.random.default_rng(0), 0
    for i in range(len(data)):
        objects = data[i].instances
        noise = torch.from_numpy(rng.normal(0, 2, (len(objects), 17, 2))).float()
        points = torch.cat([objects.keypoints[..., :2] + noise, torch.ones(len(objects), 17, 1)], 2)
        found = replace(
            objects, keypoints=points, scores=torch.from_numpy(rng.random(len(objects))).float(), crowd=None
        )
        score.update(found, objects, image=i)
        unlabelled += int((objects.keypoints[..., 2] == 0).all(1).sum())
        official_ids = official.getAnnIds(imgIds=[data.image_id(i)])
        for k, row in enumerate(official.loadAnns(official_ids)):
            row["area"] = int(objects.masks.areas()[k])
            moved = points[k] - torch.tensor([0.5, 0.5, 0]) * (objects.keypoints[k, :, 2:] > 0)
            results.append({"image_id": data.image_id(i), "category_id": 1, "score": float(found.scores[k]),
                            "keypoints": moved.flatten().tolist()})  # fmt: skip
    judge = COCOeval(official, official.loadRes(results), "keypoints")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    capsys.readouterr()
    assert unlabelled > 10
    assert 0.3 < judge.stats[0] < 0.95
    got = score.compute()
    assert [got["ap"], got["ap50"], got["ap75"]] == pytest.approx(judge.stats[:3].tolist(), abs=1e-12)
