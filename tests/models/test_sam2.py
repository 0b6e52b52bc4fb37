"""SAM 2 against transformers' Sam2 and Sam2Video with the same random weights; memory as a value; training."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.models import build
from masklet.models.prompted_training import Prompting, losses_of
from masklet.models.prompting import Queries, ask
from masklet.models.sam2 import SAM2
from masklet.parts.memory import turns
from masklet.parts.memory_bank import Keep, Memory, MemoryBank, Remembered
from masklet.structures import Prompt
from masklet.structures.errors import UserError
from masklet.weights import remap
from masklet.weights.from_sam2 import TRANSFORMERS

SIDE, FRAMES = 64, 9
BOX = torch.tensor([[[25.0, 10.0], [50.0, 40.0]]])
TINY: dict[str, Any] = {
    **{"side": SIDE, "channels": 128, "decoder_heads": 4, "decoder_hidden": 48, "mask_channels": 8},
    **{"memory_channels": 64, "own_layers": 2, "memory_layers": 2, "memory_hidden": 48},
    **{"width": 8, "depths": (1, 1, 2, 1), "whole": (3,)},
}


def tiny(**options: Any) -> SAM2:
    torch.manual_seed(0)
    return build("sam2_hiera_tiny", **(TINY | options)).eval()


def configuration() -> Any:
    from transformers import Sam2VideoConfig

    body = {
        **{"hidden_size": 8, "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]},
        **{"global_attention_blocks": [3], "image_size": [SIDE, SIDE], "model_type": "sam2_hiera_det_model"},
    }
    vision = {
        **{"backbone_config": body, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 128},
        **{"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "model_type": "sam2_vision_model"},
    }
    prompts = {"hidden_size": 128, "image_size": SIDE, "mask_input_channels": 8}
    decoder = {
        **{"hidden_size": 128, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 128},
        "dynamic_multimask_via_stability": True,
    }
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=prompts,
        mask_decoder_config=decoder,
        image_size=SIDE,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=48,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=512,
    )


@pytest.fixture(scope="module")
def peer() -> Any:
    from transformers import Sam2VideoModel

    torch.manual_seed(0)
    model = Sam2VideoModel(configuration())
    for name, value in model.named_parameters():
        if value.ndim < 2 and "norm" in name and name.endswith("weight"):
            nn.init.uniform_(value, 0.7, 1.3)
        else:
            nn.init.normal_(value, std=0.1)
    model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(2.0)  # mostly in sight
    frequencies = torch.randn(2, 64)
    model.shared_image_embedding.positional_embedding.data.copy_(frequencies)
    model.prompt_encoder.shared_embedding.positional_embedding.data.copy_(frequencies)
    return model.eval()


@pytest.fixture(scope="module")
def ours(peer: Any) -> SAM2:
    model = tiny()
    remap.fill(model, peer.state_dict(), TRANSFORMERS)
    return model.eval()


@pytest.fixture(scope="module")
def video() -> Tensor:
    """Frames (t, 3, side, side) of a smooth picture that drifts."""
    coarse = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(3))
    picture = F.interpolate(coarse, (SIDE + 2 * FRAMES, SIDE + 2 * FRAMES), mode="bicubic").clamp(0, 1)[0]
    return torch.stack([picture[:, t : t + SIDE, 2 * t : 2 * t + SIDE] for t in range(FRAMES)])


def close(mine: Tensor, want: Tensor, allowed: float = 1e-3) -> None:
    assert mine.shape == want.shape
    worst = float((mine - want).abs().max() / torch.maximum(want.std(correction=0), want.abs().max() / 10))
    assert worst < allowed, worst


def theirs(peer: Any, video: Tensor, back: bool = False) -> dict[int, Any]:
    """transformers' coarse logits of two objects, one clicked on and one in a box, on frame 0 (the last: back)."""
    from transformers import Sam2VideoInferenceSession

    normal = (video - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    session = Sam2VideoInferenceSession(normal, SIDE, SIDE, dtype=torch.float32)
    start = FRAMES - 1 if back else 0
    for number in (1, 2):
        session.obj_id_to_idx(number)
    session.add_point_inputs(
        0, start, {"point_coords": torch.tensor([[[[20.0, 30.0]]]]), "point_labels": torch.tensor([[[1]]])}
    )
    session.add_point_inputs(1, start, {"point_coords": BOX[None], "point_labels": torch.tensor([[[2, 3]]])})
    session.obj_with_new_inputs = [1, 2]
    out = peer.propagate_in_video_iterator(session, start, reverse=back)
    return {found.frame_idx: found.pred_masks[:, 0] for found in out}


def tracked(model: SAM2, video: Tensor, back: bool = False, length: int | None = FRAMES) -> dict[int, Tensor]:
    """Ours, in one batch of both objects."""
    order = range(FRAMES)[::-1] if back else range(FRAMES)
    first = model.embed(video[order[:1]])
    click = Queries(torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))
    nothing = model.nothing_remembered(length)
    one, memory = model.step(first, nothing, click, at=order[0], back=back)
    two, other = model.step(first, nothing, Queries(BOX, torch.tensor([[2, 3]])), at=order[0], back=back)
    memory = Memory.join([memory, other])
    out = {order[0]: torch.cat([one.logits, two.logits])}
    for at in order[1:]:
        found, memory = model.step(model.embed(video[[at]]), memory, at=at, back=back)
        out[at] = found.logits
    return out


