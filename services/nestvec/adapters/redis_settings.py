"""How to reach a Redis-protocol server: one alone, one that Sentinel watches, or a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from nestvec.adapters.redis_acl import StoreRole
from nestvec.core.errors import ConfigError
from nestvec.security.files import read_secret

# What messages call it.
STORE_PASSWORD = "the store's password"
Address = tuple[str, int]

_URL = re.compile(
    r"(?P<scheme>rediss?)(?P<kind>\+sentinel|\+cluster)?://(?P<user>[^/?]*@)?"
    r"(?P<hosts>[^/?@]*)(?P<path>/[^?]*)?(?P<query>\?.*)?"
)
_SERVICE = re.compile(r"/[A-Za-z0-9._-]+")
_PORTS = {"one": 6379, "sentinel": 26379, "cluster": 6379}
_EXPECTED = (
    "expected redis://USER:PASSWORD@HOST:PORT/DATABASE, unix:///PATH?db=DATABASE, "
    "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE?db=DATABASE or "
    "redis+cluster://HOST:PORT,HOST:PORT (rediss for TLS), with special characters percent-encoded"
)


@dataclass(frozen=True)
class TlsSettings:
    """What a rediss:// connection proves and demands.

    ca_file: who may sign the servers' certificates; None for those that the system trusts.
    cert_file, key_file: of this client, where servers ask for one. check_hostname: whether a
    certificate must name the host that was connected to.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    check_hostname: bool = True

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError(
                "store.tls.cert_file and store.tls.key_file belong together; give both or neither"
            )


