"""SemanticScore: hand values, a plain numpy reference, and properties that hold for any pair of label maps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from conftest import shared
from masklet.metrics.semantic import SemanticScore
from masklet.structures import Classes

HAND_TRUTH = torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.uint8)
HAND_PRED = torch.tensor([[0, 0, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.uint8)  # table [[3, 1], [2, 4]]


def score(pred, truth, classes=2, **options) -> SemanticScore:
    s = SemanticScore(classes, **options)
    s.update(pred, truth)
    return s


def reference(pred: np.ndarray, truth: np.ndarray, k: int, ignore: int = 255) -> dict[str, float]:
    """The definitions once more, one mask at a time, without a table."""
    keep = truth != ignore
    pred, truth = pred[keep], truth[keep]
    iou, dice, acc, freq = [], [], [], []
    for c in range(k):
        p, t = pred == c, truth == c
        union = (p | t).sum()
        iou.append((p & t).sum() / union if union else np.nan)
        dice.append(2 * (p & t).sum() / (p.sum() + t.sum()) if union else np.nan)
        acc.append((p & t).sum() / t.sum() if t.sum() else np.nan)
        freq.append(t.sum())

    def mean(values):
        return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan

    n = max(len(truth), 1)
    return {
        "pixel_accuracy": float((pred == truth).mean()) if len(truth) else math.nan,
        "mean_accuracy": mean(acc),
        "miou": mean(iou),
        "fwiou": float(np.nansum(np.array(freq) * np.array(iou)) / n) if len(truth) else math.nan,
        "dice": mean(dice),
        **{f"iou/{c}": float(v) for c, v in enumerate(iou)},
        **{f"dice/{c}": float(v) for c, v in enumerate(dice)},
        **{f"accuracy/{c}": float(v) for c, v in enumerate(acc)},
    }


def test_hand_values_of_the_spec():
    s = score(HAND_PRED, HAND_TRUTH)
    assert s.confusion.tolist() == [[3, 1], [2, 4]]
    found = s.compute()
    assert found["pixel_accuracy"] == pytest.approx(0.7)
    assert found["mean_accuracy"] == pytest.approx((3 / 4 + 4 / 6) / 2) == pytest.approx(0.7083, abs=5e-5)
    assert (found["iou/0"], found["iou/1"]) == pytest.approx((0.5, 4 / 7))
    assert found["miou"] == pytest.approx(0.5357, abs=5e-5)
    assert found["fwiou"] == pytest.approx(0.5429, abs=5e-5)
    assert (found["dice/0"], found["dice/1"]) == pytest.approx((0.6667, 0.7273), abs=5e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_any_integer_type_array_or_tensor(dtype):
    want = score(HAND_PRED, HAND_TRUTH).compute()
    assert score(HAND_PRED.to(dtype), HAND_TRUTH.to(dtype)).compute() == want
    assert score(HAND_PRED.to(dtype).numpy(), HAND_TRUTH.to(dtype).numpy()).compute() == want


def test_uint16_and_bool_maps_count_too():
    want = score(HAND_PRED, HAND_TRUTH).compute()
    assert score(HAND_PRED.numpy().astype(np.uint16), HAND_TRUTH.bool()).compute() == want


def test_ignored_pixels_do_not_count():
    truth = torch.where(torch.arange(10).view(2, 5) == 3, 255, HAND_TRUTH.long())  # the one true 0 that was missed
    assert score(HAND_PRED, truth).confusion.tolist() == [[3, 0], [2, 4]]
    everything = torch.full((2, 5), 255)
    assert all(math.isnan(v) for v in score(HAND_PRED, everything).compute().values())
    assert set(score(HAND_PRED, everything, absent="zero").compute().values()) == {0.0}
    assert score(HAND_PRED, torch.where(HAND_TRUTH == 0, 7, 1), ignore=7).confusion.tolist() == [[0, 0], [2, 4]]


def test_absent_classes_skip_or_count_as_zero():
    skip = score(HAND_PRED, HAND_TRUTH, classes=4).compute()
    zero = score(HAND_PRED, HAND_TRUTH, classes=4, absent="zero").compute()
    assert math.isnan(skip["iou/3"])
    assert zero["iou/3"] == 0
    assert skip["miou"] == pytest.approx(0.535714, abs=1e-6)
    assert zero["miou"] == pytest.approx(skip["miou"] / 2)
    assert zero["mean_accuracy"] == pytest.approx(skip["mean_accuracy"] / 2)
    assert zero["pixel_accuracy"] == skip["pixel_accuracy"] == pytest.approx(0.7)


def test_a_class_that_is_only_predicted_scores_zero_and_has_no_accuracy():
    found = score(torch.tensor([[0, 2]]), torch.tensor([[0, 0]]), classes=3).compute()
    assert found["iou/2"] == 0
    assert math.isnan(found["accuracy/2"])
    assert found["miou"] == pytest.approx(0.25)
    assert found["mean_accuracy"] == pytest.approx(0.5)


def test_image_mode_averages_over_images_and_classes_present():
    a_truth, a_pred = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 1]])  # IoU 2/3 and 1/2
    b_truth, b_pred = torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 1]])  # IoU 3/4; class 1 not in the truth
    s = SemanticScore(2, mode="image")
    s.update(torch.stack([a_pred, b_pred]), torch.stack([a_truth, b_truth]))
    found = s.compute()
    assert s.images == 2
    assert found["miou"] == pytest.approx(((2 / 3 + 1 / 2) / 2 + 3 / 4) / 2)
    assert found["iou/0"] == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert found["iou/1"] == pytest.approx(1 / 2)
    assert found["pixel_accuracy"] == pytest.approx(0.75)
    dataset = score(torch.cat([a_pred, b_pred]), torch.cat([a_truth, b_truth])).compute()
    assert dataset["miou"] == pytest.approx((5 / 7 + 1 / 3) / 2)


def test_an_image_without_truth_pixels_does_not_enter_the_mean_of_images():
    s = score(HAND_PRED, HAND_TRUTH, mode="image")
    before = s.compute()
    s.update(HAND_PRED, torch.full((2, 5), 255))
    assert s.compute() == before


def test_names_and_unscored_classes():
    classes = Classes(("pet", "background", "border"), unscored=(2,))
    truth = torch.tensor([[0, 0, 1, 1, 2, 2]])
    pred = torch.tensor([[0, 2, 1, 1, 0, 2]])
    found = score(pred, truth, classes=classes, absent="zero").compute()
    assert found["iou/pet"] == pytest.approx(0.5)  # one of two; the border pixel called pet does not count
    assert found["iou/background"] == 1
    assert found["miou"] == pytest.approx(0.75)
    assert not any("border" in key for key in found)


def test_an_empty_image_changes_nothing():
    s = score(HAND_PRED, HAND_TRUTH)
    s.update(torch.zeros(0, 5, dtype=torch.uint8), torch.zeros(0, 5, dtype=torch.uint8))
    assert s.confusion.sum() == 10


label_maps = st.integers(1, 5).flatmap(
    lambda k: st.tuples(
        st.just(k),
        st.lists(st.tuples(st.integers(0, k - 1), st.sampled_from([*range(k), 255])), min_size=1, max_size=40),
    )
)


def arrays(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    pred, truth = np.array(pairs, dtype=np.uint8).T
    return pred[None], truth[None]


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_agrees_with_a_plain_numpy_reference_and_stays_in_range(case):
    k, pairs = case
    pred, truth = arrays(pairs)
    found = score(pred, truth, classes=k).compute()
    assert found == pytest.approx(reference(pred, truth, k), nan_ok=True)
    assert all(math.isnan(v) or 0 <= v <= 1 for v in found.values())
    for c in range(k):
        iou = found[f"iou/{c}"]
        assert found[f"dice/{c}"] == pytest.approx(2 * iou / (1 + iou), nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(label_maps, st.randoms(use_true_random=False), st.sampled_from(["dataset", "image"]), st.integers(0, 40))
def test_permutation_and_merge_change_nothing(case, random, mode, cut):
    k, pairs = case
    whole = score(*arrays(pairs), classes=k, mode=mode).compute()
    shuffled = random.sample(pairs, len(pairs))
    assert score(*arrays(shuffled), classes=k, mode=mode).compute() == pytest.approx(whole, nan_ok=True)
    order = random.sample(range(k), k)
    renamed = [(order[p], t if t == 255 else order[t]) for p, t in pairs]
    swapped = score(*arrays(renamed), classes=k, mode=mode).compute()
    assert [swapped[f"iou/{order[c]}"] for c in range(k)] == pytest.approx(
        [whole[f"iou/{c}"] for c in range(k)], nan_ok=True
    )
    maps = [np.stack(m) for m in zip(*[arrays([pair]) for pair in pairs], strict=True)]  # one image a pixel
    whole, left, right = (SemanticScore(k, mode=mode) for _ in range(3))
    whole.update(*maps)
    left.update(*(m[:cut] for m in maps))
    right.update(*(m[cut:] for m in maps))
    left.merge(right)
    assert left.compute() == pytest.approx(whole.compute(), nan_ok=True)
    assert torch.equal(left.confusion, whole.confusion)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: score(torch.zeros(2, 3).long(), torch.zeros(2, 4).long()),
            ValueError,
            "prediction is 2x3 but truth is 2x4; resize the prediction to the truth (nearest)",
        ),
        (
            lambda: score(torch.full((2, 2), 2), torch.zeros(2, 2).long()),
            ValueError,
            "the prediction contains the label 2; labels are 0..1",
        ),
        (
            lambda: score(torch.full((2, 2), -1), torch.zeros(2, 2).long()),
            ValueError,
            "the prediction contains the label -1; labels are 0..1",
        ),
        (
            lambda: score(torch.zeros(2, 2).long(), torch.full((2, 2), 9)),
            ValueError,
            "truth contains the label 9; labels are 0..1, and 255 to ignore",
        ),
        (
            lambda: score(torch.zeros(2, 2), torch.zeros(2, 2).long()),
            TypeError,
            "prediction holds float32, not labels; take the argmax over classes first",
        ),
        (
            lambda: score(torch.zeros(1, 1, 2, 2).long(), torch.zeros(2, 2).long()),
            ValueError,
            "prediction has shape (1, 1, 2, 2); expected (H, W) or (B, H, W)",
        ),
        (lambda: SemanticScore(0), ValueError, "a score needs at least one class, got 0"),
        (lambda: SemanticScore(2, mode="mean"), ValueError, "mode is 'mean'; choose 'dataset' or 'image'"),
        (lambda: SemanticScore(2, absent="nan"), ValueError, "absent is 'nan'; choose 'skip' or 'zero'"),
        (
            lambda: SemanticScore(2).merge(SemanticScore(2, mode="image")),
            ValueError,
            "cannot merge scores of different settings: (('0', '1'), 255, 'dataset', 'skip')"
            " and (('0', '1'), 255, 'image', 'skip')",
        ),
    ],
)
def test_bad_input_says_what_came_and_what_to_do(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_table_has_a_row_per_class():
    rows = score(HAND_PRED, HAND_TRUTH).table()
    assert [row["class"] for row in rows] == ["0", "1"]
    assert [row["pixels"] for row in rows] == [4, 6]
    assert rows[0]["iou"] == pytest.approx(0.5)
    assert rows[1]["dice"] == pytest.approx(8 / 11)


def recorded_maps() -> tuple[np.ndarray, np.ndarray, dict]:
    """The recorder's truth and prediction with eight classes, remade, and its numbers."""
    folder = shared("oracles", "semantic_metrics", "made")
    picture = oracle.keyfill(folder).image
    truth, pred = (
        np.floor(picture(f"confusion_made_{name}", 64, 96, 1)[0] * 8).clip(0, 7).astype(np.uint8) for name in "gp"
    )
    truth[(picture("confusion_made_i", 64, 96, 1)[0] > 0.8) | (truth == 7)] = 255
    return pred, truth, oracle.meta(folder)