@torch.inference_mode()
def test_images_as_in_transformers(peer: Any, ours: SAM2, video: Tensor) -> None:
    from transformers import Sam2Model

    image = Sam2Model._from_config(configuration_of_images(peer.config)).eval()
    image.load_state_dict({key: value for key, value in peer.state_dict().items() if key in image.state_dict()})
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    embedding = ours.embed(video[:1])
    features = image.get_image_embeddings((video[:1] - mean) / std)
    close(embedding.features + ours.no_memory[:, None, None], features[-1])
    for skip, want in zip(embedding.skips, features[:-1], strict=True):
        close(skip, want)
    for points, labels, several in (
        ([[20.0, 30.0]], [1], True),
        ([[20.0, 30.0], [41.5, 7.25]], [1, 0], False),
    ):
        given = {"input_points": torch.tensor([[points]]), "input_labels": torch.tensor([[labels]])}
        want = image(image_embeddings=features, multimask_output=several, **given)
        mine = ask(ours, embedding, Prompt(torch.tensor(points), torch.tensor(labels)), several=several)
        got, scores = (mine.logits[:, 1:], mine.scores[:, 1:]) if several else (mine.best[:, None], mine.score[:, None])
        close(got, want.pred_masks[0])
        close(scores, want.iou_scores[0])
    wrong = ask(ours, embedding, Prompt(torch.tensor(points), torch.tensor([1, 1])), several=False)
    assert float((wrong.best - want.pred_masks[0, 0]).abs().max() / want.pred_masks.std()) > 1e-2


def configuration_of_images(config: Any) -> Any:
    from transformers import Sam2Config

    return Sam2Config(
        vision_config=config.vision_config,
        prompt_encoder_config=config.prompt_encoder_config.to_dict(),
        mask_decoder_config=config.mask_decoder_config.to_dict(),
    )


@pytest.mark.parametrize("back", [False, True])
@torch.inference_mode()
def test_videos_as_in_transformers(peer: Any, ours: SAM2, video: Tensor, back: bool) -> None:
    want, mine = theirs(peer, video, back), tracked(ours, video, back)
    assert want.keys() == mine.keys()
    for at in want:
        close(mine[at], want[at])
    places = ours.bank.places.detach().clone()
    try:
        ours.bank.places.copy_(places.flip(0))  # the comparison can fail: ages the other way round
        wrong = tracked(ours, video, back)
    finally:
        ours.bank.places.copy_(places)
    last = 0 if back else FRAMES - 1
    assert float((wrong[last] - want[last]).abs().max() / want[last].std()) > 1e-2


