"""Programs that run without masklet, and the refusal to write one that computes something else."""

from __future__ import annotations

import json
import subprocess
import sys

import jaxtyping
import pytest
import torch
from torch import nn

from masklet.export import export_program, read_description
from masklet.models import build
from masklet.structures import Classes
from masklet.structures.errors import UserError


@pytest.fixture(autouse=True)
def _unchecked():
    """Shapes are not checked while a graph is traced: it has symbols for numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def model():
    return build("unet", base=2, depth=2, classes=Classes(("dry", "wet"), colors=((0, 0, 0), (0, 0, 255)))).eval()


def test_a_program_runs_without_masklet(model, tmp_path):
    done = export_program(model, tmp_path / "new" / "flood.pt2", size=(33, 40))
    assert done.path.exists()
    assert done.difference < 1e-4
    assert [p.name for p in done.path.parent.iterdir()] == ["flood.pt2"]
    code = (
        "import sys, torch; net = torch.export.load(sys.argv[1]).module(); "
        "print(tuple(net(torch.zeros(1, 3, 33, 40)).shape), any(m.startswith('masklet') for m in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code, done.path], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(1, 2, 33, 40) False"


def test_labels_and_an_open_batch(model, tmp_path):
    model.train()
    done = export_program(model, tmp_path / "labels.pt2", size=(16, 24), outputs="labels", batch=None)
    assert model.training
    assert done.difference == 0
    program = torch.export.load(done.path).module()
    for n in (1, 4):
        x = torch.rand(n, 3, 16, 24)
        labels = program(x)
        assert labels.dtype == torch.uint8
        with torch.inference_mode():
            assert torch.equal(labels.long(), model.eval()(x).argmax(1))


def test_the_file_says_what_it_is(model, tmp_path):
    done = export_program(model, tmp_path / "flood.pt2", size=(16, 16))
    note = read_description(done.path)
    assert note["model"] == "unet"
    assert Classes.from_dict(note["classes"]) == model.classes
    assert note["input"] == {"layout": "b 3 h w", "colors": "RGB in 0..1", "size": [16, 16], "batch": 1}
    assert json.loads(json.dumps(note)) == note
    torch.export.save(torch.export.export(nn.Identity(), (torch.zeros(1),)), tmp_path / "other.pt2")
    (tmp_path / "text.pt2").write_text("no program")
    for name in ("other.pt2", "text.pt2"):
        with pytest.raises(UserError, match="is not a program written by masklet; make one with"):
            read_description(tmp_path / name)


class Moody(nn.Module):
    """Differs from run to run, so no program can equal it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images[:, :2] * self.weight + torch.rand_like(images[:, :2])


def test_nothing_is_written_when_results_differ(tmp_path):
    path = tmp_path / "moody.pt2"
    path.write_text("what was there before")
    with pytest.raises(UserError, match=r"the exported program differs from the model by .*; nothing was written"):
        export_program(Moody(), path, size=(8, 8))
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.onnx", {}, "a.onnx does not end in .pt2; a torch.export program is called NAME.pt2"),
        ("a.pt2", {"outputs": "masks"}, "unknown outputs 'masks'; choose logits or labels"),
        ("a.pt2", {"size": (0, 8)}, "size is (0, 8), batch is 1; give whole numbers from 1 up"),
    ],
)
def test_mistakes(model, tmp_path, name, options, message):
    with pytest.raises(UserError) as caught:
        export_program(model, tmp_path / name, **options)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []
