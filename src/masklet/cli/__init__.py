"""The roof: words on a command line become one library call, and its result becomes text or one JSON object.

Every command is a file of this package, imported when it is asked for; what is heavy is imported inside it.
So `masklet --help` reads the table below and nothing else.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType
from typing import Annotated, Any

import typer

from masklet import __version__
from masklet.cli.group import Group, options

__all__ = ["COMMANDS", "app", "main"]

COMMANDS = MappingProxyType(
    {
        "demo": "Run the bundled models on sample photographs and make a page of the results.",
        "predict": "Masks for files, folders, globs and videos.",
        "track": "Follow objects through a video.",
        "train": "Train a model on your data.",
        "evaluate": "Score a model on data with truth.",
        "score": "Score prediction files against truth files.",
        "data": "Check, convert and look at data sets.",
        "weights": "Find, fetch, check, carry and convert weights; say their licences.",
        "export": "Save a model as a program that runs without this library.",
        "models": "List the systems that can be built.",
        "doctor": "Say what is installed and what works on this machine.",
    }
)


class Commands(Group):
    """The commands of the table above; a command's module is imported when that command runs or explains itself."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return typer.main.get_command(import_module(f"{__name__}.{cmd_name}").app)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=Commands, **options())


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"masklet {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _masklet(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Segmentation, from FCN to SAM 2, behind one small vocabulary.

    Start with `masklet demo`. Every command takes --json (one object on stdout, for programs) and --help.
    """


def main(argv: list[str] | None = None) -> None:
    """The console script `masklet`; leaves through SystemExit with 0, 2 for the user's mistake, or 130 after Ctrl-C."""
    typer.main.get_command(app).main(sys.argv[1:] if argv is None else argv)