def empty_frame(frame: int, objects: int = 1) -> Remembered:
    return Remembered(frame, torch.zeros(objects, 64, 64, 64), torch.zeros(objects, 256))


def test_a_frame_sees_as_many_tokens_as_with_the_authors() -> None:
    """Counted in the authors' code: a mask on frame 0 of a video of 30 frames (4,096 for a map, 4 for a pointer)."""
    bank = MemoryBank(256, 64).eval()
    memory = bank.write(Memory(length=30), empty_frame(0), prompted=True)
    seen = {}
    for frame in range(1, 20):
        recalled = bank.recall(memory, frame)
        assert recalled is not None
        seen[frame] = recalled.tokens
        memory = bank.write(memory, empty_frame(frame), prompted=False)
        assert len(memory.recent) <= 15
        assert sum(r.map is not None for r in memory.recent) <= 6
    want = {1: 4100, 2: 8200, 3: 12300, 7: 28700, 8: 28704, 9: 28708, 15: 28732, 16: 28736, 17: 28736, 19: 28736}
    assert {frame: seen[frame] for frame in want} == want
    assert memory.nbytes == 7 * 4 * 64**3 + 16 * 4 * 256
    assert bank.recall(Memory(), 3) is None


def test_which_frames_are_shown() -> None:
    assert Keep().recent(10, back=False) == [9, 8, 7, 6, 5, 4]
    assert Keep().recent(10, back=True) == [11, 12, 13, 14, 15, 16]
    assert Keep(maps=4, stride=3).recent(11, back=False) == [10, 9, 6]  # the previous one, then multiples of 3
    assert Keep(maps=4, stride=3).recent(11, back=True) == [12, 15, 18]
    bank = MemoryBank(256, 64, Keep(prompted=3)).eval()
    memory = Memory()
    for frame in (2, 40, 10, 30, 18):
        memory = bank.write(memory, empty_frame(frame), prompted=True)
    shown, left_out = bank.shown(memory, 20)
    assert [r.frame for r in shown] == [10, 18, 30]  # the nearest on each side, and the next nearest
    assert [r.frame for r in left_out] == [2, 40]
    assert [r.frame for r in bank.shown(memory, 18)[0]] == [10, 18, 30]  # a frame itself counts as one that follows
    forgotten = memory.forget(18)
    assert [r.frame for r in forgotten.prompted] == [2, 10, 30, 40]
    assert len(memory.prompted) == 5


def test_ages_are_told_apart() -> None:
    """The last vector is for prompted frames, the first for the previous frame; pointers of the past only."""
    bank = MemoryBank(256, 64).eval()
    memory = bank.write(Memory(), empty_frame(0), prompted=True)
    memory = bank.write(memory, empty_frame(9), prompted=True)
    for frame in (1, 2):
        memory = bank.write(memory, empty_frame(frame), prompted=False)
    recalled = bank.recall(memory, 3)
    assert recalled is not None
    grid = recalled.map_positions - recalled.map_positions[:1] + bank.places[-1]
    torch.testing.assert_close(grid[:, 0], bank.places[[-1, -1, 1, 0]])
    assert recalled.pointers.shape[1] == 4 * 3  # frame 9 is in the future


