"""The credentials that every command shows: options before the command, or the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import grpc

    from nestvec.client import Credentials
    from nestvec.security.settings import SecuritySection

_VARIABLES = {
    "ca_file": "NESTVEC_TLS_CA",
    "cert_file": "NESTVEC_TLS_CERT",
    "key_file": "NESTVEC_TLS_KEY",
    "server_name": "NESTVEC_TLS_SERVER_NAME",
    "token_file": "NESTVEC_TOKEN_FILE",
}
_TLS_VARIABLE = "NESTVEC_TLS"

TlsOption = Annotated[
    bool,
    typer.Option(
        "--tls",
        envvar=_TLS_VARIABLE,
        help="Speak TLS with a server whose certificate the system trusts.",
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar=_VARIABLES["ca_file"],
        help="Speak TLS with a server whose certificate is signed by this (PEM).",
    ),
]
CertificateOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-cert", envvar=_VARIABLES["cert_file"], help="The certificate to show (PEM)."
    ),
]
KeyOption = Annotated[
    Path | None, typer.Option("--tls-key", envvar=_VARIABLES["key_file"], help="Its key (PEM).")
]
ServerNameOption = Annotated[
    str | None,
    typer.Option(
        "--tls-server-name",
        envvar=_VARIABLES["server_name"],
        help="The name in the server's certificate, where it is not the host's.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", envvar=_VARIABLES["token_file"], help="A token to show with every call."
    ),
]


class _Given:
    """What stood before the command; None before there was one."""

    named: dict[str, Any] | None = None


def use_credentials(**named: Any) -> None:
    """For every client of the command, the environment's among it."""
    _Given.named = {name: value for name, value in named.items() if value}


def given_credentials() -> Credentials | None:
    """For a client; None where none are given. Raises ConfigError."""
    named = _Given.named
    if named is None:
        # While a shell completes, no command has begun.
        named = {name: os.environ.get(variable) for name, variable in _VARIABLES.items()}
        named = {name: value for name, value in named.items() if value}
        if os.environ.get(_TLS_VARIABLE, "").lower() in ("1", "true", "yes", "on"):
            named["tls"] = True
    if not named:
        return None
    from nestvec.client import Credentials

    return Credentials(**named)


def channel_of(address: str) -> grpc.Channel:
    """To a server's other services than those of the client. Raises ConfigError."""
    from nestvec.rpc.channels import PLAIN, open_blocking_channel

    credentials = given_credentials()
    if credentials is None:
        return open_blocking_channel(address, [], PLAIN)
    credentials.require_safe(address)
    return open_blocking_channel(address, [], credentials.security())


def credentials_of(security: SecuritySection) -> Credentials | None:
    """Those that a process with these settings shows to others; None for none."""
    from nestvec.client import Credentials

    tls = security.tls
    if tls is None:
        return None if security.token_file is None else Credentials(token_file=security.token_file)
    return Credentials(
        tls=True,
        ca_file=tls.ca_file,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
        server_name=tls.server_name,
        token_file=security.token_file,
    )
