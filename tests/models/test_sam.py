"""SAM against transformers' SamModel and the numbers of the authors' code; prompts together and one by one."""

from __future__ import annotations

import re

import pytest
import torch

import masklet
import sam_oracle
import sam_peers
from conftest import shared
from masklet.models import build
from masklet.models.prompted_training import Prompting, _placed
from masklet.models.prompting import ask, coarse, enlarged
from masklet.parts.backbones.vit import attend, offsets
from masklet.structures import Prompt
from masklet.structures.errors import UserError
from masklet.weights import remap


@pytest.fixture(scope="module")
def peer():
    return sam_peers.peer()


@pytest.fixture(scope="module")
def ours(peer):
    return sam_peers.ours(peer)


def close(mine: torch.Tensor, want: torch.Tensor, allowed: float = 1e-4) -> None:
    worst = float((mine - want).abs().max() / want.std())
    assert worst < allowed, worst


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (91, 63), (128, 33)])
@torch.inference_mode()
def test_transformers_says_the_same(peer, ours, size):
    image, prepare = sam_peers.photo(*size), sam_peers.processor()
    points, labels = [[[9.0, 7.0], [20.5, 30.25]], [[3.0, 2.0], [11.0, 8.0]]], [[1, 0], [1, 1]]
    inputs = prepare(image, input_points=[points], input_labels=[labels], return_tensors="pt")
    images = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    inputs = {key: value.float() if value.dtype == torch.float64 else value for key, value in inputs.items()}
    embedding = ours.embed(images)
    torch.testing.assert_close(ours.fitted(images), inputs["pixel_values"])
    features = peer.get_image_embeddings(inputs["pixel_values"])
    close(embedding.features, features)
    arguments = {key: value for key, value in inputs.items() if key.startswith("input_")}
    found = peer(image_embeddings=features, **arguments, multimask_output=True)
    prompts = [Prompt(torch.tensor(p), torch.tensor(label)) for p, label in zip(points, labels, strict=True)]
    mine = ask(ours, embedding, prompts, several=True)
    close(mine.logits[:, 1:], found.pred_masks[0])
    close(mine.scores[:, 1:], found.iou_scores[0])
    best = found.iou_scores[0].argmax(1)
    assert torch.equal(mine.chosen, best + 1)
    full = prepare.post_process_masks(found.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])[0]
    assert torch.equal(mine.dense(), full[torch.arange(2), best])
    wrong = ask(ours, embedding, [Prompt(p.points, 1 - p.point_labels) for p in prompts], several=True)
    assert float((wrong.scores[:, 1:] - found.iou_scores[0]).abs().max() / found.iou_scores.std()) > 1e-2

    boxes = [[[4.0, 3.0, 30.0, 28.5], [1.0, 2.0, 8.0, 9.0]]]
    inputs = prepare(image, input_boxes=boxes, return_tensors="pt")
    found = peer(image_embeddings=features, input_boxes=inputs["input_boxes"].float(), multimask_output=False)
    mine = ask(ours, embedding, [Prompt(boxes=torch.tensor([box])) for box in boxes[0]])
    close(mine.best, found.pred_masks[0, :, 0])
    close(mine.score, found.iou_scores[0, :, 0])

    rough = torch.randn(1, 1, 64, 64)
    one = {key: value[:, :1] for key, value in arguments.items()}
    found = peer(image_embeddings=features, **one, input_masks=rough, multimask_output=False)
    mine = ask(ours, embedding, prompts[:1], rough[0])
    close(mine.best, found.pred_masks[0, :, 0])


@torch.inference_mode()
def test_control_another_encoder_setting_is_seen(peer, ours):
    pixels = torch.randn(1, 3, 64, 64)
    features = peer.get_image_embeddings(pixels)
    close(ours.neck(ours.backbone(pixels)["c4"]), features)
    block = ours.backbone.blocks[0].attn
    block.rows, block.columns = block.columns, block.rows
    try:
        assert float((ours.neck(ours.backbone(pixels)["c4"]) - features).abs().max() / features.std()) > 1e-2
    finally:
        block.rows, block.columns = block.columns, block.rows


@torch.inference_mode()
def test_relative_positions_in_pieces_are_what_they_are_at_once():
    q, k, v = torch.randn(3, 3, 2, 30, 8)
    rows, columns = offsets(torch.randn(9, 8), 5), offsets(torch.randn(7, 8), 6)  # the second is resized
    bias = torch.einsum("nahwd,hkd->nahwk", q.unflatten(2, (5, 6)), rows)[..., None]
    bias = bias + torch.einsum("nahwd,wkd->nahwk", q.unflatten(2, (5, 6)), columns)[..., None, :]
    want = (q @ k.transpose(2, 3) / 8**0.5 + bias.flatten(4, 5).flatten(2, 3)).softmax(-1) @ v
    for most in (2**23, 2 * 30 * 30, 2 * 12 * 30, 1):
        torch.testing.assert_close(attend(q, k, v, rows, columns, most), want, rtol=1e-4, atol=1e-5)
    table = torch.arange(9.0)[:, None]
    assert offsets(table, 5)[3, 1] == table[3 - 1 + 4]