@torch.inference_mode()
def test_memory_is_a_value(ours: SAM2, video: Tensor) -> None:
    embeddings = [ours.embed(frame[None]) for frame in video]
    click = Queries(torch.tensor([[[20.0, 30.0]], [[40.0, 12.0]]]), torch.ones(2, 1, dtype=torch.long))
    _, start = ours.step(embeddings[0], ours.nothing_remembered(), click, at=0)
    before = start.prompted[0].map.clone()
    found, memory = ours.step(embeddings[1], start, at=1)
    again, same = ours.step(embeddings[1], start, at=1)
    assert torch.equal(found.logits, again.logits)
    assert memory.frames == same.frames == ((0,), ((1, True),), None)
    assert start.frames == ((0,), (), None)
    assert torch.equal(start.prompted[0].map, before)
    alone, _ = ours.step(embeddings[1], start[1:], at=1)
    close(alone.logits, found.logits[1:])
    joined = Memory.join([memory[:1], memory[1:]])
    assert torch.equal(joined.recent[0].map, memory.recent[0].map)
    kept, unchanged = ours.step(embeddings[2], memory, at=2, write=False)
    assert unchanged is memory
    assert kept.logits.shape == (2, 16, 16)
    with pytest.raises(UserError, match="memories of different frames cannot be joined"):
        Memory.join([start, memory])


@torch.inference_mode()
def test_who_follows_starts_from_the_last_mask(video: Tensor) -> None:
    """As if somebody gave the mask of the frame before as a rough one; prompts and far frames are as ever."""
    model = tiny(**SMALL, follow=True)
    seen = [model.embed(video[[i]]) for i in range(3)]
    click = Queries(torch.tensor([[[20.0, 30.0]], [[40.0, 12.0]]]), torch.ones(2, 1, dtype=torch.long))
    first, memory = model.step(seen[0], Memory(), click, at=0)
    found, later = model.step(seen[1], memory, at=1)
    pixels = model.conditioned(seen[1], memory, at=1)
    rough = replace(Queries.nothing(2), masks=first.logits.clamp(-32, 32)[:, None])
    assert torch.equal(found.candidates, model.answered(pixels, seen[1], rough).candidates)
    plain = model.answered(pixels, seen[1])  # what it would be without
    assert (found.candidates - plain.candidates).abs().max() > 1e-3
    close(later.last_mask(2), found.logits.clamp(-32, 32))
    close(later.last_mask(0), first.logits.clamp(-32, 32))
    _, last = model.step(seen[2], later, at=2)
    assert [r.logits is None for r in last.recent] == [True, False]  # of frame 1 only the map is kept
    joined = Memory.join([last[:1], last[1:]])
    assert torch.equal(joined.last_mask(3), last.last_mask(3))
    assert joined.nbytes == last.nbytes
    assert tiny(**SMALL).step(seen[0], Memory(), click, at=0)[1].last_mask(1) is None


def test_frozen_norms_stay() -> None:
    model = build("sam2", norm="frozen", side=64, **SMALL).train()
    before = {k: v.clone() for k, v in model.encoder.backbone.named_buffers()}
    model.embed(torch.rand(2, 3, 64, 64)).features.sum().backward()
    assert len(before) > 100
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.backbone.named_buffers())


@torch.inference_mode()
def test_out_of_sight_is_said_and_remembered(ours: SAM2, video: Tensor) -> None:
    embedding = ours.embed(video[:1])
    nowhere = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    found, memory = ours.step(embedding, ours.nothing_remembered(), None, nowhere, at=0)
    assert (found.logits < 0).all()
    assert found.object_logits.item() == -10
    assert torch.equal(found.pointers, ours.pointer.nothing)
    ours.bank.dtype = torch.float32
    _, memory = ours.step(embedding, ours.nothing_remembered(), None, nowhere, at=0)
    visible = ours.write(embedding, Memory(), replace(found, object_logits=-found.object_logits), nowhere, at=0)
    change = memory.prompted[0].map - visible.recent[0].map
    ours.bank.dtype = torch.bfloat16
    close(change.mean((2, 3)), ours.absence.vector.detach())


