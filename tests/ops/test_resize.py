"""The upsampling zoo against the lecture's matrices and torch; argmax of resized scores against the long way."""

import tracemalloc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.ops import resize as zoo

SLIDE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])


def matrix(rows: str) -> torch.Tensor:
    return torch.tensor([[[[float(v) for v in row.split()] for row in rows.split("/")]]])


def test_bed_of_nails_slide():
    assert torch.equal(zoo.bed_of_nails(SLIDE, 2), matrix("1 0 2 0 / 0 0 0 0 / 3 0 4 0 / 0 0 0 0"))


def test_nearest_slide():
    assert torch.equal(zoo.nearest(SLIDE, factor=2), matrix("1 1 2 2 / 1 1 2 2 / 3 3 4 4 / 3 3 4 4"))


def test_bilinear_slide():
    slide = matrix("1.00 1.25 1.75 2.00 / 1.50 1.75 2.25 2.50 / 2.50 2.75 3.25 3.50 / 3.00 3.25 3.75 4.00")
    assert torch.equal(zoo.bilinear(SLIDE, factor=2), slide)
    corners = zoo.bilinear(SLIDE, (4, 4), align_corners=True)
    torch.testing.assert_close(corners[0, 0, 0], torch.tensor([1, 4 / 3, 5 / 3, 2]))


def test_bicubic_slide():
    slide = matrix(".68 1.02 1.56 1.89 / 1.35 1.68 2.23 2.56 / 2.44 2.77 3.32 3.65 / 3.11 3.44 3.98 4.32")
    exact = matrix(
        ".68359375 1.015625 1.5625 1.89453125 / 1.34765625 1.6796875 2.2265625 2.55859375 /"
        "2.44140625 2.7734375 3.3203125 3.65234375 / 3.10546875 3.4375 3.984375 4.31640625"
    )
    out = zoo.bicubic(SLIDE, factor=2)
    torch.testing.assert_close(out, exact)
    assert (out - slide).abs().max() < 0.006, "the slide rounds to two digits"
    assert (zoo.bicubic(SLIDE, factor=2, a=-0.5) - slide).abs().max() > 0.01, "another kernel must be told apart"


@pytest.mark.parametrize("size", [(4, 4), (7, 5), (2, 3), (31, 17)])
def test_bicubic_equals_torch(size):
    x = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(zoo.bicubic(x, size), F.interpolate(x, size=size, mode="bicubic"), atol=2e-6, rtol=1e-5)


def test_max_pool_and_unpool_slide():
    x = matrix("1 2 6 3 / 3 5 2 1 / 1 2 2 1 / 7 3 4 8")
    values, indices = zoo.max_pool(x, 2)
    assert torch.equal(values, matrix("5 6 / 7 8"))
    assert indices.flatten().tolist() == [5, 2, 12, 15]
    assert torch.equal(zoo.max_unpool(SLIDE, indices, (4, 4)), matrix("0 0 2 0 / 0 1 0 0 / 0 0 0 0 / 3 0 0 4"))


def test_max_pool_takes_the_first_of_equals():
    assert zoo.max_pool(torch.ones(1, 1, 4, 4), 2)[1].flatten().tolist() == [0, 2, 8, 10]


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (5, 4)])
def test_max_unpool_equals_torch_and_passes_gradients(size):
    x = torch.randn(2, 3, *size, requires_grad=True)
    values, indices = zoo.max_pool(x, 2)
    out = zoo.max_unpool(values, indices, size)
    assert torch.equal(out, F.max_unpool2d(values, indices, 2, output_size=size))
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, out != 0)


def test_max_unpool_refuses_a_size_that_is_too_small():
    values, indices = zoo.max_pool(torch.arange(49.0).view(1, 1, 7, 7), 2)
    with pytest.raises(ValueError, match="an index points at pixel 40, outside 6x6; give the size that was pooled"):
        zoo.max_unpool(values, indices, (6, 6))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(1, 4), st.integers(0, 1), st.integers(5, 9), st.integers(0, 2**31))
def test_transposed_convolution_is_the_adjoint(stride, kernel, padding, side, seed):
    padding = min(padding, kernel - 1)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 3, side, side, generator=g, dtype=torch.float64)
    weight = torch.randn(4, 3, kernel, kernel, generator=g, dtype=torch.float64)
    forth = F.conv2d(x, weight, stride=stride, padding=padding)
    y = torch.randn(forth.shape, generator=g, dtype=torch.float64)
    rest = (side + 2 * padding - kernel) % stride
    back = zoo.conv_transpose(y, weight, stride=stride, padding=padding, output_padding=rest)
    torch.testing.assert_close((forth * y).sum(), (x * back).sum())


def test_bilinear_kernel():
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(zoo.bilinear_kernel(4), torch.outer(line, line))
    assert torch.equal(zoo.bilinear_kernel(3)[1], torch.tensor([0.5, 1.0, 0.5]))
    for size, stride in ((16, 8), (64, 32)):
        assert zoo.bilinear_kernel(size).sum() == stride**2, "every input value spreads over stride^2 pixels"


def test_bilinear_weight_interpolates_away_from_the_border():
    out = zoo.conv_transpose(SLIDE, zoo.bilinear_weight(1, 4), stride=2, padding=1)
    bilinear = zoo.bilinear(SLIDE, factor=2)
    assert torch.equal(out[..., 1:3, 1:3], bilinear[..., 1:3, 1:3])
    assert out[0, 0, 0, 0] == 0.5625, "zero padding darkens the border"
    assert out[0, 0, 0, 1] == 0.9375
    x = torch.randn(1, 3, 6, 7)
    out = zoo.conv_transpose(x, zoo.bilinear_weight(3, 16), stride=8, padding=4)
    torch.testing.assert_close(out[..., 4:-4, 4:-4], zoo.bilinear(x, factor=8)[..., 4:-4, 4:-4])


