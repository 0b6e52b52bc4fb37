from __future__ import annotations

import numpy as np
import pytest
import torch

from masklet.structures import Classes, Instances, Masks, Matte, Panoptic, Segment, SemanticMap
from masklet.structures.errors import UserError
from masklet.viz.overlay import Layer, as_picture, cut_out, layer_of, outline, overlay
from masklet.viz.palettes import bare, color_table, hexadecimal, ink_on, luminance

CLASSES = Classes(("background", "cat", "mat"), colors=((0, 0, 0), (200, 40, 40), (30, 90, 210)))


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (130, 90, 3), dtype=np.uint8)


@pytest.fixture
def labels():
    labels = torch.zeros(130, 90, dtype=torch.uint8)
    labels[20:110, 10:60], labels[60:80, 30:85], labels[:5] = 1, 2, 255
    return labels


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_paint_is_a_weighted_mean_and_bare_pixels_keep_their_value(photo, labels, alpha, dtype):
    found = overlay(photo, SemanticMap(labels.to(dtype), CLASSES), alpha, contours=False)
    paint = np.asarray(CLASSES.colors)[np.where(labels == 255, 0, labels)]
    painted = ((labels == 1) | (labels == 2)).numpy()
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[~painted], photo[~painted])
    assert np.abs(found - ((1 - alpha) * photo + alpha * paint))[painted].max() <= 1


def test_contours_are_the_full_colour_along_the_border(photo, labels):
    found = overlay(photo, SemanticMap(labels, CLASSES))
    assert tuple(found[20, 30]) == CLASSES.colors[1]
    assert tuple(found[60, 70]) == CLASSES.colors[2]
    assert tuple(found[40, 30]) != CLASSES.colors[1]
    np.testing.assert_array_equal(found[10, 5], photo[10, 5])


def test_channels_first_and_tensors_are_the_same_picture(photo, labels):
    result = SemanticMap(labels, CLASSES)
    expected = overlay(photo, result)
    np.testing.assert_array_equal(overlay(torch.from_numpy(photo.transpose(2, 0, 1).copy()), result), expected)
    np.testing.assert_array_equal(overlay(photo.transpose(2, 0, 1), result), expected)
    assert as_picture(np.zeros((3, 3, 3), np.uint8)).shape == (3, 3, 3)


def dense():
    masks = torch.zeros(3, 130, 90, dtype=torch.bool)
    masks[0, 30:40, 30:40] = True  # the small one, over the large one though it comes first
    masks[1, 10:120, 5:80] = True
    masks[2, 125:, 85:] = True
    return masks


def test_small_objects_lie_over_large_ones(photo):
    layer = layer_of(Masks.from_dense(dense()))
    assert layer.codes[35, 35] == 1
    assert layer.codes[50, 50] == 2
    assert layer.codes[129, 89] == 3
    assert layer.codes[0, 0] == 0
    np.testing.assert_array_equal(layer_of(dense()).codes, layer.codes)
    np.testing.assert_array_equal(layer_of(dense().numpy()[1]).codes, (dense()[1] * 1).numpy())


def test_instances_carry_class_and_score(photo):
    objects = Instances.from_masks(
        Masks.from_dense(dense()), torch.tensor([1, 2, 1]), CLASSES, torch.tensor([0.9, 0.8, 0.7])
    )
    assert layer_of(objects).names == ("cat 0.90", "mat 0.80", "cat 0.70")
    named, plain = overlay(photo, objects, names=True), overlay(photo, objects)
    assert (named != plain).any()
    boxes_only = Instances(objects.boxes, objects.labels, objects.scores, None, objects.size, CLASSES)
    codes = layer_of(boxes_only).codes
    x0, y0, x1, y1 = objects.boxes[0].int().tolist()
    assert codes[y0, x0] == codes[y1 - 1, x1 - 1] == 1, "frames of boxes"
    assert layer_of(boxes_only).names == layer_of(objects).names


