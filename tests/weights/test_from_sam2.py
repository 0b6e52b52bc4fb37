"""Official files of SAM 2 load strictly; what the authors' code gave comes out (`../shared/oracles/sam2`)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import masklet
import sam_oracle
from conftest import shared
from masklet.models import build
from masklet.models.prompting import Embedding, Queries, ask, enlarged
from masklet.models.sam2 import SAM2, Found
from masklet.parts.mask_decoder import stability, steady
from masklet.parts.memory import Recalled
from masklet.parts.memory_bank import Memory
from masklet.parts.positions import sine_grid, sine_line
from masklet.structures import Prompt
from masklet.structures.errors import UserError
from masklet.weights import CATALOG, fill, recognise
from masklet.weights.from_sam2 import FRESH

FILES = [f"sam{version}_hiera_{size}" for version in ("2", "2.1") for size in ("tiny", "small", "base_plus", "large")]


@pytest.mark.parametrize("file", FILES)
def test_key_lists_of_the_official_files(file: str) -> None:
    with torch.device("meta"):
        names = sam_oracle.names(shared("oracles", "sam2", f"keys_{file}.json"))
        tensors = {key: torch.empty(shape) for key, shape, _ in names}
        system = f"sam2_hiera_{file.partition('hiera_')[2]}"
        found = recognise(tensors)
        assert found is not None
        origin, layout = found
        assert (origin, layout.models) == ("sam2", (system, "sam2"))
        model = build(system, **layout.options(tensors))
        assert model.spec["options"]["version"] == file[3:].partition("_")[0]
        report = fill(model, tensors)
        assert len(report.loaded) == len(tensors)
        other = build(system, version="2" if file.startswith("sam2.1") else "2.1")
        with pytest.raises(UserError, match=r"(lacks|has) \d+ tensors? (of|that) sam2_hiera"):
            fill(other, tensors)
    entry = CATALOG[file.replace("sam2_", "sam2.0_")]
    assert entry.model == system
    assert entry.options["version"] == model.spec["options"]["version"]
    assert "non-commercial-data" in entry.kinds  # SA-1B


def test_names_of_transformers() -> None:
    from transformers import Sam2VideoConfig, Sam2VideoModel

    with torch.device("meta"):
        tensors = Sam2VideoModel(Sam2VideoConfig()).state_dict()
        assert (recognise(tensors) or ("",))[0] == "transformers"
        fill(build("sam2_hiera_tiny"), tensors)


def test_a_file_without_memory_is_for_images() -> None:
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(0)
    body = {
        **{"hidden_size": 8, "blocks_per_stage": [1, 2, 7, 2], "embed_dim_per_stage": [8, 16, 32, 64]},
        **{"global_attention_blocks": [5], "image_size": [64, 64], "model_type": "sam2_hiera_det_model"},
    }
    vision = {
        **{"backbone_config": body, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 64},
        **{"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "model_type": "sam2_vision_model"},
    }
    prompts = {"hidden_size": 64, "image_size": 64, "mask_input_channels": 8}
    decoder = {"hidden_size": 64, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 64}
    peer = Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    ).eval()
    shared_places = peer.shared_image_embedding.positional_embedding.data  # published files have it twice
    peer.prompt_encoder.shared_embedding.positional_embedding.data.copy_(shared_places)
    options = {"side": 64, "channels": 64, "decoder_heads": 4, "decoder_hidden": 48, "mask_channels": 8, "width": 8}
    options |= {"memory_channels": 16, "memory_hidden": 16, "own_layers": 1, "memory_layers": 1, "whole": (5,)}
    message = (
        "the state dict is transformers' Sam2Model, which answers prompts on images and has no memory; "
        f"take the file of Sam2VideoModel to follow objects; for images alone say fresh=r'{FRESH}'"
    )
    with pytest.raises(UserError, match="^" + re.escape(message) + "$"):
        masklet.load("sam2_hiera_tiny", weights=peer.state_dict(), **options)
    ours = masklet.load("sam2_hiera_tiny", weights=peer.state_dict(), fresh=FRESH, **options)
    image, point = torch.rand(1, 3, 64, 64), torch.tensor([[[[20.0, 30.0]]]])
    with torch.inference_mode():
        mine = ours(image, point)
        theirs = peer(ours.encoder.normalize(image), input_points=point, multimask_output=True)
    torch.testing.assert_close(mine["ious"][0, :, 1:], theirs.iou_scores[0], rtol=1e-4, atol=1e-4)
    low = torch.nn.functional.interpolate(theirs.pred_masks[0], (64, 64), mode="bilinear")
    torch.testing.assert_close(mine["logits"][0, :, 1:], low, rtol=1e-3, atol=1e-3)


# From here on in full size: minutes on a busy machine.


@pytest.fixture(scope="module")
def tiny() -> SAM2:
    return masklet.load("sam2_hiera_tiny", weights=sam_oracle.state_dict("sam2", "keys_sam2.1_hiera_tiny.json"))


@pytest.fixture
def in_sight(tiny: SAM2) -> Any:
    """The model with the object's score moved up by 3, as where videos were recorded."""
    bias = tiny.decoder.object[-1].bias
    with torch.no_grad():
        bias += 3
        yield tiny
        bias -= 3


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
@torch.inference_mode()
def test_encoders(size: str) -> None:
    folder = shared("oracles", "sam2", f"{size}_image_encoder")
    keys = sam_oracle.state_dict("sam2", f"keys_sam2.1_hiera_{size}.json")
    model = masklet.load(f"sam2_hiera_{size}", weights=keys)
    image = sam_oracle.image(f"sam2_encoder_{size}", 1024, 1024)[None]
    features = model.encoder.backbone(model.encoder.normalize(image))
    for i in range(4):
        sam_oracle.check(f"trunk{i}", features[f"c{i + 2}"], folder)
    maps = model.encoder.neck(features)
    for i in range(2):
        sam_oracle.check(f"fpn{i}_raw", maps[f"c{i + 2}"], folder)
        sam_oracle.check(f"pos{i}", sine_grid(256 >> i, 256 >> i, 256)[None], folder)
    embedding = model.embed(image)
    for i, got in enumerate((*embedding.skips, embedding.features)):
        sam_oracle.check(f"fpn{i}", got, folder)
    wrong = model.encoder.backbone(model.encoder.normalize(image.flip(1)))
    assert sam_oracle.difference("trunk3", wrong["c5"], folder) > 1e-2