@pytest.mark.parametrize("memory_channels", [64, 16])
@torch.inference_mode()
def test_narrow_values_give_the_same(memory_channels: int) -> None:
    """Averages taken before both projections, as on processors without a gradient, against those taken after."""
    model = tiny(memory_channels=memory_channels, memory_layers=1, own_layers=1)
    attention = model.attention.layers[0].memory
    q, v = torch.randn(2, 16, 128), torch.randn(2, 16 * 3 + 4, memory_channels)
    angles = torch.randn(16, 64)
    places = turns(angles), turns(angles, 3, v.shape[1])
    got = attention(q, v, v, *places)
    with torch.enable_grad():
        want = attention(q, v, v, *places)
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sam2_hiera_tiny", 38_962_498),
        ("sam2_hiera_small", 46_060_354),
        ("sam2_hiera_base_plus", 80_850_178),
        ("sam2_hiera_large", 224_446_642),
    ],
)
def test_sizes(name: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name).parameters()) == count


def clip() -> tuple[Tensor, list[Tensor]]:
    frames = torch.rand(2, 3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    masks = [torch.zeros(2, 3, SIDE, SIDE, dtype=torch.bool), torch.zeros(1, 3, SIDE, SIDE, dtype=torch.bool)]
    masks[0][0, :, 10:30, 5:40] = True
    masks[0][1, :2, 40:60, 5:40] = True  # out of sight in the last frame
    masks[1][:, 1:, 20:50, 30:60] = True
    return frames, masks


SMALL = {"channels": 32, "memory_channels": 16, "own_layers": 1, "memory_layers": 1, "decoder_hidden": 16}


@pytest.mark.parametrize("how", [Prompting(points=1.0, rounds=1), Prompting(points=0.0)])
def test_every_parameter_learns_from_clips(how: Prompting) -> None:
    model = tiny(**SMALL).train()
    frames, masks = clip()
    reached: set[str] = set()
    for seed in range(2):
        losses = model.loss(frames, masks, how, generator=torch.Generator().manual_seed(seed))
        assert set(losses) == {"focal", "dice", "iou", "object"}
        assert all(value.isfinite() and value.ndim == 0 for value in losses.values())
        sum(losses.values()).backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
    parts = {name.partition(".")[0] for name, _ in model.named_parameters()}
    unused = parts - {name.partition(".")[0] for name in reached}
    assert unused == {"no_memory_position", "shrink" if how.points else "no_memory"}
    assert not [name for name, p in model.encoder.named_parameters() if p.grad is None]


def test_a_clip_has_frames_to_learn_from() -> None:
    """However many frames may be given: one is left to look for the object in."""
    model = tiny(**SMALL).train()
    frames, masks = clip()
    for seed in range(3):
        two = [m[:, :2] for m in masks]
        losses = model.loss(frames[:, :2], two, Prompting(points=0.0), generator=torch.Generator().manual_seed(seed))
        assert losses["object"] > 0


def test_images_and_unknown_frames_and_nothing() -> None:
    model = tiny(**SMALL).train()
    frames, masks = clip()
    how, seed = Prompting(rounds=1), torch.Generator().manual_seed
    one = model.loss(frames[:, :1], [m[:, :1] for m in masks], how, generator=seed(0))
    assert one["focal"] > 0
    nothing = model.loss(frames[:, :1], [m[:0, :1] for m in masks], how)
    assert all(value == 0 for value in nothing.values())
    sum(nothing.values()).backward()
    unknown = model.loss(frames, masks, how, torch.zeros(2, 3, dtype=torch.bool), seed(0))
    assert all(value == 0 for value in unknown.values())
    with pytest.raises(UserError, match=re.escape("2 clips but 1 targets; give the masks of each clip's objects")):
        model.loss(frames, masks[:1])


def test_losses_by_hand() -> None:
    """Two objects, of which the second is not there; two candidates, of which the second is right."""
    model = tiny()
    truth = torch.zeros(2, 16, 16, dtype=torch.bool)
    truth[0, :8] = True
    right, wrong = torch.where(truth[0], 20.0, -20.0), torch.where(truth[0], -20.0, 20.0)
    candidates = torch.stack([torch.stack([wrong, right]), torch.stack([right, right])])
    found = model._given(model.embed(torch.rand(1, 3, 16, 16)), truth)
    found = replace(found, candidates=candidates, candidate_ious=torch.tensor([[0.25, 0.5], [0.0, 0.0]]))
    found = replace(found, object_logits=torch.tensor([0.0, 0.0]))
    losses = losses_of(found, truth)
    assert losses["focal"] < 1e-6
    assert losses["dice"] < 1e-6
    assert losses["iou"].item() == pytest.approx((0.25 + 0.5) / 2 / 2)  # IoUs are 0 and 1; over two objects
    assert losses["object"].item() == pytest.approx(0.6931472)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "3"}, 'version is \'3\'; choose "2.1" or "2"'),
        ({"side": 100}, "side is 100; give a multiple of 32"),
        ({"num_classes": 2}, "num_classes is 2; a prompt says which object is meant, not what it is"),
        ({"backbone": "vit_b"}, "vit_b has maps at strides 16; SAM 2 needs 4, 8, 16 and 32"),
        ({"fuse": "max"}, "fuse is 'max'; choose sum or mean"),
        ({"enriched": ("c5",)}, "level 'c5' has no level above; levels: c2, c3, c4, c5"),
        (
            {"memory_channels": 60},
            "60 channels of memory do not divide 256; pointers are cut into tokens of that width",
        ),
        ({"norm": "layer"}, "norm is 'layer'; choose batch or frozen"),
        ({"memories": -1}, "a memory of 0 maps and 16 pointers; give 1 or more of each"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        build("sam2", **({"backbone": "resnet18"} | options))


def test_a_frame_without_memory_needs_a_prompt() -> None:
    model = tiny()
    message = "nothing is known of the objects in frame 5; prompt them on a frame first"
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        model.step(model.embed(torch.rand(1, 3, 16, 16)), Memory(), at=5)


@pytest.mark.parametrize(
    "options",
    [
        {"own_layers": 2, "memory_layers": 1},
        {"own_layers": 1, "memory_layers": 2, "rotary": False},
        {"version": "2", "memories": 0, "pointers": 1},
        {"relative": True, "enriched": ("c3", "c4"), "fuse": "mean", "memory_stride": 2, "prompted": 1},
        {"backbone": "efficientnet_lite0", "half_memory": False},
        {"drawn": 1.0, "mixing": (1, 1), "follow": True, "level_norm": True},
    ],
)
@torch.inference_mode()
def test_knobs_of_the_ablations(options: dict[str, Any], video: Tensor) -> None:
    model = tiny(**(SMALL | options))
    click = Queries(torch.tensor([[[20.0, 30.0]]]), torch.tensor([[1]]))
    _, memory = model.step(model.embed(video[:1]), Memory(), click, at=0)
    for at in range(1, 4):
        found, memory = model.step(model.embed(video[[at]]), memory, at=at)
    assert found.logits.isfinite().all()
    assert memory.prompted[0].map.dtype == (torch.float32 if "half_memory" in options else torch.bfloat16)


@torch.inference_mode()
def test_bytes_are_resized_as_the_authors_resize_frames() -> None:
    """Against Pillow, which they use: to a byte; and a picture of the right size is only divided by 255."""
    from PIL import Image

    model, seen = tiny(), []
    model.encoder.normalize.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    frame = torch.randint(0, 256, (3, 37, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    embedding = model.embed(frame[None])
    assert embedding.size == (37, 90)
    small = Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    want = torch.tensor(list(small.tobytes())).view(SIDE, SIDE, 3).permute(2, 0, 1)
    assert float((seen[0][0] * 255 - want).abs().max()) < 1.01
    model.embed(frame[None, :, :, :37].repeat(1, 1, 2, 2)[:, :, :SIDE, :SIDE])
    assert torch.equal(seen[1][0, :, :37, :37], frame[:, :, :37].float() / 255)
