"""A file is complete or not there."""

import pytest

from masklet.structures.files import replacing


def test_the_file_appears_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "page.html"
    with replacing(target) as path:
        path.write_text("whole")
        assert path.suffix == ".html"
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def write_half(target, error):
    with replacing(target) as path:
        path.write_text("ha")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_half_written_after_an_error(tmp_path, error):
    target = tmp_path / "page.html"
    target.write_text("old")
    with pytest.raises(error):
        write_half(target, error)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
