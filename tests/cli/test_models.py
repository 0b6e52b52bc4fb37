"""The table of systems in the documents is what the command prints, and each system has its page."""

from __future__ import annotations

from command_line import run
from conftest import REPOSITORY
from masklet.models import MODELS

PAGES = REPOSITORY / "docs" / "systems"


def test_table_in_the_documents_is_up_to_date():
    printed = run("models", "--markdown").stdout.strip()
    rows = printed.splitlines()
    assert len(rows) == 2 + len(MODELS)
    assert all(row.count("|") == 5 for row in rows)
    shown = (PAGES / "README.md").read_text()
    table = shown[shown.index("| system |") :].strip()
    assert table == printed, "put what `masklet models --markdown` prints into docs/systems/README.md"


def test_every_system_has_a_page_that_names_it():
    for name, system in MODELS.items():
        page = PAGES / f"{system.where.split(':')[0]}.md"
        assert f"`{name}`" in page.read_text(), f"{page} does not name {name}"
