from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import masklet
from masklet.data.copy_paste import CopyPaste
from masklet.data.framing import RandomShortSide, RandomTurn, RandomWindow
from masklet.data.sources import open_source
from masklet.data.transforms import ColorJitter, LargeScaleJitter, RandomFlip
from masklet.models import build
from masklet.parts.box_heads import BoxBranch
from masklet.recipes.instances import COCO_1X, PRESETS, InstanceRecipe, augmentation, prepare, run
from masklet.structures.errors import UserError
from masklet.train.distributed import Team
from masklet.weights import read_note, save_checkpoint

TINY = {"backbone": "resnet18", "channels": 8, "hidden": 8, "mask_channels": 4, "short_side": 0, "norm": "batch"}


@pytest.fixture(scope="session")
def dots(tmp_path_factory) -> Path:
    """Nuclei in small: eight pictures of 64x64 with three bright discs each; two are for validation."""
    root, rng = tmp_path_factory.mktemp("nuclei"), np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    for split, count in (("train", 6), ("val", 2)):
        for part in ("images", "instance_ids"):
            (root / part / split).mkdir(parents=True)
        for n in range(count):
            ids = np.zeros((64, 64), np.uint8)
            for i in range(1, 4):
                cy, cx = rng.uniform(8, 56, 2)
                ids[np.hypot(y - cy, x - cx) < 7] = i
            image = rng.integers(0, 40, (64, 64, 3)) + 180 * (ids > 0)[..., None]
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / split / f"{n}.png")
            Image.fromarray(ids).save(root / "instance_ids" / split / f"{n}.png")
    return root


