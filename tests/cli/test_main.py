"""What holds for every command: quick to explain itself, one JSON object, errors that help, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import masklet
from command_line import answer, run
from masklet.cli import COMMANDS, main
from masklet.cli import models as models_command
from masklet.cli.report import Report, as_json, as_text, progress_bar

SRC = Path(masklet.__file__).parents[1]
HEAVY = ("torch", "torchvision", "numpy", "PIL", "scipy", "rich", "matplotlib", "skimage")
GROUPS = {"data": ("check", "convert", "show"), "weights": ("list", "convert")}


def masklet_command(*words: str, **options) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SRC), os.environ.get("PYTHONPATH", "")])}
    run = [sys.executable, "-m", "masklet.cli", *words]
    return subprocess.run(run, capture_output=True, text=True, env=env, timeout=60, **options)


@pytest.mark.parametrize(
    "code", ["import masklet", "import masklet.cli", "from masklet.models import list_models; list_models()"]
)
def test_importing_costs_nothing(code):
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print([m for m in {HEAVY} if m in sys.modules])"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        check=True,
    )
    assert found.stdout.strip() == "[]"


def test_help_of_everything_imports_nothing_heavy():
    words = [[], ["--help"], *([name, "--help"] for name in COMMANDS)]
    words += [[group, name, "--help"] for group, names in GROUPS.items() for name in names]
    code = (
        "import sys\n"
        "from masklet.cli import main\n"
        f"for words in {words}:\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0, (words, end.code)\n"
        f"    loaded = [m for m in {HEAVY} if m in sys.modules]\n"
        "    assert not loaded, (words, loaded)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--json") >= len(COMMANDS)


def test_main_help_lists_every_command_without_importing_it():
    result = run("--help")
    assert result.exit_code == 0
    for name, about in COMMANDS.items():
        assert f"  {name}" in result.stdout
        assert about.split()[0] in result.stdout
    code = "import sys; from masklet.cli import app, main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env).stdout
    assert "masklet.cli.group" in loaded
    assert "masklet.cli.predict" not in loaded


def test_no_command_shows_help_and_version_prints_it():
    assert run().stdout == run("--help").stdout
    assert run("--version").stdout == f"masklet {masklet.__version__}\n"


def test_console_script_in_a_process():
    done = masklet_command("models", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["command"] == "models"
    assert done.stdout.count("\n") == 1
    wrong = masklet_command("modles")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown command 'modles'\n hint: did you mean models?\n"


def test_json_object_has_the_promised_keys():
    result = run("models", "--json")
    found = json.loads(result.stdout)
    assert list(found)[:7] == ["command", "model", "data", "split", "metrics", "files", "seconds"]
    assert found["seconds"] > 0
    assert "unet" in found["models"]
    assert result.stderr == ""


def test_models_for_people():
    assert "unet " in run("models").stdout
    assert "depth = " in run("models", "unet").stdout
    assert answer("models", "unet")["options"]["depth"] is not None
    assert "fcn8s" in run("models", "--task", "semantic").stdout


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        (["modles"], "unknown command 'modles'", "did you mean models?"),
        (["xyzzy"], "unknown command 'xyzzy'", "see masklet --help"),
        (["data", "chek"], "unknown data command 'chek'", "did you mean check?"),
        (["models", "--tsak", "semantic"], "unknown option '--tsak'", "did you mean --task?"),
        (["--verson"], "unknown option '--verson'", "did you mean --version?"),
        (["models", "a", "b"], None, "see masklet models --help"),
        (["models", "unnet"], "unknown model 'unnet'", None),
        (["models", "--task", "panoptics"], "unknown task 'panoptics'", None),
        (["score", "a"], "masklet score needs TRUTH", "see masklet score --help"),
        (["weights", "convert", "a.pth", "--model", "unet"], "masklet weights convert needs --out", None),
    ],
)
def test_wrong_words(words, error, hint):
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    said = result.stderr.splitlines()
    assert error is None or said[0] == f"error: {error}"
    assert hint is None or said[1] == f" hint: {hint}"
    as_object = run(*words, "--json")
    assert (as_object.exit_code, as_object.stderr) == (2, "")
    found = json.loads(as_object.stdout)
    assert list(found) == ["error", "hint"]
    assert said == [f"error: {found['error']}", *([f" hint: {found['hint']}"] if found["hint"] else [])]


def command_that(raises):
    """`masklet models` replaced by one that prints, then fails."""
    fake = typer.Typer(add_completion=False)

    @fake.command()
    def models(json: bool = typer.Option(False, "--json")) -> Report:
        print("a library talks")
        raise raises

    return fake


@pytest.mark.parametrize("as_object", [False, True])
def test_interrupt(monkeypatch, as_object):
    monkeypatch.setattr(models_command, "app", command_that(KeyboardInterrupt()))
    result = run("models", *(["--json"] if as_object else []))
    assert result.exit_code == 130
    if as_object:
        assert json.loads(result.stdout)["error"] == "interrupted"
        assert result.stderr.startswith("a library talks")
    else:
        assert "error: interrupted" in result.stderr


@pytest.mark.parametrize(
    ("raises", "error", "hint"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.png"), "a.png: No such file or directory", None),
        (PermissionError("b.png may not be read"), "b.png may not be read", None),
        (ValueError("this is wrong"), "this is wrong", None),
        (
            ModuleNotFoundError("No module named 'av'", name="av"),
            "this needs av, which is not installed",
            "pip install 'masklet[video]'",
        ),
        (typer.BadParameter("not so"), "Invalid value: not so", "see masklet models --help"),
    ],
)
def test_errors_of_the_library(monkeypatch, raises, error, hint):
    monkeypatch.setattr(models_command, "app", command_that(raises))
    result = run("models", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {"error": error, "hint": hint}


@pytest.mark.parametrize("raises", [RuntimeError("a bug"), ModuleNotFoundError("no", name="nothing_we_know")])
def test_a_bug_keeps_its_traceback(monkeypatch, raises):
    monkeypatch.setattr(models_command, "app", command_that(raises))
    assert run("models").exception is raises


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("MASKLET_TRACEBACK", "1")
    monkeypatch.setattr(models_command, "app", command_that(ValueError("where?")))
    assert isinstance(run("models").exception, ValueError)


def test_main_leaves_through_system_exit(capsys):
    with pytest.raises(SystemExit) as end:
        main(["models", "--task", "semantic"])
    assert end.value.code == 0
    assert "unet" in capsys.readouterr().out


def test_a_closed_pipe_is_no_error():
    code = f"{sys.executable} -m masklet.cli models | true"
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {code}"], capture_output=True, text=True, env=env)
    assert "Traceback" not in done.stderr


def test_report_as_json_and_text():
    report = Report("evaluate", "street", "camvid:x", "val", {"miou": 0.7, "iou/road": 0.95, "iou/sky": float("nan")})
    report.files = [Path(f"{i}.png") for i in range(25)]
    found = json.loads(as_json(report))
    assert found["metrics"] == {"miou": 0.7, "iou/road": 0.95, "iou/sky": None}
    assert found["files"][0] == "0.png"
    text = as_text(report).splitlines()
    assert text[0].split() == ["miou", "0.7000"]
    assert ["road", "0.9500"] in [line.split() for line in text]
    assert ["sky", "-"] in [line.split() for line in text]
    assert text[-1] == "and 17 more files"


def test_progress_stays_off_a_stderr_that_is_no_terminal(capsys):
    with progress_bar("working") as progress:
        progress(1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_bar("working") as progress:
        progress(1, 2)
        progress(2, 2)
    assert capsys.readouterr().out == ""
