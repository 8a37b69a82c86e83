"""How the command line behaves as a whole: order, late imports, and errors as one line."""

from __future__ import annotations

import errno
import importlib
import os
from typing import Any

import typer
import typer.core
import typer.main

# Files are there, and something in them was not taken.
EXIT_PARTIAL = 3
_INTERRUPTED = 130


def fail(message: str, code: int = 1) -> typer.Exit:
    """Print `message` in red on stderr. Returns what to raise."""
    color = False if os.environ.get("NO_COLOR") else None
    typer.secho(_printable(message), fg=typer.colors.RED, err=True, color=color)
    return typer.Exit(code)


def _printable(message: str) -> str:
    return "".join(one if one.isprintable() or one == "\n" else " " for one in message)


class LateCommand(typer.core.TyperCommand):
    """A command whose module is imported when it is called; until then its name and help do."""

    def __init__(self, name: str, help: str, target: str) -> None:  # noqa: A002  typer's word
        super().__init__(name, help=help, callback=None)
        self._target = target

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """Where a command begins to be run, completed or explained."""
        module, _, function = self._target.partition(":")
        late = typer.Typer(add_completion=False)
        late.command(self.name)(getattr(importlib.import_module(module), function))
        return typer.main.get_command(late).make_context(*arguments, **named)


class Commands(typer.core.TyperGroup):
    """Turns what the world did wrong into one red line and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        from nestvec.core.errors import NestvecError

        try:
            return super().invoke(ctx)
        except NestvecError as error:
            raise fail(str(error)) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read our output has enough: typer ends quietly
            where = f"{error.filename}: " if error.filename else ""
            raise fail(f"{where}{error.strerror or error}") from None
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