def tiny(data: Path, **changes) -> InstanceRecipe:
    """A recipe that takes a second."""
    base = InstanceRecipe(
        data=f"nuclei:{data}", options={**TINY, "anchor_sizes": [8, 16, 32, 64, 128]}, epochs=2, batch=2,
        framing="window", crop=(64, 64), scale=(0.9, 1.2), turns=True, rois=16, lr=1e-3, ema=0.5, precision="fp32",
        warm_up_steps=2,
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.usefixtures("single_thread")
def test_pieces_make_the_same_whole_and_leave_what_is_promised(dots, tmp_path, capsys):
    """Stopped by the clock after one step and continued, with another number of workers: the same bits."""
    recipe = tiny(dots)
    whole = run(recipe, tmp_path / "whole")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "epoch 2  step 6" in captured.err
    files = {p.name for p in (tmp_path / "whole").iterdir()}
    assert files == {
        "best.safetensors", "last.safetensors", "recipe.json", "history.csv", "steps.csv", "curves.png",
    }  # fmt: skip
    assert {"ap", "ap50", "box_ap", "loss/mask", "loss/rpn_class"} <= set(whole.history[-1])
    assert whole.scores["ap"] == max(r["ap"] for r in whole.history)
    note = read_note(whole.best)
    assert InstanceRecipe.from_dict(note["recipe"]) == recipe
    model = masklet.load(whole.best)
    assert model.classes.names == ("nucleus",)
    assert model.predict(open_source(f"nuclei:{dots}", "val")[0].image).masks is not None

    part = run(replace(recipe, time_budget_minutes=1e-9), tmp_path / "pieces", progress=False)
    assert (part.finished, part.epochs) == ("", 0)
    again = run(replace(recipe, workers=3), tmp_path / "pieces", resume=True, progress=False)
    assert again.scores == whole.scores
    for name in ("best.safetensors", "last.safetensors"):
        a, b = load_file(tmp_path / "whole" / name), load_file(tmp_path / "pieces" / name)
        assert all(torch.equal(a[k], b[k]) for k in a | b), name


def test_one_optimizer_step_with_everything_on(dots, tmp_path):
    recipe = tiny(
        dots, epochs=1, copy_paste=1.0, blur=1.0, spread=32, batch=4, accumulate=6, val_split="", framing="fit",
        turns=False, ema=0.0, schedule="multi_step",
    )  # fmt: skip
    result = run(recipe, tmp_path, progress=False)
    assert result.history[-1]["step"] == 1, "six pictures of 64 pixels come twice each: three batches of four"
    assert result.scores == {}


def test_boxes_alone(dots, tmp_path):
    options = {key: value for key, value in TINY.items() if key != "mask_channels"}
    recipe = tiny(dots, model="faster_rcnn", options=options, epochs=1, monitor="box_ap50", val_limit=1)
    result = run(recipe, tmp_path, progress=False)
    assert result.scores["box_ap"] == result.scores["ap"]
    assert "loss/mask" not in result.history[-1]


def test_starts_as_the_checkpoint_was_built(dots, tmp_path):
    """Other classes: only the layers that name them are new. The builder's options come from the checkpoint."""
    first = build("mask_rcnn", classes=["cell", "debris"], **TINY, anchor_sizes=(8, 16, 32, 64, 128))
    save_checkpoint(tmp_path / "first.safetensors", first)
    recipe = tiny(dots, options={}, start=str(tmp_path / "first.safetensors"), fresh=r".*predictor.*")
    model = prepare(recipe, open_source(f"nuclei:{dots}", "train"), Team()).model
    assert model.spec["options"] == {**first.spec["options"], "num_classes": 1}
    old, new = first.state_dict(), model.state_dict()
    changed = {key for key in old if old[key].shape != new[key].shape or not torch.equal(old[key], new[key])}
    assert changed
    assert all("predictor" in key for key in changed)


def test_the_second_stage_learns_from_as_many_proposals_as_asked(dots):
    training = prepare(tiny(dots), open_source(f"nuclei:{dots}", "train"), Team())
    counts = [part.sampler.count for part in training.model.modules() if isinstance(part, BoxBranch)]
    assert counts == [16]


def test_framings_and_mirrors(dots):
    source = open_source(f"nuclei:{dots}", "train")

    def kinds(recipe: InstanceRecipe) -> list[type]:
        first, *rest = augmentation(recipe, source).transforms
        return [type(step) for step in (*first.transforms, *rest)]

    assert kinds(tiny(dots)) == [RandomWindow, RandomTurn, ColorJitter]
    assert kinds(tiny(dots, framing="fit", turns=False, copy_paste=0.5)) == [
        LargeScaleJitter, RandomFlip, CopyPaste, ColorJitter,
    ]  # fmt: skip
    assert kinds(replace(COCO_1X, data="coco:x.json")) == [RandomShortSide, RandomFlip]
    assert COCO_1X.epochs * 118_287 // COCO_1X.batch == pytest.approx(90_000, rel=0.02)


def test_presets_are_recipes():
    for preset in PRESETS.values():
        assert InstanceRecipe.from_dict({**vars(preset), "data": "coco:x.json"}).override(["lr=1"]).lr == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"framing": "squeeze"}, "unknown framing 'squeeze'; choose from window, fit, short_side"),
        ({"crop": None}, "crop is None; it must be (height, width) in pixels with framing='fit'"),
        ({"crop": [0, 4]}, "crop is (0, 4); it must be (height, width) in pixels"),
        ({"scale": [2, 1]}, "scale is (2.0, 1.0); it must be (low, high) with 0 < low <= high"),
        ({"short_sides": []}, "short_sides is (); it must be one or more sides in pixels"),
        ({"long_side": 100}, "long_side is 100; it must be at least the largest of short_sides"),
        ({"aim": 2}, "aim is 2.0; it must be a probability in [0, 1]"),
        ({"copy_paste": -1}, "copy_paste is -1.0; it must be a probability in [0, 1]"),
        ({"spread": -1}, "spread is -1; it must be a side in pixels, or 0"),
        ({"rois": 0}, "rois is 0; it must be at least 1"),
        ({"warm_up_steps": -1}, "warm_up_steps is -1; it must be 0 or more"),
        ({"val_limit": -1}, "val_limit is -1; it must be 0 or more"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"optimiser": "sgd"}, "a recipe has no 'optimiser'; did you mean 'optimizer'?"),
        (
            {"copy_paste": 0.5, "framing": "short_side"},
            'copy-paste needs pictures of one size; use framing="fit" or "window" with it',
        ),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(UserError) as error:
        InstanceRecipe.from_dict({"data": "coco:x.json", **changes})
    assert str(error.value) == message


def test_mistakes_in_models_and_data(dots, lakes, tmp_path):
    with pytest.raises(UserError, match=r"^unet does not find objects; choose from .*mask_rcnn"):
        InstanceRecipe(data="coco:x.json", model="unet")
    with pytest.raises(UserError) as error:
        run(InstanceRecipe(data=f"flood:{lakes}"), tmp_path)
    assert str(error.value) == f"flood:{lakes} has no objects; train on a data set with instances"
    with pytest.raises(UserError, match=r"unknown score to monitor 'app50'; did you mean 'ap50'\?"):
        run(tiny(dots, monitor="app50"), tmp_path)