def test_equals_the_recorded_numbers():
    pred, truth, want = recorded_maps()
    s = score(pred, truth, 8)
    assert s.confusion.tolist() == want["confusion_rows_gt_cols_pred"]
    found = s.compute()
    for key, name in (
        ("miou", "miou_over_classes_with_union"),
        ("pixel_accuracy", "pixel_accuracy"),
        ("mean_accuracy", "mean_class_accuracy"),
        ("fwiou", "frequency_weighted_iou"),
    ):
        assert found[key] == pytest.approx(want[name], abs=1e-9)
    for kind, name in (("iou", "iou_per_class"), ("accuracy", "class_accuracy")):
        values = [math.nan if v is None else v for v in want[name]]
        assert [found[f"{kind}/{i}"] for i in range(8)] == pytest.approx(values, abs=1e-9, nan_ok=True)
    wrong = score(truth.clip(0, 7), np.where(truth == 255, 255, pred), 8).compute()  # negative control: roles swapped
    assert abs(wrong["mean_accuracy"] - want["mean_class_accuracy"]) > 1e-3


def test_equals_cityscapes_scripts():
    """An id that is not evaluated is an unscored class: as truth it counts nowhere, as a prediction it is a miss."""
    pred, truth, want = recorded_maps()
    ids = (7, 8, 11, 12, 13, 17, 19, 20)
    s = SemanticScore(Classes((*map(str, ids), "ignored"), unscored=(8,)))
    s.update(pred, truth)
    s.update(np.full((1, 500), 0, np.uint8), np.full((1, 500), 8, np.uint8))
    s.update(np.full((1, 33), 8, np.uint8), np.full((1, 33), 0, np.uint8))
    values = [math.nan if (v := want["cityscapes"]["iou"][str(i)]) is None else v for i in ids]
    assert [s.compute()[f"iou/{i}"] for i in ids] == pytest.approx(values, abs=1e-9, nan_ok=True)
