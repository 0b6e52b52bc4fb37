from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from masklet import build
from masklet.inference.image import Predictor, Settings, collect, predict
from masklet.models.base import predict_semantic
from masklet.parts.crf import DenseCRF
from masklet.structures import Classes, SemanticMap
from masklet.structures.errors import UserError
from semantic_toys import CLASSES, Brightness, Toy


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("frame_10.png", "frame_2.png", "frame_1.jpg")):
        Image.fromarray(photo(seed=i)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_one_input_gives_one_result_and_several_a_list(folder):
    model = Brightness().eval()
    array = photo()
    for source in (array, Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1), folder / "frame_2.png"):
        result = predict(model, source)
        assert isinstance(result, SemanticMap)
        assert result.size == (40, 60)
        assert result.labels.dtype == torch.uint8
    for several in (
        [array],
        np.stack([array, array]),
        torch.zeros(2, 3, 8, 9, dtype=torch.uint8),
        folder,
        f"{folder}/*.png",
    ):
        results = predict(model, several)
        assert isinstance(results, list)
        assert all(isinstance(r, SemanticMap) for r in results)


def test_folders_and_globs_come_in_natural_order(folder):
    assert [p.name for p in collect(folder)[0]] == ["frame_1.jpg", "frame_2.png", "frame_10.png"]
    assert [p.name for p in collect(f"{folder}/*.png")[0]] == ["frame_2.png", "frame_10.png"]
    assert [p.name for p in collect([folder / "frame_10.png", str(folder)])[0]][:2] == ["frame_10.png", "frame_1.jpg"]


def test_files_with_brackets_in_their_name_are_files(tmp_path):
    path = tmp_path / "a[1].png"
    Image.fromarray(photo()).save(path)
    assert collect(path) == ([path], False)


def test_videos_are_listed_only_where_they_are_wanted(folder):
    (folder / "clip.MP4").write_bytes(b"")
    assert next(p.name for p in collect(folder, videos=True)[0]) == "clip.MP4"
    assert len(collect(folder)[0]) == 3
    with pytest.raises(UserError, match=r"clip.MP4 is a video; use masklet.inference.video.predict_video"):
        collect(folder / "clip.MP4")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "empty", "there are no pictures in {p}/empty; it looks for .jpg,"),
        (lambda p: str(p / "*.tif"), "no picture matches '{p}/*.tif'; check the folder and the pattern"),
        (lambda p: p / "absent.png", "{p}/absent.png: the file does not exist; check the spelling and the folder"),
        (lambda p: p / "notes.txt", "{p}/notes.txt: this is not an image that can be read"),
    ],
)
def test_inputs_that_cannot_be(folder, make, message):
    (folder / "empty").mkdir()
    with pytest.raises((UserError, FileNotFoundError)) as error:
        predict(Brightness(), make(folder))
    assert str(error.value).startswith(message.format(p=folder))


def test_same_result_as_the_models_own_predict():
    model, array = Toy(stride=4, padded=32).eval(), photo(45, 77)
    assert torch.equal(predict(model, array, precision="fp32").labels, predict_semantic(model, array).labels)


def test_equal_sizes_go_through_the_model_together():
    model = Toy().eval()
    images = [
        photo(20, 30, 0),
        photo(20, 30, 1),
        photo(21, 30, 2),
        photo(20, 30, 3),
        photo(20, 30, 4),
        photo(20, 30, 5),
    ]
    alone = [predict(model, image, precision="fp32").labels for image in images]
    model.calls.clear()
    together = predict(model, images, batch=2, precision="fp32")
    assert [shape[0] for shape in model.calls] == [2, 1, 2, 1]
    assert all(torch.equal(a, b.labels) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (64, 64), (65, 64), (150, 211)])
@pytest.mark.parametrize("options", [{}, {"flip": True}, {"scales": (0.5, 1.0)}])
def test_tiles_give_the_labels_of_the_whole_picture(size, options):
    model, array = Brightness().eval(), photo(*size)
    whole = predict(model, array, precision="fp32", probs=True, **options)
    tiled = predict(model, array, precision="fp32", probs=True, tile=64, batch=2, **options)
    assert tiled.size == size
    if "scales" in options and max(size) > 64:
        return  # at another scale a tile is sampled at other points than the whole
    margin = whole.probs.topk(2, 0).values.diff(dim=0).abs()[0]
    assert ((tiled.labels == whole.labels) | (margin < 1e-5)).all()
    torch.testing.assert_close(tiled.probs, whole.probs, atol=2e-6, rtol=1e-4)


def test_a_large_photograph_in_tiles(monkeypatch):
    """Every pixel gets its label, and never is more than one tile made of floats."""
    gradient = np.linspace(0, 255, 2000, dtype=np.float32).astype(np.uint8)
    model, most = Brightness().eval(), []
    real = model.scores
    monkeypatch.setattr(model, "scores", lambda images: (most.append(images.numel()), real(images))[1])
    result = predict(model, np.broadcast_to(gradient[None, :, None], (1500, 2000, 3)), tile=512, precision="fp32")
    assert result.size == (1500, 2000)
    assert max(most) == 3 * 512 * 512
    assert torch.equal(result.labels[0], result.labels[-1])
    assert result.labels[0].unique_consecutive().tolist() == [0, 1, 2]


def test_probabilities_are_kept_on_demand():
    model = Toy(stride=2).eval()
    assert predict(model, photo()).probs is None
    result = predict(model, photo(), probs=True)
    assert result.probs.shape == (3, 40, 60)
    torch.testing.assert_close(result.probs.sum(0), torch.ones(40, 60))
    assert torch.equal(result.probs.argmax(0), result.labels.long())