@pytest.mark.slow
@torch.inference_mode()
def test_prompts_and_decoder(tiny: SAM2) -> None:
    encoder, decoder = (shared("oracles", "sam2", f"tiny_{part}") for part in ("prompt_encoder", "mask_decoder"))
    grid = tiny.prompts.positions.grid(64, 64)
    sam_oracle.check("dense_pe", grid[None], encoder)
    features = sam_oracle.uniform("sam2_dec_emb", 1, 256, 64, 64)
    skips = (sam_oracle.uniform("sam2_dec_hr0", 1, 32, 256, 256), sam_oracle.uniform("sam2_dec_hr1", 1, 64, 128, 128))
    square = (1024, 1024)
    frame = Embedding(features, skips, grid, square, square, square)
    rough = 12 * (sam_oracle.image("mask_prompt", 256, 256, 1)[None] - 0.5)
    prompts: dict[str, tuple[list[list[float]], list[int], Tensor | None]] = {
        "point": ([[500, 375]], [1], None),
        "pos_neg": ([[500, 375], [820.5, 610.25]], [1, 0], None),
        "box": ([[220, 180], [760, 700]], [2, 3], None),
        "box_point": ([[220, 180], [760, 700], [410, 333]], [2, 3, 1], None),
        "mask": ([], [], rough),
        "point_mask": ([[500, 375]], [1], rough),
    }
    for name, (points, labels, mask) in prompts.items():
        queries = Queries(
            torch.tensor(points, dtype=torch.float32).view(1, -1, 2), torch.tensor([labels], dtype=torch.long), mask
        )
        decoded = tiny._tokens(features, grid, queries)
        logits = tiny.masks(frame, decoded)
        sam_oracle.check(f"{name}.all_logits", logits, decoder)
        sam_oracle.check(f"{name}.all_iou", decoded.ious, decoder)
        sam_oracle.check(f"{name}.tokens", decoded.tokens, decoder)
        sam_oracle.check(f"{name}.object_score", decoded.object_logits[:, None], decoder)
        sam_oracle.check(f"{name}.single_stability", stability(logits[:, :1], 0.05), decoder, 1e-3)
        found = tiny.answered(features, frame, queries)
        kind = "multi" if len(labels) <= 1 else "single"
        sam_oracle.check(f"{name}.{kind}.obj_ptr", found.pointers, decoder)
        sam_oracle.check(f"{name}.{kind}.best_low_res", found.logits[:, None], decoder)
    made = torch.stack(
        [
            torch.cat([10 * (sam_oracle.image(f"sam2_dec_st{i}{j}", 64, 64, 1) - 0.5) for j in range(4)])
            for i in range(3)
        ]
    )
    made[0, 0] *= 4
    made[1, 0] *= 0.004
    made[2, 0] = -5
    ious = sam_oracle.uniform("sam2_dec_io", 3, 4)
    chosen = steady(made, ious)
    rows = torch.arange(3)
    sam_oracle.check("fallback.masks", made[rows, chosen][:, None], decoder)
    sam_oracle.check("fallback.iou", ious[rows, chosen][:, None], decoder)


