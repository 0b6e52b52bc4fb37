"""The page about the operators tells the truth: its examples run, and the names it gives exist."""

import re

from conftest import REPOSITORY
from masklet.ops import boxes, mask_targets, nms, paste, roi, rotated

PAGE = (REPOSITORY / "docs" / "ops.md").read_text()


def test_the_examples_run():
    names: dict[str, object] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/ops.md", "exec"), names)


MODULES = (boxes, mask_targets, nms, paste, roi, rotated)
UNTOLD = {"Kept", "BitmapTargets", "Linear", "Gaussian"}  # what comes back, and what the examples show


def test_the_page_names_what_there_is():
    told = {re.split(r"[(=]", text)[0].rpartition(".")[2] for text in re.findall(r"`([^`\n]+)`", PAGE)}
    for module in (mask_targets, nms, roi):
        own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        missing = {name for name in own if not name.startswith("_")} - told - UNTOLD
        assert not missing, f"docs/ops.md does not mention {missing} of {module.__name__}"


def test_the_page_names_only_what_there_is():
    called = re.findall(r"`(\w+)(?:\([^`]*\))?`", re.sub(r"^```.*?^```", "", PAGE, flags=re.M | re.S))
    named = {name for name in called if "_" in name}
    known = {name for module in MODULES for name in vars(module)}
    assert len(named) > 20
    assert named <= known, f"docs/ops.md mentions {named - known}"