def test_more_than_255_objects_repeat_colours():
    masks = torch.zeros(300, 20, 20, dtype=torch.bool)
    for i in range(300):
        masks[i, i // 20, i % 20] = True
    codes = layer_of(Masks.from_dense(masks)).codes
    assert codes[0, 0] == 1
    assert codes[255 // 20, 255 % 20] == 1
    assert (codes.reshape(-1)[:300] > 0).all()


def test_panoptic_stuff_has_its_class_colour_and_things_differ():
    ids = torch.zeros(4, 6, dtype=torch.int64)
    ids[:, 2:4], ids[:2, 4:], ids[2:, 4:] = 7, 90000, 3
    segments = (Segment(7, 2, False), Segment(90000, 1, True), Segment(3, 1, True))
    layer = layer_of(Panoptic(ids, segments), CLASSES)
    assert [layer.codes[0, x] for x in (0, 2, 4)] == [0, 1, 2]
    assert layer.codes[3, 5] == 3
    assert tuple(layer.colors[1]) == CLASSES.colors[2]
    assert tuple(layer.colors[2]) != tuple(layer.colors[3])
    assert layer.names == ("mat", "cat", "cat")
    assert layer_of(Panoptic(ids, segments)).names == ("class 2", "class 1", "class 1")
    with pytest.raises(UserError, match="label 2 of a segment does not exist"):
        layer_of(Panoptic(ids, segments), Classes(("only", "two")))


def test_many_classes_use_a_code_per_class_that_occurs():
    classes = Classes.default(1000)
    labels = torch.arange(0, 900, 3).reshape(15, 20)
    layer = layer_of(SemanticMap(labels, classes))
    assert tuple(layer.colors[layer.codes[0, 1]]) == classes.colors[3]
    few = layer_of(SemanticMap(torch.full((2, 2), 999), classes))
    assert tuple(few.colors[few.codes[0, 0]]) == classes.colors[999]
    assert few.names == ("class 999",)


def test_matte_lies_over_checkers(photo):
    alpha = torch.zeros(1, 130, 90)
    alpha[:, 40:, :] = 1
    found = overlay(photo, Matte(alpha))
    np.testing.assert_array_equal(found[40:], photo[40:])
    assert set(np.unique(found[:40])) == {205, 236}
    green = Matte(alpha, torch.tensor([0.0, 1.0, 0.0]).reshape(3, 1, 1).expand(3, 130, 90).contiguous())
    assert tuple(overlay(photo, green)[50, 50]) == (0, 255, 0)


def test_cut_out_is_transparent_elsewhere(photo, labels):
    found = cut_out(photo, SemanticMap(labels, CLASSES), "cat")
    assert found.shape == (130, 90, 4)
    np.testing.assert_array_equal(found[..., 3] == 255, labels == 1)


def test_names_are_written_only_where_they_fit(photo):
    labels = torch.zeros(130, 90, dtype=torch.uint8)
    labels[0:3, 0:3] = 1
    result = SemanticMap(labels, CLASSES)
    np.testing.assert_array_equal(overlay(photo, result, names=True), overlay(photo, result))
    labels[30:100] = 2
    assert (overlay(photo, result, names=True) != overlay(photo, result)).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2)])
def test_the_smallest_pictures(size):
    result = SemanticMap(torch.ones(size, dtype=torch.uint8), CLASSES)
    found = overlay(np.zeros((*size, 3), np.uint8), result, names=True)
    assert size == (2, 2) or np.abs(found[0, 0] - np.array([100, 20, 20])).max() <= 1


def test_outline_width():
    codes = np.zeros((20, 20), np.uint8)
    codes[5:15, 5:15] = 4
    one, two = outline(codes), outline(codes, 2)
    assert one.sum() == 36
    assert two.sum() == 36 + 28
    assert not (two & (codes == 0)).any()


def test_shares_are_sorted():
    layer = Layer(np.array([[1, 2, 2, 0]], np.uint8), np.arange(768).reshape(256, 3).astype(np.uint8), ("a", "b"))
    assert layer.present() == [(2, "b", (6, 7, 8), 0.5), (1, "a", (3, 4, 5), 0.25)]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), "image is uint8 (4, 4); pass RGB uint8, (H, W, 3) or (3, H, W)"),
        (np.zeros((4, 4, 3), np.float32), "image is float32 (4, 4, 3); pass RGB uint8, (H, W, 3) or (3, H, W)"),
        (np.zeros((5, 4, 3), np.uint8), "result is 4x4 but image is 5x4; pass the image that was predicted"),
    ],
)
def test_wrong_images(image, message):
    with pytest.raises(UserError) as error:
        overlay(image, SemanticMap(torch.zeros(4, 4, dtype=torch.uint8), CLASSES))
    assert str(error.value) == message


def test_wrong_results(photo):
    with pytest.raises(TypeError, match="cannot paint a str"):
        overlay(photo, "cat")
    with pytest.raises(TypeError, match="cannot paint a ndarray"):
        overlay(photo, np.zeros((130, 90), np.uint8))
    with pytest.raises(UserError, match="alpha is 2"):
        overlay(photo, dense(), alpha=2.0)


def test_bare_classes_and_colours():
    assert bare(CLASSES) == {0, 255}
    assert bare(Classes(("void", "sky"), colors=((9, 9, 9), (1, 2, 3)))) == {0, 255}
    assert tuple(color_table(CLASSES)[1]) == (200, 40, 40)
    assert not color_table(CLASSES)[3:].any()
    assert hexadecimal((255, 0, 16)) == "#ff0010"
    assert ink_on((255, 255, 0)) != ink_on((0, 0, 90))
    assert luminance((255, 255, 255)) == pytest.approx(1.0)