@pytest.mark.slow
@torch.inference_mode()
def test_memory(tiny: SAM2) -> None:
    folder = shared("oracles", "sam2", "tiny_memory_modules")
    current, places = (sam_oracle.uniform(f"sam2_mem_{name}", 4096, 1, 256) for name in ("cur", "curpos"))
    memory, told = (sam_oracle.uniform(f"sam2_mem_{name}", 8200, 1, 64)[:, 0] for name in ("mem", "mempos"))
    recalled = Recalled(
        memory[None, :8192].unflatten(1, (2, 4096)), told[:8192].view(2, 4096, 64), memory[None, 8192:], told[8192:]
    )
    features = current[:, 0].T.view(1, 256, 64, 64)
    where = places[:, 0].T.view(256, 64, 64)
    got = tiny.attention(features, where, recalled).flatten(2).permute(2, 0, 1)
    sam_oracle.check("memory_attention", got, folder)
    swapped = tiny.attention(features, where, replace(recalled, maps=recalled.maps.flip(1)))
    assert sam_oracle.difference("memory_attention", swapped.flatten(2).permute(2, 0, 1), folder) > 1e-3
    pixels = sam_oracle.uniform("sam2_mem_pix", 1, 256, 64, 64)
    logits = 20 * sam_oracle.image("sam2_mem_mask", 1024, 1024, 1)[None] - 10
    sam_oracle.check("memory_encoder", tiny.writer(pixels, logits), folder)
    sam_oracle.check("memory_pos", sine_grid(64, 64, 64)[None], folder)
    sam_oracle.check("sine_pe_1d", sine_line(torch.tensor([-3.0, 0, 1, 2, 15]) / 15, 256), folder)
    skips = (sam_oracle.uniform("sam2_mem_hr0", 1, 32, 256, 256), sam_oracle.uniform("sam2_mem_hr1", 1, 64, 128, 128))
    square = (1024, 1024)
    frame = Embedding(pixels, skips, tiny.prompts.positions.grid(64, 64), square, square, square)
    drawn = sam_oracle.image("sam2_mem_hm", 1024, 1024, 1) > 0.6
    found, _ = tiny.step(frame, Memory(), None, drawn, at=0, write=False)
    sam_oracle.check("mask_as_output.low_res", found.logits[:, None], folder)
    sam_oracle.check("mask_as_output.obj_ptr", found.pointers, folder)
    sam_oracle.check("mask_as_output.score", found.object_logits[:, None], folder)


@pytest.mark.slow
@torch.inference_mode()
def test_images(in_sight: SAM2) -> None:
    folder = shared("oracles", "sam2", "tiny_image_predictor")
    pixels = np.rint(255 * sam_oracle.image("sam2_predictor", 480, 640).numpy()).astype(np.uint8)
    embedding = in_sight.embed(torch.from_numpy(pixels)[None] / 255)
    sam_oracle.check("image_embed", embedding.features + in_sight.no_memory[:, None, None], folder)
    for i, skip in enumerate(embedding.skips):
        sam_oracle.check(f"high_res{i}", skip, folder)
    box = torch.tensor([[120.0, 80, 500, 410]])
    first = ask(in_sight, embedding, Prompt(torch.tensor([[320.0, 240.0]])), several=True)
    second = Prompt(torch.tensor([[320.0, 240.0], [100.5, 400.25]]), torch.tensor([1, 0]))
    previous = first.best.clamp(-32, 32)
    for name, answer in {
        "point": first,
        "pos_neg": ask(in_sight, embedding, second, several=False),
        "box": ask(in_sight, embedding, Prompt(boxes=box), several=False),
        "box_point_prev": ask(
            in_sight, embedding, Prompt(torch.tensor([[200.0, 300.0]]), boxes=box), previous, several=True
        ),
    }.items():
        several = name in ("point", "box_point_prev")
        logits = answer.logits[0, 1:] if several else answer.best
        sam_oracle.check(f"{name}.low_res", logits.clamp(-32, 32), folder, 1e-3)
        sam_oracle.check(f"{name}.logits", enlarged(logits[None], embedding)[0], folder, 1e-3)
        sam_oracle.check(f"{name}.iou", answer.scores[0, 1:] if several else answer.score, folder, 1e-3)


