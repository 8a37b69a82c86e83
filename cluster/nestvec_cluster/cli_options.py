"""Options that several commands share, and the client that they make."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from nestvec_cluster.cli_credentials import given_credentials
from nestvec_cluster.completions import (
    ADDRESS_VARIABLE,
    DEFAULT_ADDRESS,
    complete_collection,
)

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from nestvec.client import NestvecClient
    from nestvec.core.fields import FieldType

Address = Annotated[
    str, typer.Option("--address", "-a", envvar=ADDRESS_VARIABLE, help="The server's host:port.")
]
Collection = Annotated[
    str,
    typer.Option(
        "--collection",
        "-c",
        envvar="NESTVEC_COLLECTION",
        help="The collection's name.",
        autocompletion=complete_collection,
    ),
]
CollectionArgument = Annotated[
    str, typer.Argument(help="The collection's name.", autocompletion=complete_collection)
]
Field = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME:TYPE",
        help="Declare a field that can be filtered on, as keyword, integer, float, bool or time; "
        "may be given several times.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.001, help="Seconds that the server may take.")
]

__all__ = [
    "DEFAULT_ADDRESS",
    "Address",
    "Collection",
    "CollectionArgument",
    "Field",
    "Json",
    "Timeout",
    "connected",
    "decimals",
    "declared_fields",
    "numbers",
    "out",
    "require_new",
]


@contextmanager
def connected(address: str, timeout_s: float = 10.0) -> Iterator[NestvecClient]:
    """A client of the server at `address`. A server that is not there is named as such."""
    from nestvec.client import NestvecClient
    from nestvec.core.errors import WorkerUnavailable

    credentials = given_credentials()
    with NestvecClient(address, timeout_s=timeout_s, credentials=credentials) as client:
        try:
            yield client
        except WorkerUnavailable as error:
            _, unavailable, reason = str(error).partition("answered UNAVAILABLE: ")
            if not unavailable:
                raise
            # gRPC tells every address that it tried; the last words say what happened.
            reason = reason.rpartition(": ")[2].rstrip("]")
            raise WorkerUnavailable(
                f"no nestvec server answers at {address} ({reason}); start one with "
                f"`nestvec serve`, or name another with --address"
            ) from None


def numbers(text: str | None, option: str) -> tuple[int, ...]:
    """`128,256` as numbers, none for none. Raises typer.BadParameter."""
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected numbers with commas between", param_hint=option
        ) from None


def decimals(text: str, option: str) -> tuple[float, ...]:
    """`0.9,0.95` as numbers, none for none. Raises typer.BadParameter."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: expected numbers with commas between", param_hint=option
        ) from None


def declared_fields(texts: list[str] | None) -> dict[str, FieldType]:
    """`year:integer` and so on, by name. Raises typer.BadParameter."""
    from nestvec.core.errors import InvalidRequest
    from nestvec.core.fields import check_fields, parse_field

    try:
        fields = [parse_field(text, "--field") for text in texts or []]
        check_fields(fields, "--field")
    except InvalidRequest as error:
        raise typer.BadParameter(error.message, param_hint="--field") from None
    return {one.name: one.type for one in fields}


def require_new(folder: Path) -> None:
    """Raise ConfigError unless nothing stands there, or an empty folder."""
    from nestvec.core.errors import ConfigError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; name a new folder")


def tell(line: str) -> None:
    """On standard error: what is being done, while what comes of it goes to standard output."""
    typer.echo(line, err=True)


def out() -> Console:
    """Standard output, for tables. Brackets in a text are brackets, not markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)