@dataclass(frozen=True)
class RedisSettings:
    """How to reach the store.

    url: redis://, rediss:// (TLS) or unix://, with user, password and database as redis-py reads
    them; redis+sentinel:// or redis+cluster:// with several hosts. prefix: opens every key.
    max_connections: at once from this process, to each server. connect_timeout_s: for the socket;
    command_timeout_s: for one round trip, waiting for a free connection and connecting included.
    cluster: the servers are a Redis Cluster, as redis+cluster:// says too. wait_replicas: how many
    replicas must confirm a write before it is answered, within wait_timeout_s. user, password_file:
    instead of those in the URL; the file is read again for every connection. sentinel_user,
    sentinel_password_file: for the Sentinels themselves. tls: for rediss.
    """

    url: str = field(repr=False)
    prefix: str = "nestvec"
    max_connections: int = 16
    connect_timeout_s: float = 1.0
    command_timeout_s: float = 3.0
    cluster: bool = False
    wait_replicas: int = 0
    wait_timeout_s: float = 1.0
    user: str = ""
    password_file: Path | None = None
    sentinel_user: str = ""
    sentinel_password_file: Path | None = None
    tls: TlsSettings | None = None
    role: StoreRole | None = None

    def __post_init__(self) -> None:
        if self.max_connections < 1:
            raise ConfigError(
                f"store.max_connections is {self.max_connections}, expected 1 or more"
            )
        for name in ("connect_timeout_s", "command_timeout_s", "wait_timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"store.{name} is {getattr(self, name)}, expected more than 0")
        if self.wait_replicas < 0:
            raise ConfigError(f"store.wait_replicas is {self.wait_replicas}, expected 0 or more")
        if self.wait_replicas and self.wait_timeout_s >= self.command_timeout_s:
            raise ConfigError(
                f"store.wait_timeout_s is {self.wait_timeout_s:g}, expected less than the "
                f"{self.command_timeout_s:g} seconds of store.timeout_s: it is part of the write"
            )

    @property
    def in_cluster(self) -> bool:
        """Whether keys of two slots may live on two servers."""
        return self.cluster or "+cluster://" in self.url[:20]


@dataclass(frozen=True)
class Target:
    """What a URL names. addresses: of the server, of Sentinels, or of some nodes of a cluster;
    empty for a unix socket. options: what each connection to a server is made with, without host
    and port where those are found out. sentinel_options: for connections to Sentinels.
    """

    kind: Literal["one", "sentinel", "cluster"]
    addresses: tuple[Address, ...]
    service: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Where it is, without credentials: for messages and logs."""
        if not self.addresses:
            return f"unix:{self.options['path']}"
        hosts = ",".join(map(host_port, self.addresses))
        return f"{hosts} (Sentinel, service {self.service!r})" if self.service else hosts


class FileCredentials(CredentialProvider):
    """User and password, the latter read for every connection: it may be changed while we run."""

    def __init__(self, user: str, password_file: Path) -> None:
        self._user = user
        self._password_file = password_file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Raises ConfigError."""
        password = read_secret(self._password_file, STORE_PASSWORD)
        return (self._user, password) if self._user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: a secret is a small local file."""
        return self.get_credentials()


def host_port(address: Address) -> str:
    """As people write it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def target_of(settings: RedisSettings) -> Target:
    """What `settings` name. Raises ConfigError, never repeating the URL."""
    url = settings.url
    if url.startswith("unix://"):
        if settings.cluster:
            raise ConfigError(
                "store.cluster is set, but store.url is a unix socket; give host:port"
            )
        options = _options(settings, url, tls=False)
        return Target("one", (), options=options)
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigError(f"store.url must begin with redis://, rediss:// or unix://; {_EXPECTED}")
    kind = _kind(settings, (found["kind"] or "+one")[1:])
    tls = found["scheme"] == "rediss"
    if settings.tls is not None and not tls:
        raise ConfigError("store.tls is set, but store.url is without TLS; begin it with rediss")
    addresses = tuple(_address(host, _PORTS[kind]) for host in found["hosts"].split(","))
    path, service = found["path"] or "", ""
    if kind == "sentinel":
        if not _SERVICE.fullmatch(path):
            raise ConfigError(
                "store.url names no service; expected redis+sentinel://HOST:PORT/SERVICE, with the "
                "name that the Sentinels monitor the primary under"
            )
        path, service = "", path[1:]
    elif len(addresses) > 1 and kind == "one":
        raise ConfigError(
            "store.url names several hosts; for a Redis Cluster set store.cluster, for Sentinel "
            "begin it with redis+sentinel"
        )
    host = host_port(addresses[0])
    plain = f"{found['scheme']}://{found['user'] or ''}{host}{path}{found['query'] or ''}"
    options = _options(settings, plain, tls=tls)
    if kind == "cluster" and options.get("db", 0):
        raise ConfigError("store.url names a database, but a cluster has only database 0")
    sentinel_options: dict[str, Any] = {}
    if kind == "sentinel":
        sentinel_options = {
            name: value
            for name, value in options.items()
            if name not in ("db", "username", "password", "credential_provider")
        } | _credentials("sentinel_", settings.sentinel_user, settings.sentinel_password_file)
    return Target(kind, addresses, service, options, sentinel_options)


def _kind(settings: RedisSettings, named: str) -> Literal["one", "sentinel", "cluster"]:
    if named == "sentinel":
        if settings.cluster:
            raise ConfigError(
                "store.url is of Sentinel and store.cluster is set; a cluster fails over by "
                "itself: name its nodes instead"
            )
        return "sentinel"
    if settings.sentinel_user or settings.sentinel_password_file is not None:
        raise ConfigError(
            "store.sentinel_user and store.sentinel_password_file are for Sentinel, and store.url "
            "names none; expected redis+sentinel://HOST:PORT/SERVICE"
        )
    return "cluster" if named == "cluster" or settings.cluster else "one"


def _address(text: str, port: int) -> Address:
    try:
        parsed = parse_url(f"redis://{text}")
        return str(parsed.get("host") or "localhost"), int(parsed.get("port") or port)
    except ValueError:
        raise ConfigError(f"store.url cannot be read; {_EXPECTED}") from None


def _options(settings: RedisSettings, url: str, *, tls: bool) -> dict[str, Any]:
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise ConfigError(f"store.url cannot be read; {_EXPECTED}") from None
    own = _credentials("", settings.user, settings.password_file)
    if own:
        if "password" in options or "username" in options:
            raise ConfigError(
                "store.url has a user or password, and store.password_file is set; keep one of them"
            )
        options |= own
    if tls:
        options |= _tls_options(settings.tls or TlsSettings())
    return options | {
        # RedisClient bounds whole round trips itself: cheaper than a timer a read and write.
        "socket_timeout": None,
        "socket_connect_timeout": settings.connect_timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        # The client library's name: users need no right to tell it, and the server no refusal.
        "driver_info": None,
        "decode_responses": False,
    }


def _credentials(whose: str, user: str, password_file: Path | None) -> dict[str, Any]:
    if password_file is None:
        if user:
            raise ConfigError(
                f"store.{whose}user is set without store.{whose}password_file; give both"
            )
        return {}
    read_secret(password_file, STORE_PASSWORD)
    return {"credential_provider": FileCredentials(user, password_file)}


def _tls_options(tls: TlsSettings) -> dict[str, Any]:
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, name)
        if path is not None and not path.is_file():
            raise ConfigError(f"store.tls.{name}: {path} is not a file that can be read")
    return {
        "ssl_ca_certs": None if tls.ca_file is None else str(tls.ca_file),
        "ssl_certfile": None if tls.cert_file is None else str(tls.cert_file),
        "ssl_keyfile": None if tls.key_file is None else str(tls.key_file),
        "ssl_check_hostname": tls.check_hostname,
        "ssl_cert_reqs": "required",
    }
