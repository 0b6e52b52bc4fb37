"""Region features against torchvision, detectron2's recorded rotated kernel, worked numbers and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from torchvision import ops as tv

import oracle
from masklet.ops import roi

RAMP = torch.arange(64.0).view(1, 1, 8, 8)
ROI = torch.tensor([[0.0, 1, 1, 5, 5]])


def features_and_rois(n=12, seed=0, dtype=torch.float32, channels=3):
    """Two maps of 9 x 13 at stride 4, and boxes of every size, some beyond the border."""
    noise = torch.Generator().manual_seed(seed)
    features = torch.randn(2, channels, 9, 13, generator=noise, dtype=dtype)
    corner = torch.rand(n, 2, generator=noise, dtype=dtype) * torch.tensor([50.0, 34.0], dtype=dtype) - 4
    sides = torch.rand(n, 2, generator=noise, dtype=dtype) * 30 + 2
    image = torch.randint(2, (n, 1), generator=noise).to(dtype)
    return features, torch.cat([image, corner, corner + sides], 1)


def rotated_rois(rois, degrees):
    low, high = rois[:, 1:3], rois[:, 3:]
    return torch.cat([rois[:, :1], (low + high) / 2, high - low, torch.full_like(rois[:, :1], degrees)], 1)


def test_by_hand():
    """A ramp of 1 per column and 8 per row, box (1, 1, 5, 5), 2 x 2 bins: half a pixel is worth .5 (1 + 8) = 4.5."""
    assert roi.roi_align(RAMP, ROI, 2, 1.0, 2, aligned=False).flatten().tolist() == [18, 20, 34, 36]
    assert roi.roi_align(RAMP, ROI, 2, 1.0, 2).flatten().tolist() == [13.5, 15.5, 29.5, 31.5]
    # of the four samples of a bin the last is largest: half a cell to the right and down of the middle
    assert roi.roi_align_max(RAMP, ROI, 2, 1.0).flatten().tolist() == [18, 20, 34, 36]
    assert roi.roi_warp(RAMP, ROI, 2, 1.0, reduce=F.avg_pool2d).flatten().tolist() == [13.5, 15.5, 29.5, 31.5]
    pooled = roi.roi_pool(RAMP, torch.tensor([[0, 1.2, 1.2, 5.4, 5.4]]), 2, 1.0)
    assert pooled.flatten().tolist() == [27, 29, 43, 45]
    snapped = roi.snap(torch.tensor([[0, 1.2, 1.2, 5.4, 5.4]]), 1.0)
    assert snapped.tolist() == [[0, 1, 1, 6, 6]]


def test_rotated_by_hand():
    """A quarter turn counter-clockwise: what was at the right is on top."""
    ramp, box = torch.arange(25.0).view(1, 1, 5, 5), [0, 2.5, 2.5, 2, 2]
    upright = roi.rotated_roi_align(ramp, torch.tensor([[*box, 0.0]]), 2, 1.0)
    assert upright.flatten().tolist() == pytest.approx([9, 10, 14, 15])
    turned = roi.rotated_roi_align(ramp, torch.tensor([[*box, 90.0]]), 2, 1.0)
    assert turned.flatten().tolist() == pytest.approx([14, 9, 15, 10])


def test_the_seed_example():
    """The lecture draws its region without numbers; this box comes closest to its 3.9 4.2 3.6 3.7 in shape."""
    found = roi.roi_align(torch.rand(1, 1, 5, 5), torch.tensor([[0, 1.2, 1.0, 2.2, 3.5]]), 2, 1.0, 2)
    assert found.shape == (1, 1, 2, 2)
    assert ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_align_equals_torchvision(samples, aligned):
    features, rois = features_and_rois()
    want, found = features.clone().requires_grad_(), features.clone().requires_grad_()
    theirs = tv.roi_align(want, rois, (5, 7), 0.25, samples or -1, aligned)
    mine = roi.roi_align(found, rois, (5, 7), 0.25, samples, aligned)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    weight = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(5))
    (theirs * weight).sum().backward()
    (mine * weight).sum().backward()
    torch.testing.assert_close(found.grad, want.grad, rtol=1e-4, atol=1e-5)
    other = roi.roi_align(features, rois, (5, 7), 0.25, samples, not aligned)
    assert (other - theirs).abs().max() > 0.1


@pytest.mark.parametrize("aligned", [True, False])
def test_align_max_is_the_largest_sample(aligned):
    """Every sample alone, as a bin of its own, by torchvision."""
    features, rois = features_and_rois()
    single = tv.roi_align(features, rois, (9, 12), 0.25, 1, aligned).view(12, 3, 3, 3, 4, 3)
    assert torch.equal(roi.roi_align_max(features, rois, (3, 4), 0.25, 3, aligned), single.amax((3, 5)))
    mean = single.mean((3, 5))
    torch.testing.assert_close(roi.roi_align(features, rois, (3, 4), 0.25, 3, aligned), mean)


def test_warp_equals_align_where_the_box_is_given():
    features, rois = features_and_rois()
    for samples in (1, 2, 3):
        mine = roi.roi_warp(features, rois, (5, 7), 0.25, samples, F.avg_pool2d)
        torch.testing.assert_close(mine, roi.roi_align(features, rois, (5, 7), 0.25, samples), atol=1e-5, rtol=1e-5)
        largest = roi.roi_align_max(features, rois, (5, 7), 0.25, samples)
        torch.testing.assert_close(roi.roi_warp(features, rois, (5, 7), 0.25, samples), largest, atol=1e-5, rtol=1e-5)


def test_rotated_by_no_degrees_equals_align():
    features, rois = features_and_rois()
    for samples in (0, 2):
        mine = roi.rotated_roi_align(features, rotated_rois(rois, 0.0), (5, 7), 0.25, samples)
        torch.testing.assert_close(mine, roi.roi_align(features, rois, (5, 7), 0.25, samples), atol=1e-5, rtol=1e-5)


def test_rotated_turns_with_the_picture():
    """Picture and box turned together by a quarter give the same values."""
    features = torch.randn(1, 2, 12, 12)
    box = torch.tensor([[0, 17.0, 26, 20, 8, 25]])  # stride 4: the picture is 48 x 48
    turned = torch.tensor([[0, 26.0, 48 - 17, 20, 8, 25 + 90]])
    before = roi.rotated_roi_align(features, box, (3, 6), 0.25, 2)
    after = roi.rotated_roi_align(features.rot90(1, (2, 3)), turned, (3, 6), 0.25, 2)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [0, 2])
def test_rotated_recorded_from_detectron2(samples, monkeypatch):
    folder = oracle.find("ops_rotated")
    features, rois = (torch.from_numpy(oracle.recorded(f"roi_align.{n}", folder)) for n in ("input", "rois"))
    name = f"roi_align.out_sr{samples}"
    oracle.check(name, roi.rotated_roi_align(features, rois, (7, 5), 0.5, samples), folder)
    clockwise = rois * torch.tensor([1.0, 1, 1, 1, 1, -1])
    assert oracle.difference(name, roi.rotated_roi_align(features, clockwise, (7, 5), 0.5, samples), folder) > 0.5
    shifted = rois + torch.tensor([0, 1.0, 1, 0, 0, 0])  # half a cell, as if not aligned
    assert oracle.difference(name, roi.rotated_roi_align(features, shifted, (7, 5), 0.5, samples), folder) > 0.5
    monkeypatch.setattr(roi, "AT_ONCE", 1)  # one region after the other
    oracle.check(name, roi.rotated_roi_align(features, rois, (7, 5), 0.5, samples), folder)


def test_pool_sends_the_gradient_to_the_largest():
    """Two overlapping regions: a cell gets the sum over all bins where it is the largest, others nothing."""
    features = RAMP.clone().requires_grad_()
    rois = torch.tensor([[0.0, 0, 0, 5, 5], [0, 2, 2, 5, 5]])
    pooled = roi.roi_pool(features, rois, 2, 1.0)
    assert pooled.flatten().tolist() == [18, 21, 42, 45, 27, 29, 43, 45]
    pooled.backward(torch.tensor([1.0, 2, 4, 8, 16, 32, 64, 128]).view(2, 1, 2, 2))
    expected = torch.zeros(64)
    expected[[18, 21, 42, 27, 29, 43]] = torch.tensor([1.0, 2, 4, 16, 32, 64])
    expected[45] = 8 + 128
    assert torch.equal(features.grad.flatten(), expected)


def test_only_pooling_ignores_the_box():
    """On a ramp align follows the box exactly; pooling is constant between two roundings."""
    boxes = [torch.tensor([[0, 1 + d, 1 + d, 5 + d, 5 + d]]) for d in (0.1, 0.3)]
    aligned = [roi.roi_align(RAMP, box, 2, 1.0) for box in boxes]
    torch.testing.assert_close(aligned[1] - aligned[0], torch.full((1, 1, 2, 2), 0.2 * 9))
    assert torch.equal(roi.roi_pool(RAMP, boxes[0], 2, 1.0), roi.roi_pool(RAMP, boxes[1], 2, 1.0))


@pytest.mark.parametrize("reduce", [F.max_pool2d, F.avg_pool2d])
def test_warp_has_gradients_for_features_and_boxes(reduce):
    features, rois = features_and_rois(3, seed=3, dtype=torch.float64, channels=1)

    def warp(features, sides):
        return roi.roi_warp(features, torch.cat([rois[:, :1], sides], 1), (2, 3), 0.25, 2, reduce)

    sides = rois[:, 1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(warp, (features.requires_grad_(), sides), fast_mode=True)
    assert torch.autograd.gradcheck(lambda moved: warp(features.detach(), moved), sides)
    assert torch.autograd.grad(warp(features, sides).sum(), sides)[0].abs().sum() > 0


def test_rotated_align_has_gradients_for_features_and_boxes():
    features, rois = features_and_rois(3, seed=4, dtype=torch.float64, channels=1)
    rois = rotated_rois(rois, 33.0)

    def align(features, box):
        return roi.rotated_roi_align(features, torch.cat([rois[:, :1], box], 1), (2, 3), 0.25, 2)

    box = rois[:, 1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(align, (features.requires_grad_(), box), fast_mode=True)
    assert torch.autograd.gradcheck(lambda moved: align(features.detach(), moved), box)


def test_snapping_passes_the_gradient():
    rois = torch.tensor([[0, 5.0, 6, 21, 19], [1, 8, 8, 9, 9]], requires_grad=True)
    snapped = roi.snap(rois, 0.25)
    assert snapped.tolist() == [[0, 4, 8, 24, 24], [1, 8, 8, 12, 12]]
    snapped.sum().backward()
    assert torch.equal(rois.grad, torch.ones(2, 5))


def test_pyramid_level_by_hand():
    sides = torch.tensor([1.0, 111, 112, 223, 224, 447, 448, 2000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], 1)
    assert roi.pyramid_level(boxes).tolist() == [2, 2, 3, 3, 4, 4, 5, 5]
    assert roi.pyramid_level(boxes, 3, 7).tolist() == [3, 3, 3, 3, 4, 4, 5, 7]
    assert roi.pyramid_level(torch.zeros(1, 4)).tolist() == [2]


@pytest.mark.parametrize("zoo", ["d2", "mmdet"])
def test_pyramid_level_recorded(zoo):
    folder = oracle.find("ops_boxes")
    boxes = torch.from_numpy(oracle.recorded("levels.boxes", folder))
    assert (roi.pyramid_level(boxes) - 2).tolist() == oracle.recorded(f"{zoo}.roi_levels", folder).tolist()


POOLS = (roi.roi_pool, roi.roi_align, roi.roi_align_max, roi.roi_warp)


def test_no_regions():
    features, _ = features_and_rois()
    for pool in POOLS:
        assert pool(features, torch.zeros(0, 5), (2, 4), 0.25).shape == (0, 3, 2, 4)
    assert roi.rotated_roi_align(features, torch.zeros(0, 6), (2, 4), 0.25).shape == (0, 3, 2, 4)
    assert roi.pyramid_level(torch.zeros(0, 4)).shape == (0,)


@pytest.mark.parametrize("pool", [*POOLS, roi.rotated_roi_align])
def test_regions_do_not_know_of_each_other(pool):
    features, rois = features_and_rois()
    rois = rotated_rois(rois, 20.0) if pool is roi.rotated_roi_align else rois
    order = torch.tensor([7, 2, 11, 2, 0])
    torch.testing.assert_close(pool(features, rois[order], 3, 0.25), pool(features, rois, 3, 0.25)[order])


@pytest.mark.usefixtures("as_user")
def test_bad_input():
    features, rois = features_and_rois()
    message = r"^regions have shape \(12, 4\); give rows of image number and x0 y0 x1 y1$"
    for pool in POOLS:
        with pytest.raises(ValueError, match=message):
            pool(features, rois[:, 1:], 7, 0.25)
    with pytest.raises(ValueError, match=r"^regions have shape \(12, 5\); give rows of .* and cx cy w h degrees$"):
        roi.rotated_roi_align(features, rois, 7, 0.25)
    with pytest.raises(ValueError, match=r"^cannot bring regions to 7x0; both sides need at least one bin$"):
        roi.roi_align(features, rois, (7, 0), 0.25)
    with pytest.raises(ValueError, match=r"^scale is 0; give the feature map's size over the image's, 1 / stride$"):
        roi.roi_align(features, rois, 7, 0)
    for pool in (roi.roi_align_max, roi.roi_warp):
        with pytest.raises(ValueError, match=r"^samples is 0; give 1 or more for each side of a bin$"):
            pool(features, rois, 7, 0.25, samples=0)
    with pytest.raises(ValueError, match=r"^samples is -1; give 0 \(as many as a bin has cells\) or more$"):
        roi.rotated_roi_align(features, rotated_rois(rois, 0.0), 7, 0.25, samples=-1)
    for pool, some in ((roi.roi_warp, rois), (roi.rotated_roi_align, rotated_rois(rois, 0.0))):
        with pytest.raises(ValueError, match=r"^a region names image 7, but there are 2, counted from 0$"):
            pool(features, some + torch.tensor([7.0] + [0] * (some.shape[1] - 1)) * (some[:, :1] == 0), 7, 0.25)
