"""Mattes, trimaps and flow from files, and which file belongs to which."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import shared
from masklet.data.mattes import matte_pairs, read_alpha, read_flow, read_matte, read_trimap
from masklet.structures import UserError

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 51


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


@pytest.mark.parametrize(
    "array",
    [
        GREY,
        GREY.astype(np.uint16) * 257,
        np.repeat(GREY[..., None], 3, axis=2),
        np.dstack([GREY * 0 + 7, GREY * 0, GREY * 0, GREY]),  # a cut-out
        np.dstack([GREY, GREY, GREY, GREY * 0 + 255]),  # grey, with a channel that says nothing
    ],
    ids=["8 bits", "16 bits", "grey in colour", "cut-out", "opaque"],
)
def test_alpha_of_every_kind_of_file(tmp_path, array):
    alpha = read_alpha(save(tmp_path / "a.png", array))
    assert alpha.shape == (1, 2, 3)
    assert torch.equal(alpha[0], torch.from_numpy(GREY).float() / 255)


def test_sixteen_bits_are_not_rounded_to_eight(tmp_path):
    alpha = read_alpha(save(tmp_path / "a.png", np.array([[1, 65534]], np.uint16)))
    assert alpha.tolist() == [[[pytest.approx(1 / 65535), pytest.approx(65534 / 65535)]]]


def test_any_one_grey_is_unknown(tmp_path):
    for grey in (102, 127, 128):
        trimap = read_trimap(save(tmp_path / "t.png", np.array([[0, grey, 255]], np.uint8)))
        assert trimap.tolist() == [[0, 128, 255]]
    assert read_trimap(save(tmp_path / "t.png", np.array([[0, 40000, 65535]], np.uint16))).tolist() == [[0, 128, 255]]


def test_real_files():
    lemur = shared("data", "matting_lemur")
    alpha, cutout = read_alpha(lemur / "lemur_alpha.png"), read_alpha(lemur / "lemur_cutout.png")
    assert (alpha - cutout).abs().mean() < 0.01
    for name in ("lemur_trimap.png", "lemur_trimap_fba.png"):
        assert read_trimap(lemur / name).unique().tolist() == [0, 128, 255]
    assert read_matte(lemur / "lemur_alpha.png", lemur / "lemur_foreground.png").size == (440, 680)


def test_flow_of_both_formats(tmp_path):
    flow = np.random.default_rng(0).random((2, 3, 4), np.float32)
    np.save(tmp_path / "a.npy", flow)
    np.save(tmp_path / "b.npy", flow.transpose(1, 2, 0))
    head = np.array([202021.25], "<f4").tobytes() + np.array([4, 3], "<i4").tobytes()
    (tmp_path / "c.flo").write_bytes(head + flow.transpose(1, 2, 0).astype("<f4").tobytes())
    for name in ("a.npy", "b.npy", "c.flo"):
        assert np.array_equal(read_flow(tmp_path / name).numpy(), flow)


def test_stills_and_videos_in_one_folder(tmp_path):
    truth, pred = tmp_path / "truth", tmp_path / "pred"
    for name in ("b", "clip/2", "clip/10", "other/deep/pha/1"):
        save(truth / f"{name}.png", GREY)
        save(pred / f"{name.replace('pha/', '')}.tif", GREY)
        save(tmp_path / "tri" / f"{name}.png", GREY * 0)
    save(tmp_path / "flow" / "clip" / "10.png", GREY)
    (tmp_path / "flow" / "clip" / "10.flo").touch()
    (tmp_path / "flow" / "other" / "deep").mkdir(parents=True)
    save(pred / "extra.png", GREY)
    found = matte_pairs(pred, truth, trimaps=tmp_path / "tri", flow=tmp_path / "flow")
    assert [(p.name, p.video) for p in found] == [
        ("b", None),
        ("clip/2", "clip"),
        ("clip/10", "clip"),
        ("other/deep/1", "other/deep"),
    ]
    assert [p.flow and p.flow.name for p in found] == [None, None, "10.flo", None]
    assert found[1].pred == pred / "clip" / "2.tif"
    assert found[3].trimap == tmp_path / "tri" / "other" / "deep" / "pha" / "1.png"
    assert {p.video for p in matte_pairs(pred, truth, stills=True)} == {None}


def test_the_layout_with_colours(tmp_path):
    for side in ("truth", "pred"):
        save(tmp_path / side / "clip" / "pha" / "1.png", GREY)
        save(tmp_path / side / "clip" / "fgr" / "1.jpg", np.zeros((2, 3, 3), np.uint8))
    save(tmp_path / "truth" / "clip" / "trimap" / "1.png", GREY * 0)
    (pair,) = matte_pairs(tmp_path / "pred", tmp_path / "truth", own_trimaps=True)
    assert pair.trimap == tmp_path / "truth" / "clip" / "trimap" / "1.png"
    pred, truth = pair.mattes()
    assert pred.foreground is not None
    assert truth.foreground is not None


def mistake(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    return str(error.value)


def test_missing_files_are_named(tmp_path):
    truth, pred, empty = tmp_path / "truth", tmp_path / "pred", tmp_path / "empty"
    empty.mkdir()
    for name in "123":
        save(truth / "clip" / f"{name}.png", GREY)
    save(pred / "clip" / "1.png", GREY)
    hint = "files need the names of the truth"
    said = mistake(matte_pairs, pred, truth)
    assert said == f"{pred / 'clip'} has no matte for '2' (2 of 3 are missing); {hint}"
    said = mistake(matte_pairs, truth, truth, trimaps=pred)
    assert said == f"{pred / 'clip'} has no trimap for '2' (2 of 3 are missing); {hint}"
    said = mistake(matte_pairs, truth, truth, flow=pred)
    assert said == f"{pred / 'clip'} has no flow for '2' (2 of 2 are missing); {hint}"
    said = mistake(matte_pairs, empty, truth)
    assert said == f"{empty / 'clip'} does not exist; it should hold a matte for each of 3 pictures"
    said = mistake(matte_pairs, truth, truth, own_trimaps=True)
    assert said == f"{truth / 'clip' / 'trimap'} does not exist; it should hold a trimap for each of 3 pictures"
    assert (
        mistake(matte_pairs, pred, empty) == f"{empty} holds no mattes; it should hold pictures, or folders of pictures"
    )
    file = truth / "clip" / "1.png"
    assert mistake(matte_pairs, file, truth) == f"{file} is not a folder; name the folder of the pictures"


def test_bad_files_are_named(tmp_path):
    colour = save(tmp_path / "c.png", np.dstack([GREY, GREY, GREY.T.reshape(2, 3)]))
    assert (
        mistake(read_alpha, colour) == f"{colour}: the matte is a colour picture; save it as a grey PNG of 8 or 16 bits"
    )
    many = save(tmp_path / "t.png", GREY)
    assert mistake(read_trimap, many) == (
        f"{many}: the trimap has 4 greys between black and white (51 and 204 are two); "
        "it should have one; a JPEG does not keep it, save a PNG"
    )
    real = save(tmp_path / "f.tif", GREY.astype(np.float32))
    said = mistake(read_alpha, real)
    assert said == f"{real}: the matte holds floating point numbers; save it with 8 or 16 bits"
    wide = save(tmp_path / "w.tif", GREY.astype(np.int32) + 70000)
    assert mistake(read_alpha, wide) == f"{wide}: the matte has values to 70255; save it with 8 or 16 bits"
    small = save(tmp_path / "s.png", np.zeros((1, 3, 3), np.uint8))
    grey = save(tmp_path / "g.png", GREY)
    assert mistake(read_matte, grey, small) == f"{small} is 1x3 but {grey} is 2x3; resize one of them"
    short = tmp_path / "x.flo"
    short.write_bytes(b"PIEH\x04\x00\x00\x00")
    said = mistake(read_flow, short)
    assert said == f"{short}: this is not a .flo file, or it is cut short; write it again, or use .npy"
    np.save(tmp_path / "x.npy", np.zeros((3, 4)))
    said = mistake(read_flow, tmp_path / "x.npy")
    assert said == f"{tmp_path / 'x.npy'}: flow has shape (3, 4); it should be (2, height, width) or (height, width, 2)"
    (tmp_path / "y.npy").write_bytes(b"no")
    assert mistake(read_flow, tmp_path / "y.npy").startswith(f"{tmp_path / 'y.npy'}: this is not an array (")