def entries(folder: Any, start: str, found: Found, memory: Memory, at: int) -> dict[str, Tensor]:
    """What the fixture may hold of one object in one frame."""
    kept = next(r for r in (*memory.prompted, *memory.recent) if r.frame == at)
    assert kept.map is not None
    all_of_them = {
        "low_res": found.logits[:, None],
        "score": found.object_logits[:, None],
        "obj_ptr": found.pointers,
        "maskmem": kept.map.float(),
    }
    recorded = np.load(folder / "outputs.npz").files
    return {f"{start}.{name}": value for name, value in all_of_them.items() if f"{start}.{name}" in recorded}


@pytest.mark.slow
@torch.inference_mode()
def test_video(in_sight: SAM2) -> None:
    """Two objects forward, a correction, and one of them backward. (What the correction changes, the authors' predictor
    forgets when it goes on: pass B of the fixture equals pass A.)"""
    folder = shared("oracles", "sam2", "tiny_video")
    big = sam_oracle.image("sam2_video", 1048, 1088)
    frames = [
        replace(in_sight.embed(big[None, :, 3 * t : 3 * t + 1024, 8 * t : 8 * t + 1024]), size=(360, 640))
        for t in range(8)
    ]
    prompts = [Prompt(torch.tensor([[210.0, 150.0]])), Prompt(boxes=torch.tensor([[300.0, 60, 520, 260]]))]
    memories, most = [], 0.99  # of the maps, which are kept in bfloat16: a few are rounded to the other side
    for i, prompt in enumerate(prompts):
        found, memory = in_sight.step(frames[0], Memory(length=8), Queries.of([prompt], frames[0]), at=0)
        memories.append(memory)
        sam_oracle.check(f"prompt.obj{i}.video_res", enlarged(found.logits[:, None], frames[0]), folder)
        for name, value in entries(folder, f"A.obj{i}.f0.cond", found, memory, 0).items():
            sam_oracle.check(name, value, folder, 1e-4, most if name.endswith("maskmem") else 1.0)
    memory = Memory.join(memories)
    before = memory
    for at in range(1, 8):
        before = memory if at == 3 else before
        found, memory = in_sight.step(frames[at], memory, at=at)
        late = most if at > 5 else 1.0  # by then roundings have moved single pixels by up to 3.3e-3
        sam_oracle.check(f"A.video_res.f{at}", enlarged(found.logits[:, None], frames[at]), folder, 2e-3, late)
        for i in range(2):
            for name, value in entries(folder, f"A.obj{i}.f{at}.non", found[i : i + 1], memory[i : i + 1], at).items():
                sam_oracle.check(name, value, folder, 2e-3, most if name.endswith("maskmem") else late)
        if at == 3:
            again = Prompt(torch.tensor([[400.5, 222.25]]), torch.tensor([0]))
            asked = replace(Queries.of([again], frames[3]), masks=found.logits[:1, None].clamp(-32, 32))
            corrected, _ = in_sight.step(frames[3], before[:1], asked, at=3, write=False)
            shown = enlarged(torch.stack([corrected.logits, found.logits[1:]]), frames[3])
            sam_oracle.check("correct.video_res", shown, folder, 5e-3)
    for at in (5, 4):
        found, memory = in_sight.step(frames[at], memory, at=at, back=True)
        for i in range(2):
            for name, value in entries(folder, f"C.obj{i}.f{at}.non", found[i : i + 1], memory[i : i + 1], at).items():
                sam_oracle.check(name, value, folder, 5e-3, most)
