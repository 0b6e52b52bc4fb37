"""Confusion counts, mask overlaps and boundaries."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from masklet.ops import masks as ops


def counted(truth, pred, k, ignore=255):
    truth, pred = np.asarray(truth).astype(np.int64).ravel(), np.asarray(pred).astype(np.int64).ravel()
    keep = truth != ignore
    return np.bincount(truth[keep] * k + pred[keep], minlength=k * k).reshape(k, k)


def test_confusion_by_hand():
    truth = torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]], dtype=torch.uint8)
    pred = torch.tensor([[0, 0, 0, 1, 0], [0, 1, 1, 1, 1]], dtype=torch.uint8)
    assert ops.confusion(truth, pred, 2).tolist() == [[3, 1], [2, 4]]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([1, 2, 11, 19, 89, 90, 150, 180, 181, 255, 300]),
    st.sampled_from([255, 254, 0, -1, 1000]),
    st.integers(0, 3000),
    st.sampled_from([torch.uint8, torch.int64, torch.int32]),
    st.integers(0, 2**31),
)
def test_confusion_equals_bincount(k, ignore, n, dtype, seed):
    rng = np.random.default_rng(seed)
    truth, pred = rng.integers(0, k, n), rng.integers(0, k, n)
    truth[rng.random(n) < 0.2] = ignore
    if dtype == torch.uint8 and (k > 256 or not 0 <= ignore <= 255):
        dtype = torch.int64
    table = ops.confusion(torch.from_numpy(truth).to(dtype), torch.from_numpy(pred).to(dtype), k, ignore)
    assert table.dtype == torch.int64
    assert np.array_equal(table, counted(truth, pred, k, ignore))


def test_confusion_over_several_pieces_of_wide_labels():
    rng = np.random.default_rng(0)
    truth, pred = (torch.from_numpy(rng.integers(0, 19, (400, 401))) for _ in range(2))
    truth[:40] = 255
    assert np.array_equal(ops.confusion(truth, pred, 19), counted(truth, pred, 19))
    assert np.array_equal(ops.confusion(truth.byte(), pred, 19), counted(truth, pred, 19))


def test_confusion_lets_anything_be_predicted_where_truth_is_ignored():
    truth, pred = torch.tensor([255, 0, 1]), torch.tensor([255, 0, 0])
    assert ops.confusion(truth, pred, 2).tolist() == [[1, 0], [1, 0]]
    assert ops.confusion(truth.byte(), pred.byte(), 2).tolist() == [[1, 0], [1, 0]]


def test_confusion_of_nothing():
    empty = torch.zeros(0, 5, dtype=torch.uint8)
    assert ops.confusion(empty, empty, 3).tolist() == [[0] * 3] * 3


def test_confusion_leaves_its_inputs_alone():
    truth, pred = torch.randint(0, 5, (600,), dtype=torch.uint8), torch.randint(0, 5, (600,), dtype=torch.uint8)
    copies = truth.clone(), pred.clone()
    ops.confusion(truth, pred, 5)
    assert torch.equal(truth, copies[0])
    assert torch.equal(pred, copies[1])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(
    ("truth", "pred", "ignore", "message"),
    [
        ([0, 7, 255], [0, 1, 1], 255, "truth contains the label 7; labels are 0..2, and 255 to ignore"),
        ([0, 255, 1], [0, 1, 1], 0, "truth contains the label 255; labels are 0..2, and 0 to ignore"),
        ([0, 1, 255], [0, 9, 1], 255, "the prediction contains the label 9; labels are 0..2"),
        ([0, -3, 1], [0, 1, 1], 255, "truth contains the label -3; labels are 0..2, and 255 to ignore"),
        ([0, 1, 1], [0, -1, 1], 255, "the prediction contains the label -1; labels are 0..2"),
        ([0, 256, 1], [0, 1, 1], 255, "truth contains the label 256; labels are 0..2, and 255 to ignore"),
        ([0, 1, 1], [0, 256, 1], 255, "the prediction contains the label 256; labels are 0..2"),
    ],
)
def test_confusion_refuses_foreign_labels(truth, pred, ignore, message, dtype):
    if dtype == torch.uint8 and not all(0 <= v <= 255 for v in truth + pred):
        dtype = torch.int16
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        ops.confusion(torch.tensor(truth).to(dtype), torch.tensor(pred).to(dtype), 3, ignore)
    assert str(caught.value) == message


def test_pairwise_iou_by_hand():
    a, b = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(2, 4, 4, dtype=torch.bool)
    a[0, :2], a[1, :, :2], b[0, :2] = True, True, True
    assert ops.pairwise_iou(a, b).tolist() == [[1, 0], [4 / 12, 0], [0, 0]] or torch.allclose(
        ops.pairwise_iou(a, b), torch.tensor([[1.0, 0], [1 / 3, 0], [0, 0]])
    )


def test_pairwise_iou_over_several_pieces():
    a, b = torch.rand(2, 600, 700) < 0.5, torch.rand(3, 600, 700) < 0.4
    inter = (a[:, None] & b).sum((2, 3)).double()
    torch.testing.assert_close(ops.pairwise_iou(a, b).double(), inter / (a[:, None] | b).sum((2, 3)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_boundary_is_the_mask_without_its_erosion(width):
    masks = torch.rand(3, 20, 25) < 0.95
    eroded = [ndimage.binary_erosion(m, np.ones((3, 3)), iterations=width, border_value=0) for m in masks.numpy()]
    assert np.array_equal(ops.boundary(masks, width), masks.numpy() & ~np.stack(eroded))