def test_long_side_shrinks_what_the_model_sees():
    model = Toy().eval()
    result = predict(model, photo(100, 200), long_side=50)
    assert model.calls[-1] == (1, 3, 25, 50)
    assert result.size == (100, 200)
    predict(model, photo(20, 30), long_side=50)
    assert model.calls[-1] == (1, 3, 20, 30)


def test_float_pictures_keep_their_precision():
    model = Brightness().eval()
    image = torch.full((3, 4, 4), 0.25)
    image[:, 0] += 1e-4  # less than one step of a byte, on the other side of the border between 0 and 1
    assert predict(model, image, precision="fp32").labels[:, 0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_what_was_asked_for(precision, dtype):
    model, seen = Toy().eval(), []
    model.body.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    predict(model, photo(), precision=precision)
    assert seen == [dtype]


def test_automatic_precision_asks_the_processor(monkeypatch):
    for answer in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("masklet.parts.precision.automatic", lambda device, answer=answer: answer)
        assert Predictor(Toy()).dtype == answer


def test_training_mode_and_weights_survive():
    model = Toy()
    model.train()
    before = [p.clone() for p in model.parameters()]
    predict(model, photo())
    assert model.training
    assert all(torch.equal(a, b) and a.stride() == b.stride() for a, b in zip(before, model.parameters(), strict=True))


def test_more_than_256_classes():
    model = Toy(Classes.default(300)).eval()
    model.body[2].bias.data[299] = 100
    for options in ({}, {"tile": 32}, {"flip": True}):
        labels = predict(model, photo(), **options).labels
        assert labels.dtype == torch.int64
        assert (labels == 299).all()


def test_a_model_without_scores_predicts_by_itself():
    class Own(torch.nn.Module):
        def predict(self, image):
            return f"{tuple(image.shape)} {image.dtype}"

    assert predict(Own(), [photo(), photo(3, 4)]) == ["(3, 40, 60) torch.uint8", "(3, 3, 4) torch.uint8"]
    with pytest.raises(UserError, match="model does not give one class per pixel; leave out flip and scales"):
        predict(Own(), photo(), flip=True)


def test_names_are_loaded(monkeypatch):
    monkeypatch.setattr("masklet.weights.load", lambda name: Brightness().eval())
    predictor = Predictor("street")
    assert predictor.name == "street"
    assert next(predictor.each([photo()])).result.classes == CLASSES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 8}, "tile is 8; give the side of a tile in pixels, 32 or more, such as 512"),
        ({"tile": 64, "overlap": 0.9}, "overlap is 0.9; give a share of the tile from 0 to 0.75, such as 0.25"),
        ({"scales": (0.0,)}, "scales are [0.0]; give numbers from above 0 to 8, such as 0.75,1,1.25"),
        ({"precision": "fp8"}, "precision is 'fp8'; choose from auto, fp32, bf16"),
        ({"batch": 0}, "batch is 0; give a whole number from 1 up"),
        ({"long_side": 0}, "long_side is 0; give a whole number from 1 up"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError) as error:
        predict(Brightness(), photo(), **options)
    assert str(error.value) == message


def test_devices_that_are_not_there():
    with pytest.raises(UserError, match="cannot use device 'nonsense'"):
        Predictor(Brightness(), Settings(device="nonsense"))
    assert Predictor(Brightness(), Settings(device="cpu")).device.type == "cpu"


def test_a_model_that_knows_its_long_side_sees_small_pictures_everywhere():
    model = build("unet", num_classes=3, backbone="efficientnet_lite0", long_side=64).eval()
    image = torch.rand(3, 150, 201)
    own = model.predict(image).labels
    assert own.shape == (150, 201)
    assert torch.equal(own, predict(model, image, precision="fp32").labels)
    assert torch.equal(own, predict(model, image, precision="fp32", long_side=64).labels)
    whole = predict(model, image, precision="fp32", long_side=201).labels
    assert (own != whole).float().mean() > 0.01, "the picture was not shrunk"
    probs = predict_semantic(model, image, probs=True)
    assert probs.probs.shape == (3, 150, 201)
    assert (probs.labels == own).float().mean() > 0.999


def test_a_crf_sharpens_what_a_model_says():
    """The same as the part on the model's probabilities, whole or tile by tile; its own parameters count."""
    torch.manual_seed(0)
    model, image = build("unet", num_classes=3, base=4, depth=1).eval(), photo(64, 96)
    whole = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    chances = predict(model, image, probs=True).probs
    want = DenseCRF()(whole, chances[None])[0]
    sharp = predict(model, image, crf=True, probs=True)
    torch.testing.assert_close(sharp.probs, want)
    assert torch.equal(sharp.labels.long(), want.argmax(0))
    assert torch.equal(predict(model, image, crf=True).labels, sharp.labels)
    assert not torch.equal(sharp.labels, predict(model, image).labels)
    assert torch.equal(predict(model, image, crf=DenseCRF(steps=0)).labels, predict(model, image).labels)
    smooth = DenseCRF(smooth_weight=9.0)
    assert torch.equal(predict(model, image, crf=smooth).labels.long(), smooth(whole, chances[None])[0].argmax(0))
    tiled = predict(model, image, crf=True, tile=64).labels
    assert 0.5 < (tiled == sharp.labels).float().mean() < 1
    with pytest.raises(UserError, match="model does not give one class per pixel; leave out the CRF"):
        Predictor(torch.nn.Identity(), Settings(crf=True))
