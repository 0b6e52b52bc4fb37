"""Runs commands in this process, as a shell would; stdout and stderr apart in every version of click."""

from __future__ import annotations

import inspect
import json
from typing import Any

from typer.testing import CliRunner

from masklet.cli import app

MIXES = "mix_stderr" in inspect.signature(CliRunner.__init__).parameters  # click before 8.2


def run(*words: Any) -> Any:
    """The result of `masklet WORDS...`: exit_code, stdout, stderr, exception."""
    return CliRunner(**({"mix_stderr": False} if MIXES else {})).invoke(app, [str(word) for word in words])


def answer(*words: Any) -> dict[str, Any]:
    """The JSON object of a command that went well."""
    result = run(*words, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def mistake(*words: Any) -> dict[str, Any]:
    """The JSON object of a command that the user got wrong."""
    result = run(*words, "--json")
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    found = json.loads(result.stdout)
    assert list(found) == ["error", "hint"]
    return found