@torch.inference_mode()
def test_prompts_of_all_kinds_together_and_alone(ours):
    embedding = ours.embed(torch.from_numpy(sam_peers.photo(40, 60)).permute(2, 0, 1)[None] / 255)
    drawn = torch.zeros(1, 40, 60, dtype=torch.bool)
    drawn[:, 5:20, 8:30] = True
    prompts = [
        Prompt(torch.tensor([[9.0, 7.0]])),
        Prompt(boxes=torch.tensor([[3.0, 4.0, 20.0, 30.0]])),
        Prompt(torch.tensor([[9.0, 7.0], [1.0, 1.0]]), torch.tensor([1, 0])),
        Prompt(torch.tensor([[50.0, 30.0]])),
        Prompt(masks=drawn),
        Prompt(torch.tensor([[9.0, 7.0]]), boxes=torch.tensor([[3.0, 4.0, 20.0, 30.0]])),
    ]
    together = ours.prompt(embedding, prompts)
    assert together.chosen[[1, 2, 4, 5]].tolist() == [0, 0, 0, 0]
    assert (together.chosen[[0, 3]] > 0).all()  # one click may mean several things
    for i, prompt in enumerate(prompts):
        alone = ours.prompt(embedding, prompt)
        torch.testing.assert_close(alone.logits[0], together.logits[i], rtol=1e-4, atol=1e-4)
        assert torch.equal(alone.chosen, together.chosen[i : i + 1])
    masks, scores = together.meanings(0)
    assert masks.shape == (3, 40, 60)
    assert torch.equal(masks[0], together.dense()[0])
    assert (scores.diff() <= 0).all()
    found = together.instances(ours.classes)
    assert torch.equal(found.masks.dense(), together.dense())
    refined = ours.prompt(embedding, prompts[:1], together.best[:1])
    assert refined.chosen.tolist() == [0]  # with an answer to start from it is no longer unclear
    assert not torch.equal(refined.best, together.best[:1])
    want = ours.predict(sam_peers.photo(40, 60), prompts)
    assert torch.equal(want.masks.dense(), together.dense())


@torch.inference_mode()
def test_a_drawn_mask_becomes_logits_where_the_image_lies(ours):
    embedding = ours.embed(torch.rand(1, 3, 32, 64))
    drawn = torch.zeros(1, 32, 64, dtype=torch.bool)
    drawn[:, :, 32:] = True
    logits = coarse(drawn, embedding)
    assert logits.shape == (1, 1, 64, 64)
    assert (logits[0, 0, :30, 34:] == 10).all()
    assert (logits[0, 0, :30, :30] == -10).all()
    assert (logits[0, 0, 32:] == -10).all()  # below the image


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (
            Prompt(torch.tensor([[61.0, 2.0]])),
            "the point 61,2 lies outside the image, which is 60 wide and 40 high; "
            "points are x,y in pixels from the top left corner",
        ),
        (
            Prompt(boxes=torch.tensor([[70.0, 2.0, 80.0, 3.0]])),
            "the box 70,2,80,3 covers nothing of the image, which is 60 wide and 40 high; "
            "boxes are x0,y0,x1,y1 in pixels from the top left corner",
        ),
        (Prompt(boxes=torch.zeros(2, 4)), "2 boxes in one prompt; a prompt means one object; give a list of prompts"),
        (
            Prompt(masks=torch.zeros(1, 3, 4, dtype=torch.bool)),
            "the mask is 3x4 but the image is 40x60; resize it to the image",
        ),
        ([], "there are no prompts; give a Prompt, or a list with one for each object"),
        (
            None,
            "sam_vit_b needs to be told what is meant; give a Prompt, or a list of them; "
            "masklet.inference.everything finds objects without",
        ),
    ],
)
def test_prompts_that_make_no_sense(ours, prompt, message):
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        ours.predict(sam_peers.photo(40, 60), prompt)


def drawn_clips():
    """Two images as clips of one frame, with one object and with two."""
    masks = [torch.zeros(1, 1, 24, 40, dtype=torch.bool), torch.zeros(2, 1, 24, 40, dtype=torch.bool)]
    masks[0][0, 0, 4:16, 10:30] = True
    masks[1][0, 0, 2:9, 3:12] = True
    masks[1][1, 0, 10:22, 20:38] = True
    return torch.rand(2, 1, 3, 24, 40), masks


