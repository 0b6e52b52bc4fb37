"""Looking at boxes more than once: what each stage is trained on, worked by hand, and where the ways are the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from masklet.ops.boxes import CASCADE_MMDET, pairwise_iou
from masklet.parts.box_heads import BoxBranch, BoxPredictor, Pick, Sampled, Truth, TwoFC
from masklet.parts.cascade import (
    CascadeBoxes,
    Cascading,
    Gently,
    IntegralBoxes,
    IterativeBoxes,
    claiming,
    judge,
    mean_of_probs,
    nearest,
    probs_of_mean,
    relabelled,
    resampled,
)
from masklet.parts.matching import Matcher
from masklet.parts.proposals import Proposals
from masklet.parts.pyramid import PyramidPooler, as_rois

OBJECT = torch.tensor([[0.0, 0, 20, 20]])
# A box moved by d pixels to the right has the IoU (20 - d) / (20 + d): .55, .65 and .75.
SHIFTS = [20 * (1 - u) / (1 + u) for u in (0.55, 0.65, 0.75)]
AROUND = torch.stack([OBJECT[0] + torch.tensor([d, 0, d, 0]) for d in SHIFTS])
SIZE = (40, 48)


def pyramid() -> dict[str, Tensor]:
    return {"p2": torch.randn(1, 4, 10, 12, generator=torch.Generator().manual_seed(0))}


def branch(overlap: float = 0.5, stage: int = 0, agnostic: bool = True, read=None) -> BoxBranch:
    return BoxBranch(
        read or PyramidPooler({"p2": 4}, 7),
        TwoFC(4, 7, 8),
        BoxPredictor(8, 3, agnostic),
        CASCADE_MMDET[stage],
        Matcher(overlap, overlap),
        pick=Pick(threshold=0.0, count=5),
    )


def cascade(how: Cascading) -> CascadeBoxes:
    return CascadeBoxes([branch(u, i) for i, u in enumerate(how.overlaps)], how)


def truth() -> Truth:
    return Truth([OBJECT], [torch.tensor([2])], [SIZE])


def test_fewer_boxes_are_objects_where_more_overlap_is_asked_for():
    """IoU .55, .65 and .75: three, two and one are positive; after a perfect regressor all are, at every stage."""
    assert pairwise_iou(AROUND, OBJECT)[:, 0].tolist() == pytest.approx([0.55, 0.65, 0.75], abs=1e-5)
    counts, perfect = [], []
    for u in (0.5, 0.6, 0.7):
        for match, boxes, found in ((nearest(u), AROUND, counts), (claiming(u), OBJECT.expand(3, 4), perfect)):
            found.append(int(match(boxes, OBJECT)[1].sum()))
    assert counts == [3, 2, 1]
    assert perfect == [3, 3, 3]


def test_the_objects_own_box_is_given_once_at_every_stage():
    """Deltas of 0 leave boxes where they are: three proposals, and the object's own box, which is not kept twice."""
    stage, later = branch(), branch(0.7, 2)
    sampled = stage.sample([AROUND], [OBJECT], [torch.tensor([2])])
    assert len(sampled.rois) == 4
    boxes = [sampled.rois[:, 1:]]
    again = resampled(later, boxes, sampled, truth())
    assert sorted(again.labels.tolist()) == [2, 2, 3, 3]  # the own box and that of IoU .75
    assert (again.rois[:, 1:] == OBJECT).all(1).sum() == 1
    small = torch.tensor([[5.0, 5, 5, 9]])  # no width left
    kept = relabelled(later, [torch.cat([boxes[0], small])], sampled, truth())
    assert len(kept.rois) == 4
    assert kept.rois[:, 1:].sum() == pytest.approx(boxes[0].sum())


def test_losses_of_a_stage_count_as_much_as_the_paper_says():
    """Without movement all stages see proposals and the own box: the losses of each, times its weight."""
    torch.manual_seed(0)
    net = cascade(Cascading())
    for stage in net.stages:
        torch.nn.init.zeros_(stage.predictor.deltas.weight)
    maps = pyramid()
    steps, losses = net.learn(maps, [AROUND], truth())
    assert [int((s.labels < 3).sum()) for s in steps.each] == [4, 3, 2]
    assert list(losses) == ["class1", "box1", "class2", "box2", "class3", "box3"]
    for i, (weight, stage) in enumerate(zip((1, 0.5, 0.25), net.stages, strict=True)):
        for name, loss in stage.loss(maps, steps.each[i]).items():
            torch.testing.assert_close(losses[f"{name}{i + 1}"], weight * loss)
    # deltas of 0, so the box loss is the mean over the four boxes of |d / width / .1|, and 0 for the own box
    aims = sum(d / 20 / 0.1 for d in SHIFTS) / 4
    assert losses["box1"].item() == pytest.approx(aims, rel=1e-4)
    assert losses["box3"].item() == pytest.approx(0.25 * SHIFTS[2] / 20 / 0.033 / 4, rel=1e-4)
    assert len(steps.positives().each[2].rois) == 2


