"""SAM 2.1 tiny in full size at 1024 against transformers: the same random weights, maps in float32 on both sides."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masklet.models import build
from masklet.models.prompting import Queries
from masklet.models.sam2 import SAM2
from masklet.weights import remap
from masklet.weights.from_sam2 import TRANSFORMERS

pytestmark = pytest.mark.slow
SIDE, FRAMES = 1024, 3
CLICK = [[420.0, 610.0]]


class Single:
    """torch without bfloat16, in which transformers keeps its memories whether or not one wants it to."""

    bfloat16 = torch.float32

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture(scope="module")
def peer() -> Any:
    from transformers import Sam2VideoConfig, Sam2VideoModel

    torch.manual_seed(0)
    model = Sam2VideoModel(Sam2VideoConfig(mask_decoder_config={"dynamic_multimask_via_stability": True}))
    for name, value in model.named_parameters():
        if value.ndim < 2 and "norm" in name and name.endswith("weight"):
            nn.init.uniform_(value, 0.7, 1.3)
        elif name.endswith("bias") or value.ndim < 2:
            nn.init.normal_(value, std=0.05)
        else:
            nn.init.normal_(value, std=1 / math.sqrt(value[0].numel()))
    model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(3.0)  # in sight
    frequencies = torch.randn(2, 128)
    model.shared_image_embedding.positional_embedding.data.copy_(frequencies)
    model.prompt_encoder.shared_embedding.positional_embedding.data.copy_(frequencies)
    return model.eval()


@pytest.fixture(scope="module")
def ours(peer: Any) -> SAM2:
    model = build("sam2_hiera_tiny", half_memory=False)
    remap.fill(model, peer.state_dict(), TRANSFORMERS)
    return model.eval()


@pytest.fixture(scope="module")
def video() -> Tensor:
    """Frames (t, 3, side, side) of a picture that drifts."""
    coarse = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    picture = F.interpolate(coarse, (SIDE + 32 * FRAMES, SIDE + 32 * FRAMES), mode="bicubic").clamp(0, 1)[0]
    return torch.stack([picture[:, 16 * t :, 32 * t :][:, :SIDE, :SIDE] for t in range(FRAMES)])


def far(mine: Tensor, want: Tensor) -> float:
    """The largest difference in standard deviations."""
    assert mine.shape == want.shape
    return float((mine - want).abs().max() / want.std(correction=0))


@torch.inference_mode()
def test_an_image_and_two_frames_after_it(
    peer: Any, ours: SAM2, video: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.models.sam2_video.modeling_sam2_video as theirs
    from transformers import Sam2VideoInferenceSession

    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    first = ours.embed(video[:1])
    *skips, features = peer.get_image_embeddings((video[:1] - mean) / std)
    assert far(first.features + ours.no_memory[:, None, None], features) < 1e-4
    for mine, want in zip(first.skips, skips, strict=True):
        assert far(mine, want) < 1e-4

    monkeypatch.setattr(theirs, "torch", Single())
    session = Sam2VideoInferenceSession((video - mean) / std, SIDE, SIDE, dtype=torch.float32)
    session.obj_id_to_idx(1)
    given = {"point_coords": torch.tensor([[CLICK]]), "point_labels": torch.tensor([[[1]]])}
    session.add_point_inputs(0, 0, given)
    session.obj_with_new_inputs = [1]
    want = [out.pred_masks[:, 0] for out in peer.propagate_in_video_iterator(session, 0)]
    click = Queries(torch.tensor([CLICK]), torch.tensor([[1]]))
    found, memory = ours.step(first, ours.nothing_remembered(FRAMES), click, at=0)
    differences, masks = [far(found.logits, want[0])], [found.logits]
    for at in range(1, FRAMES):
        found, memory = ours.step(ours.embed(video[[at]]), memory, at=at)
        differences.append(far(found.logits, want[at]))
        masks.append(found.logits)
    assert max(differences) < 1e-4, differences
    assert far(masks[1], want[2]) > 0.1  # the frames do differ
    assert 0.01 < float((want[2] > 0).float().mean()) < 0.99  # and show something
    stale, _ = ours.step(ours.embed(video[[2]]), memory.forget(0), click, at=2)
    assert far(stale.logits, want[2]) > 0.1  # without the memory of the first frame it is another answer
