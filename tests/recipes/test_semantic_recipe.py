from __future__ import annotations

import csv
import json
import random
import string
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import masklet
from masklet.data.sources import open_source
from masklet.recipes.semantic import LOSSES, SemanticRecipe, augmentation, build_criterion, class_weights, run
from masklet.structures import Classes, Sample
from masklet.weights import read_note


def tiny(data: Path, **changes) -> SemanticRecipe:
    """A recipe that takes a second: a U-Net of two levels."""
    base = SemanticRecipe(
        data=f"flood:{data}", options={"base": 4, "depth": 2}, epochs=3, batch=4, crop=(24, 24), scale=(0.8, 1.25),
        lr=1e-2, ema=0.5, precision="fp32", warm_up_epochs=0.5,
    )  # fmt: skip
    return replace(base, **changes)


@pytest.mark.usefixtures("single_thread")
def test_trains_and_leaves_what_is_promised(lakes, tmp_path, capsys):
    out, seen = tmp_path / "run", []
    result = run(tiny(lakes, epochs=5), out, on_epoch=seen.append)
    files = {p.name for p in out.iterdir()}
    assert files == {
        "best.safetensors", "last.safetensors", "recipe.json", "history.csv", "steps.csv",
        "curves.png", "confusion.png",
    }  # fmt: skip
    assert result.finished == "all 5 epochs are done"
    assert result.scores["miou"] > 0.8
    assert (
        result.scores["miou"] == max(r["miou"] for r in result.history) == result.history[result.best_epoch - 1]["miou"]
    )
    assert [r["epoch"] for r in seen] == [1, 2, 3, 4, 5]

    model = masklet.load(out / "best.safetensors")
    assert model.classes.names == ("dry", "flooded")
    sample = open_source(f"flood:{lakes}", split="val")[0]
    assert (model.predict(sample.image).labels == sample.semantic).float().mean() > 0.8
    note = read_note(out / "best.safetensors")
    assert SemanticRecipe.from_dict(note["recipe"]) == tiny(lakes, epochs=5)
    assert note["scores"] == result.scores
    assert SemanticRecipe.from_dict(json.loads((out / "recipe.json").read_text())) == tiny(lakes, epochs=5)

    with open(out / "history.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [float(r["miou"]) for r in rows] == [r["miou"] for r in result.history]
    assert len((out / "steps.csv").read_text().splitlines()) == 1 + 5 * 4
    for name in ("curves.png", "confusion.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 200
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "epoch 5  step 20" in captured.err


@pytest.mark.usefixtures("single_thread")
def test_pieces_make_the_same_whole(lakes, tmp_path):
    """Stopped by the clock after one step and continued, with another number of workers: the same bits."""
    recipe = tiny(lakes)
    whole = run(recipe, tmp_path / "whole", progress=False)
    part = run(replace(recipe, time_budget_minutes=1e-9), tmp_path / "pieces", progress=False)
    assert (part.finished, part.epochs) == ("", 0)
    assert part.best.exists(), "even a training that was stopped early leaves a model"
    with pytest.raises(ValueError, match="holds a training at epoch 0; resume=True continues it"):
        run(recipe, tmp_path / "pieces")
    with pytest.raises(
        ValueError, match=r"the training in .* had lr=0.01, not 0.1; a resumed training keeps its recipe"
    ):
        run(replace(recipe, lr=0.1), tmp_path / "pieces", resume=True)
    again = run(replace(recipe, workers=3), tmp_path / "pieces", resume=True, progress=False)
    assert again.scores == whole.scores
    assert [r["loss"] for r in again.history] == [r["loss"] for r in whole.history]
    for name in ("best.safetensors", "last.safetensors"):
        a, b = load_file(tmp_path / "whole" / name), load_file(tmp_path / "pieces" / name)
        assert all(torch.equal(a[k], b[k]) for k in a | b), name
    assert (tmp_path / "whole/steps.csv").read_text() == (tmp_path / "pieces/steps.csv").read_text()


def test_without_validation_the_last_weights_are_kept(lakes, tmp_path):
    result = run(tiny(lakes, val_split="", epochs=1, ema=0.0), tmp_path, progress=False)
    best, last = load_file(result.best), load_file(tmp_path / "last.safetensors")
    assert all(torch.equal(best[k], last[f"model/{k}"]) for k in best)
    assert result.scores == {}
    assert not (tmp_path / "confusion.png").exists()


def test_starts_from_a_checkpoint(lakes, tmp_path):
    first = run(tiny(lakes, epochs=1), tmp_path / "a", progress=False)
    recipe = tiny(lakes, epochs=1, start=str(first.best), lr=1e-12, warm_up_epochs=0.0, ema=0.0, val_split="")
    second = run(recipe, tmp_path / "b", progress=False)
    a, b = load_file(first.best), load_file(second.best)
    weights = [k for k in a if k.endswith("weight")]
    assert all(torch.allclose(a[k], b[k], atol=1e-6) for k in weights)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_loss_weighting_and_tensorboard(lakes, tmp_path):
    pytest.importorskip("tensorboard")
    recipe = tiny(lakes, epochs=1, loss="ohem", class_weights="median_frequency", tensorboard=True, accumulate=3)
    result = run(replace(recipe, options={**recipe.options, "aux_weight": 0.4}), tmp_path, progress=False)
    record = result.history[-1]
    assert record["loss"] == pytest.approx(record["loss/main"] + record["loss/aux"], rel=1e-5)
    assert record["step"] == 2, "four batches in groups of three"
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("loss", LOSSES)
def test_criteria_fall_with_better_logits_and_ignore(loss):
    recipe = SemanticRecipe(data="flood:x", loss=loss, smoothing=0.1)
    criterion = build_criterion(recipe, torch.tensor([1.0, 2.0, 3.0]))
    targets = torch.randint(0, 3, (2, 8, 8))
    good = 5.0 * torch.nn.functional.one_hot(targets, 3).permute(0, 3, 1, 2)
    poor = torch.zeros_like(good)
    assert criterion(good, targets, ignore=255) < criterion(poor, targets, ignore=255)
    targets[0] = 255
    changed = good.clone()
    changed[0] = -7
    assert criterion(good, targets, ignore=255) == criterion(changed, targets, ignore=255)


def test_plain_cross_entropy_is_the_models_own():
    assert build_criterion(SemanticRecipe(data="flood:x"), None) is None


def labelled(labels: list[list[int]]) -> Sample:
    semantic = torch.tensor(labels, dtype=torch.uint8)
    return Sample(torch.zeros(3, *semantic.shape, dtype=torch.uint8), "made", semantic)


def test_class_weights_by_hand():
    classes = Classes(("a", "b", "c"))
    # a: 6 of the 8 labelled pixels of both images; b: 2 of the 4 of the second image, where alone it is; c: never
    samples = [labelled([[0, 0], [0, 0]]), labelled([[0, 0], [1, 1]]), labelled([[255, 255], [255, 255]])]
    weights = class_weights(samples, classes, "median_frequency")
    share = torch.tensor([6 / 8, 2 / 4])
    expected = share.median() / share
    torch.testing.assert_close(weights, torch.cat([expected / expected.mean(), torch.zeros(1)]))
    inverse = 1 / torch.log(1.02 + torch.tensor([6 / 8, 2 / 8]))
    expected = torch.cat([inverse / inverse.mean(), torch.zeros(1)])
    torch.testing.assert_close(class_weights(samples, classes, "inverse_log"), expected)
    assert class_weights(samples, classes, (1.0, 2.0, 3.0)).tolist() == [1, 2, 3]
    assert class_weights(samples, classes, "none") is None
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        class_weights(samples, classes, (1.0, 2.0))
    with pytest.raises(ValueError, match="made has no label map"):
        class_weights([Sample(torch.zeros(3, 2, 2), "made")], classes, "inverse_log")


def test_augmentation_follows_the_recipe():
    names = [type(step).__name__ for step in augmentation(SemanticRecipe(data="x:y")).transforms]
    assert names == ["RandomScale", "RandomRotate", "RandomCrop", "RandomFlip", "ColorJitter", "RandomBlur"]
    none = SemanticRecipe(
        data="x:y", crop=None, scale=(1.0, 1.0), rotate=0.0, blur=0.0, flip=False, jitter=0.0, resize=(8, 8)
    )
    assert [type(step).__name__ for step in augmentation(none).transforms] == ["Resize"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5; give a whole number"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"accumulate": 0}, "accumulate is 0; it must be at least 1"),
        ({"validate_every": 0}, "validate_every is 0; it must be at least 1"),
        ({"workers": -1}, "workers is -1; it must be 0 or more"),
        ({"seed": -1}, "seed is -1; it must be 0 or more"),
        ({"lr": 0}, "lr is 0.0; it must be above 0"),
        ({"lr": "fast"}, "lr is 'fast'; give a number"),
        ({"weight_decay": -1}, "weight_decay is -1.0; it must be 0 or more"),
        ({"clip": 0}, "clip is 0.0; it must be above 0, or None"),
        ({"ema": 1}, "ema is 1.0; it must be in [0, 1), for example 0.999"),
        ({"smoothing": 1}, "smoothing is 1.0; it must be in [0, 1)"),
        ({"blur": 2}, "blur is 2.0; it must be a probability in [0, 1]"),
        ({"scale": [2, 1]}, "scale is (2.0, 1.0); it must be (low, high) with 0 < low <= high"),
        ({"scale": 2}, "scale is 2; give a list such as [256,256]"),
        ({"crop": [0, 8]}, "crop is (0, 8); it must be (height, width) in pixels"),
        ({"crop": ["a", 8]}, "crop is ['a', 8]; give a list such as [256,256] or null"),
        ({"lr_factors": {"head": "x"}}, "lr_factors['head'] is 'x'; give a number"),
        ({"flip": "yes"}, "flip is 'yes'; give true or false"),
        ({"options": "deep"}, "options is 'deep'; give an object such as {\"key\": 1}"),
        ({"optimizer": "adamx"}, "unknown optimizer 'adamx'; choose from adamw, adam, sgd"),
        (
            {"schedule": "linear"},
            "unknown schedule 'linear'; choose from poly, cosine, one_cycle, multi_step, constant",
        ),
        ({"loss": "ce"}, "unknown loss 'ce'; choose from cross_entropy, ohem, focal, cross_entropy+dice"),
        ({"precision": "fp16"}, "unknown precision 'fp16'; choose from auto, fp32, bf16"),
        ({"class_weights": "auto"}, "unknown class_weights 'auto'; choose from none, median_frequency, inverse_log"),
        ({"learning_rate": 1}, "a recipe has no 'learning_rate'; did you mean 'lr_factors'?"),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=r".") as error:
        SemanticRecipe.from_dict({"data": "flood:x", **changes})
    assert str(error.value) == message


def test_data_is_needed():
    with pytest.raises(ValueError, match="does not say which data to train on; give data=kind:path"):
        SemanticRecipe.from_dict({"lr": 0.1})


def test_every_misspelling_has_a_suggestion():
    rng, names, right = random.Random(0), [f.name for f in fields(SemanticRecipe)], 0
    for _ in range(200):
        name = rng.choice(names)
        i = rng.randrange(len(name))
        wrong = name[:i] + rng.choice(string.ascii_lowercase + "_") * rng.randrange(2) + name[i + 1 :]
        if wrong in names:
            continue
        with pytest.raises(ValueError, match=r"did you mean '(\w+)'\?") as error:
            SemanticRecipe.from_dict({"data": "flood:x", wrong: 1})
        right += f"did you mean {name!r}?" in str(error.value)
    assert right > 180


def test_overrides_are_json_or_text():
    recipe = SemanticRecipe(data="flood:x").override(
        [
            "lr=1",
            "crop=[32,48]",
            "crop=null",
            "model=pspnet",
            'options={"backbone":"resnet18"}',
            "flip=false",
            "crop=[8,9]",
        ]
    )
    assert (recipe.lr, recipe.model, recipe.flip, recipe.crop) == (1.0, "pspnet", False, (8, 9))
    assert recipe.options == {"backbone": "resnet18"}
    with pytest.raises(ValueError, match="'lr' is not key=value"):
        recipe.override(["lr"])
    assert SemanticRecipe.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_doors_of_run(lakes, tmp_path):
    with pytest.raises(ValueError, match=r"unknown score to monitor 'mliou'; did you mean 'miou'\?"):
        run(tiny(lakes, monitor="mliou"), tmp_path / "a")
    with pytest.raises(ValueError, match=r"training has classes .*, validation"):
        run(tiny(lakes, val_data="synthetic:shapes3"), tmp_path / "b")
    with pytest.raises(ValueError, match="batch is 99 but there are 16 training samples"):
        run(tiny(lakes, batch=99), tmp_path / "c")
    with pytest.raises(ValueError, match="no parameter matches the lr factor 'bakbone'"):
        run(tiny(lakes, lr_factors={"bakbone": 0.1}), tmp_path / "d")
