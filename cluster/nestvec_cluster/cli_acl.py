"""nestvec acl: what each role's user of the store must be allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestvec.adapters.redis_acl import StoreRole, file_line, hashed, set_user, user_of
from nestvec.adapters.redis_settings import STORE_PASSWORD
from nestvec.core.errors import ConfigError
from nestvec.security.files import read_secret
from nestvec_cluster.cli_group import fail

# Nobody's password: whoever runs the line puts one there.
_PLACE = ">PASSWORD"


def acl(
    role: Annotated[
        list[StoreRole] | None,
        typer.Option("--role", help="One role's lines; may be repeated. All without."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="store.prefix of nestvec.yaml.")] = "nestvec",
    user: Annotated[
        str, typer.Option(help="How the users' names begin; -ROLE comes behind it.")
    ] = "nestvec",
    password_file: Annotated[
        Path | None,
        typer.Option(help="Its SHA-256 stands in the lines, in place of the word PASSWORD."),
    ] = None,
    acl_file: Annotated[
        bool, typer.Option("--acl-file", help="Lines for the server's aclfile.")
    ] = False,
) -> None:
    """Print the least rights of each role of process at Redis 7 or Valkey, for ACL SETUSER.

    One line a role: query, ingest, coarse, rerank, member (encoders), operator (up, reshard).
    """
    try:
        password = _PLACE
        if password_file is not None:
            password = hashed(read_secret(password_file, STORE_PASSWORD))
        if acl_file and password_file is None:
            raise ConfigError("--acl-file needs --password-file: such a file has hashes alone")
        line = file_line if acl_file else set_user
        for one in role or StoreRole:
            typer.echo(line(one, prefix, user_of(one, user), password))
    except ConfigError as error:
        raise fail(str(error)) from None