def test_no_stage_learns_through_the_boxes_of_the_next():
    torch.manual_seed(0)
    net = cascade(Cascading())
    _, losses = net.learn(pyramid(), [AROUND], truth())
    (losses["class2"] + losses["box2"]).backward()
    assert all(p.grad is None for p in (*net.stages[0].parameters(), *net.stages[2].parameters()))
    assert net.stages[1].predictor.classes.weight.grad.abs().sum() > 0


def test_a_share_of_the_gradient_goes_back():
    read, rois = PyramidPooler({"p2": 4}, 7), as_rois([AROUND])
    grads = []
    for pool in (read, Gently(read, 1.0), Gently(read, 1 / 3)):
        maps = pyramid()
        maps["p2"].requires_grad_()
        out = pool(maps, rois)
        assert torch.equal(out, read(pyramid(), rois))
        out.square().sum().backward()
        grads.append(maps["p2"].grad)
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0] / 3, grads[2])


def test_opinions():
    """Logits (ln 3, 0) and (0, 0): .75 and .5, mean .625; the mean logit ln 3 / 2 gives sqrt 3 / (1 + sqrt 3)."""
    opinions = [torch.tensor([[3.0, 1]]).log(), torch.zeros(1, 2)]
    torch.testing.assert_close(mean_of_probs(opinions), torch.tensor([[0.625, 0.375]]))
    assert probs_of_mean(opinions)[0, 0].item() == pytest.approx(3**0.5 / (1 + 3**0.5))


@pytest.mark.parametrize("agnostic", [True, False])
def test_applied_once_all_ways_are_faster_rcnn(agnostic):
    torch.manual_seed(0)
    stage = branch(agnostic=agnostic)
    torch.nn.init.normal_(stage.predictor.deltas.weight)
    torch.nn.init.normal_(stage.predictor.classes.weight)
    proposals = Proposals(AROUND[None], torch.tensor([[1.0, 0, -torch.inf]]))
    want = stage(pyramid(), proposals, [SIZE])
    one = Cascading(CASCADE_MMDET[:1], (0.5,), weights=(1.0,))
    for other in (IterativeBoxes(stage, 1), IntegralBoxes(stage, [], []), CascadeBoxes([stage], one)):
        found = other(pyramid(), proposals, [SIZE])
        torch.testing.assert_close(found.boxes, want.boxes)
        torch.testing.assert_close(found.scores, want.scores)
        assert torch.equal(found.labels, want.labels)
    twice = IterativeBoxes(stage, 2)(pyramid(), proposals, [SIZE])
    same = CascadeBoxes([stage, stage], Cascading(weights=(1.0, 1.0)))(pyramid(), proposals, [SIZE])
    torch.testing.assert_close(twice.boxes, same.boxes)
    assert not torch.allclose(twice.boxes, want.boxes)


def test_every_judge_has_its_own_labels():
    net = IntegralBoxes(branch(), [judge(8, 3), judge(8, 3)], [0.6, 0.7])
    sampled = Sampled(as_rois([AROUND]), torch.tensor([2, 2, 2]), OBJECT.expand(3, 4), torch.zeros(3).long(), 3)
    assert [labels.tolist() for labels in net.labels(sampled)] == [[3, 2, 2], [3, 3, 2]]
    _, losses = net.learn(pyramid(), [AROUND], truth())
    assert list(losses) == ["class", "box", "class2", "class3"]
    sum(losses.values()).backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in net.judges)


def test_images_without_objects():
    torch.manual_seed(0)
    nothing = Truth([torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)], [SIZE])
    line = torch.tensor([[3.0, 3, 3, 9]])
    for how in (Cascading(), Cascading(again=relabelled)):
        for proposals in (AROUND, line, AROUND[:0]):
            steps, losses = cascade(how).learn(pyramid(), [proposals], nothing)
            assert all(loss.isfinite() for loss in losses.values())
            assert [float(losses[f"box{i}"].detach()) for i in (1, 2, 3)] == [0, 0, 0]
            assert not any(len(own.rois) for own in steps.positives().each)
