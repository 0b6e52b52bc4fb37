"""What the documents show works: quickstart is executed, every command elsewhere exists with the options shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from conftest import REPOSITORY
from masklet.cli import COMMANDS, app, main
from masklet.data.synthetic import synthetic

PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[list[str]]:
    """The masklet commands that a page shows, split as a shell would."""
    lines = (line for block in blocks(page, "bash") for line in block.splitlines())
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "masklet"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_links_between_pages_lead_somewhere(page: Path):
    targets = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, f"{page.name} links to {missing}"


@pytest.mark.parametrize(
    "words", [pytest.param(w, id=f"{p.name}: masklet {' '.join(w)}") for p in PAGES for w in commands(p)]
)
def test_commands_in_the_documents_exist_with_these_options(words: list[str]):
    command = typer.main.get_command(app)
    context = command.make_context("masklet", ["models"])
    while hasattr(command, "get_command"):
        name, words = words[0], words[1:]
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name}"
    known = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]
    assert not unknown, f"{command.name} has no {unknown}"


def test_every_command_is_shown_in_some_document():
    shown = {words[0] for page in PAGES for words in commands(page)}
    assert set(COMMANDS) - {"demo", "models", "weights"} <= shown


def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    skimage = pytest.importorskip("skimage.data")
    monkeypatch.chdir(tmp_path)
    Image.fromarray(skimage.chelsea()).save("photo.jpg")
    for i, sample in enumerate(synthetic("shapes3", split="train")):
        if i == 6:
            break
        for folder, array in (("images", sample.image.permute(1, 2, 0)), ("masks", sample.semantic)):
            Path("my_photos", folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(array.numpy().astype(np.uint8))).save(f"my_photos/{folder}/{i}.png")
    page = REPOSITORY / "docs" / "quickstart.md"
    for words in commands(page):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0, f"masklet {' '.join(words)}"
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    assert (tmp_path / "masks").is_dir()
    assert names["result"].labels.shape == (300, 451)
    assert names["result"].mask("pet").float().mean() > 0.2, "the cat is gone"