@pytest.mark.parametrize("boxes", [0.0, 1.0])
def test_every_parameter_learns_from_images(boxes):
    small = {"side": 64, "channels": 32, "decoder_heads": 4, "decoder_hidden": 16, "mask_channels": 4}
    vit = {"width": 16, "depth": 2, "heads": 2, "patch": 8, "window": 3, "whole": (1,)}
    model = build("sam_vit_b", **small, **vit).train()
    frames, masks = drawn_clips()
    how = Prompting(boxes=boxes, rounds=2)
    losses = model.loss(frames, masks, how, generator=torch.Generator().manual_seed(0))
    assert set(losses) == {"focal", "dice", "iou"}
    assert all(value.isfinite() and value.ndim == 0 and value > 0 for value in losses.values())
    sum(losses.values()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    known = torch.tensor([[True], [False]])
    first = model.loss(frames, masks, how, known, torch.Generator().manual_seed(0))
    alone = model.loss(frames[:1], masks[:1], how, generator=torch.Generator().manual_seed(0))
    for name, value in first.items():
        torch.testing.assert_close(value, alone[name])
    nothing = model.loss(frames, masks, known=torch.zeros(2, 1, dtype=torch.bool))
    assert all(value == 0 for value in nothing.values())
    sum(nothing.values()).backward()
    with pytest.raises(UserError, match=r"^2 images but 1 targets; give the masks of each image$"):
        model.loss(frames, masks[:1])


def test_truth_lies_where_the_network_sees_it(ours):
    masks = torch.zeros(1, 16, 32, dtype=torch.bool)
    masks[0, 4:8, 5:16] = True
    seen = ours.embed(torch.rand(1, 3, 16, 32))
    assert (seen.covered, seen.input_size) == ((32, 64), (64, 64))  # the lower half is padding
    found = _placed(masks, seen)[0]
    want = torch.zeros(64, 64, dtype=torch.bool)
    want[8:16, 10:32] = True
    assert torch.equal(found, want)


def test_options_that_make_no_sense(ours):
    with pytest.raises(UserError, match=re.escape("num_classes is 3; a prompt says which object is meant, not what")):
        build("sam_vit_b", num_classes=3)
    with pytest.raises(UserError, match="the embedding holds 2 images; ask about one"):
        ours.prompt(ours.embed(torch.rand(2, 3, 8, 8)), Prompt(torch.tensor([[1.0, 2.0]])))
    with pytest.raises(UserError, match=r"^2 images; prompts belong to one image$"):
        ours.predict([sam_peers.photo(8, 8), sam_peers.photo(8, 8)], Prompt(torch.tensor([[1.0, 2.0]])))


@pytest.mark.parametrize(("size", "count"), [("b", 93735472), ("l", 312342832), ("h", 641090608)])
def test_official_files_load_strictly(size, count):
    listed = sam_oracle.names(shared("oracles", "sam", f"keys_sam_vit_{size}.json"))
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape, _ in listed}
        model = build(f"sam_vit_{size}")
        report = remap.fill(model, tensors, masklet.weights.ORIGINS["sam"].find(tensors).rules)
    assert set(report.loaded) == set(tensors)
    assert not report.dropped
    assert sum(p.numel() for p in model.parameters()) == count
    assert masklet.weights.recognise(tensors)[1].models == (f"sam_vit_{size}",)


@pytest.mark.slow
@torch.inference_mode()
def test_the_authors_code_says_the_same():
    """ViT-B at 1024x1024, stage by stage, and the predictor's answers at the size of the photograph."""
    model = masklet.load("sam_vit_b", weights=sam_oracle.state_dict("sam", "keys_sam_vit_b.json"))
    folder = shared("oracles", "sam", "vit_b_image_encoder")
    image = (sam_oracle.image("sam_vit_b", 480, 640) * 255).round() / 255
    fitted = model.fitted(image[None])
    sam_oracle.check("model_input", fitted, folder)
    stages = {}
    for i in (0, 2, 5, 11):
        model.backbone.blocks[i].register_forward_hook(lambda _m, _i, out, i=i: stages.update({f"block{i}": out}))
    embedding = model.embed(image[None])
    for name, value in stages.items():
        sam_oracle.check(name, value, folder, 1e-3)
    sam_oracle.check("image_embedding", embedding.features, folder, 1e-3)

    folder = shared("oracles", "sam", "vit_b_prompt_and_mask")
    one, two = torch.tensor([[320.0, 240.0]]), torch.tensor([[320.0, 240.0], [100.5, 400.25]])
    box = torch.tensor([[120.0, 80.0, 500.0, 410.0]])
    first = model.prompt(embedding, Prompt(one))
    cases = {
        "point": (first, slice(1, None)),
        "pos_neg": (model.prompt(embedding, Prompt(two, torch.tensor([1, 0]))), slice(0, 1)),
        "box": (model.prompt(embedding, Prompt(boxes=box)), slice(0, 1)),
        "box_point_prev": (
            model.prompt(embedding, Prompt(torch.tensor([[200.0, 300.0]]), boxes=box), first.best, several=True),
            slice(1, None),
        ),
    }
    for name, (answers, which) in cases.items():
        sam_oracle.check(f"{name}.low_res", answers.logits[0, which], folder, 1e-3)
        sam_oracle.check(f"{name}.iou", answers.scores[0, which], folder, 1e-3)
        full = enlarged(answers.logits[:, which], embedding)[0]
        sam_oracle.check(f"{name}.logits", full, folder, 1e-3)
    wrong = model.prompt(embedding, Prompt(torch.tensor([[240.0, 320.0]])))  # x and y exchanged
    assert sam_oracle.difference("point.low_res", wrong.logits[0, 1:], folder) > 0.1
