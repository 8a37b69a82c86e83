"""How a client proves who it is, and checks whom it speaks to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nestvec.core.errors import ConfigError
from nestvec.security.hosts import is_loopback

if TYPE_CHECKING:
    from nestvec.rpc.channels import ChannelSecurity

# gRPC's ways to name what only this machine can reach.
_LOCAL_SCHEMES = ("unix:", "unix-abstract:")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files are read again when they change: a long-lived client goes on with new ones.

    tls: encrypt, and check the server's certificate; any of the files below means it as well.
    ca_file: who may sign the server's certificate; without it, those the system trusts. cert_file,
    key_file: of this client, where the server wants one. server_name: the name that the server's
    certificate must bear; without it, that of the host. token, token_file: shown with every call.
    """

    tls: bool = False
    ca_file: Path | str | None = None
    cert_file: Path | str | None = None
    key_file: Path | str | None = None
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("cert_file and key_file belong together; give both or neither")
        if self.token is not None and self.token_file is not None:
            raise ConfigError("token and token_file are two tokens; give one")
        if self.server_name is not None and not self.encrypts:
            raise ConfigError("server_name is of a certificate; give ca_file, or tls")

    @property
    def encrypts(self) -> bool:
        """Whether connections have TLS."""
        return self.tls or self.ca_file is not None or self.cert_file is not None

    def require_safe(self, address: str) -> None:
        """Raise ConfigError for a token that would travel over a network in the clear."""
        if self.encrypts or (self.token is None and self.token_file is None):
            return
        if not _is_here(address):
            raise ConfigError(
                f"a token would travel to {address} where others can read it; give ca_file (or "
                f"tls), so that the connection is encrypted"
            )

    def security(self) -> ChannelSecurity:
        """For channels. Raises ConfigError for files that cannot be used."""
        # Where needed: what reads certificates takes a while to import.
        from nestvec.rpc.channels import ChannelSecurity, token_header
        from nestvec.security.certificates import client_material
        from nestvec.security.files import TokenFile

        tls = None
        if self.encrypts:
            tls = client_material(
                chain=_path(self.cert_file), key=_path(self.key_file), ca=_path(self.ca_file)
            )
        authorization = None
        if self.token_file is not None:
            authorization = token_header(TokenFile(Path(self.token_file)))
        elif self.token is not None:
            header = f"Bearer {self.token}"
            authorization = lambda: header  # noqa: E731
        return ChannelSecurity(tls, authorization, self.server_name)


def _path(file: Path | str | None) -> Path | None:
    return None if file is None else Path(file)


def _is_here(address: str) -> bool:
    if address.startswith(_LOCAL_SCHEMES):
        return True
    # After a scheme, as in dns:///HOST:PORT and ipv4:HOST:PORT.
    host = address.rpartition(":")[0].rpartition("/")[2]
    for scheme in ("dns:", "ipv4:", "ipv6:"):
        host = host.removeprefix(scheme)
    return is_loopback(host)