def test_resize_leaves_the_right_size_alone():
    x = torch.randn(1, 2, 4, 5)
    assert zoo.resize(x, (4, 5)) is x
    assert torch.equal(zoo.resize(x, (9, 8)), F.interpolate(x, size=(9, 8), mode="bilinear"))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("side", "size"), [((7, 9), (33, 40)), ((20, 30), (7, 11)), ((6, 6), (6, 13)), ((1, 2), (5, 2))]
)
def test_some_rows_of_a_resized_map(side, size, align_corners):
    x = torch.randn(2, 3, *side)
    full = zoo.resize(x, size, align_corners)
    for start, stop in ((0, size[0]), (0, 2), (2, 5), (size[0] - 1, size[0])):
        expected = full[:, :, start:stop]
        torch.testing.assert_close(zoo.resized_rows(x, size, start, stop, align_corners), expected)
        above, below = zoo.rows_needed(side[0], size[0], start, stop, align_corners)
        assert 0 <= above < below <= side[0]
        part = x[:, :, above:below]
        rows = zoo.resized_rows(part, size, start, stop, align_corners, above=above, height=side[0])
        torch.testing.assert_close(rows, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either size=(height, width) or factor, not both and not neither"),
        ({"size": (4, 4), "factor": 2}, "give either size=(height, width) or factor, not both and not neither"),
        ({"size": (0, 4)}, "cannot resize to 0x4; both sides need at least one pixel"),
        ({"factor": 0.2}, "cannot resize to 0x0; both sides need at least one pixel"),
    ],
)
def test_bad_sizes(options, message):
    for resize in (zoo.nearest, zoo.bilinear, zoo.bicubic):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
            resize(SLIDE, **options)
        assert str(caught.value) == message


def assert_same_argmax(scores, size, align_corners=False, **options):
    out = zoo.argmax_resized(scores, size, align_corners, **options)
    full = F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=align_corners)
    differs = out.long() != full.argmax(1)
    if differs.any():  # only where two classes are equal but for rounding
        best = full.topk(2, 1).values
        assert (best[:, 0] - best[:, 1])[differs].max() < 1e-5
        assert differs.float().mean() < 1e-3
    return out


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 5, 7, 9), (33, 40)),
        ((1, 3, 1, 1), (5, 6)),
        ((1, 4, 8, 8), (64, 64)),
        ((1, 19, 17, 33), (129, 257)),
        ((1, 4, 20, 30), (7, 11)),
        ((1, 4, 20, 30), (20, 30)),
        ((1, 3, 4, 4), (1, 1)),
        ((1, 2, 2, 3), (3, 20000)),
    ],
)
def test_argmax_resized_equals_the_long_way(shape, size, align_corners):
    out = assert_same_argmax(torch.randn(shape), size, align_corners)
    assert out.dtype == torch.uint8
    assert out.shape == (shape[0], *size)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_argmax_resized_any_size(classes, small, large, align_corners, seed):
    scores = torch.randn(1, max(classes, 2), *small, generator=torch.Generator().manual_seed(seed))
    assert_same_argmax(scores, large, align_corners)


def test_argmax_resized_ties_go_to_the_lowest_class():
    assert not zoo.argmax_resized(torch.zeros(1, 4, 3, 3), (12, 12)).any()
    assert not zoo.argmax_resized(torch.randn(1, 1, 3, 3), (12, 12)).any()


def test_argmax_resized_dtypes():
    assert assert_same_argmax(torch.randn(1, 300, 4, 5), (9, 9)).dtype == torch.int64
    assert assert_same_argmax(torch.randn(1, 3, 4, 5), (9, 9), dtype=torch.int64).dtype == torch.int64
    assert zoo.argmax_resized(torch.randn(1, 3, 4, 5).bfloat16(), (9, 9)).dtype == torch.uint8


def test_argmax_resized_never_chooses_a_barred_class():
    scores = torch.randn(1, 3, 6, 6)
    scores[:, 0] = -torch.inf
    expected = zoo.argmax_resized(scores[:, 1:], (40, 40)) + 1
    assert torch.equal(zoo.argmax_resized(scores, (40, 40)), expected)


def test_argmax_resized_leaves_autograd_alone():
    scores = torch.randn(1, 3, 6, 6, requires_grad=True)
    assert not zoo.argmax_resized(scores, (12, 12)).requires_grad


def test_argmax_resized_refuses_empty():
    with pytest.raises(ValueError, match=r"cannot resize scores of shape \(1, 0, 4, 4\) to 8x8; an axis is empty"):
        zoo.argmax_resized(torch.zeros(1, 0, 4, 4), (8, 8))


def test_argmax_resized_other_devices_take_the_plain_way():
    """A meta tensor stands in for an accelerator: shapes and types are right, nothing touches numpy."""
    out = zoo.argmax_resized(torch.zeros(2, 3, 4, 5, device="meta"), (8, 9))
    assert out.shape == (2, 8, 9)
    assert out.dtype == torch.uint8


def largest_allocation(call):
    """Bytes of the largest single piece of memory that torch or numpy took during a call."""
    tracemalloc.start()
    call()
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        call()
    return max([python, *(event.cpu_memory_usage for event in profile.events())])


def test_argmax_resized_needs_little_memory():
    scores, full = torch.randn(1, 19, 32, 64), 19 * 256 * 512 * 4
    assert largest_allocation(lambda: zoo.resize(scores, (256, 512)).argmax(1)) >= full
    assert largest_allocation(lambda: zoo.argmax_resized(scores, (256, 512))) < full / 10
