"""What the user of each role must be allowed at a Redis-protocol server: the only table of it.

A user has commands, and keys that it may read, or read and write. The server holds scripts to both
as well, command by command. So one list of commands is enough for a role: on keys that it may only
read, those that write are refused.

Needs Redis 7, or Valkey: `%R~` (keys to read) and EVALSHA_RO (scripts that only read).
Source: Redis documentation, "ACL", "Key permissions"; key specifications of EVAL, which takes the
right to write whatever its script does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_pool import Command
from nestvec.core.shadowing import SHADOW


class StoreRole(StrEnum):
    """Who speaks to the store. INGEST: writing, administration and migrations; a single process
    that does everything, too. QUERY: front ends. MEMBER: encoders and cross-encoders, which are in
    the registry and read no documents. OPERATOR: `nestvec up`, `status` and `reshard`.
    """

    INGEST = "ingest"
    QUERY = "query"
    COARSE = "coarse"
    RERANK = "rerank"
    MEMBER = "member"
    OPERATOR = "operator"

    @property
    def writes_documents(self) -> bool:
        """Whether it changes documents and collections."""
        return self is StoreRole.INGEST


@dataclass(frozen=True, slots=True)
class _Rule:
    """reads, writes: patterns of keys behind the prefix. Who may write a key may read it."""

    commands: Sequence[str]
    reads: Sequence[str] = ()
    writes: Sequence[str] = ()


_REGISTRY_KEYS = "{registry}:*"
_CATALOGUE_KEYS = "{catalogue}:*"
_VECTOR_KEYS = "{*}v:*"

# Every connection asks who answers; `cluster|slots` and `asking` are for a Redis Cluster alone.
_CONNECTING = ("ping", "info", "cluster|slots", "asking")
_SCRIPTS = ("script|load",)
# Every process looks at the registry, and so lengthens and ends leases there; see
# redis_registry_scripts. `wait` is for `store.wait_replicas`.
_MEMBERSHIP = (
    "evalsha", "wait", "time", "get", "set", "del", "hget", "hset", "hdel", "hgetall", "hkeys",
    "sadd", "srem", "zadd", "zrem", "zcard", "zrange", "zrangebyscore",
)  # fmt: skip
_CATALOGUE = ("evalsha_ro", "get", "hget", "hgetall", "hexists")
_DOCUMENTS = ("mget", "getrange", "hmget", "hlen", "hscan", "xrange")
_WRITING = (
    "eval", "multi", "exec", "exists", "setrange", "unlink", "expire", "hincrby", "hsetnx",
    "smembers", "xadd", "xlen", "xtrim", "scan", "memory|usage",
)  # fmt: skip

_ALWAYS = (*_CONNECTING, *_SCRIPTS, *_MEMBERSHIP)
_RULES: Mapping[StoreRole, _Rule] = {
    StoreRole.INGEST: _Rule(
        (*_ALWAYS, *_CATALOGUE, *_DOCUMENTS, *_WRITING),
        writes=("*",),
    ),
    # What searches of a model to come find is counted beside a migration: see query/shadow.py.
    StoreRole.QUERY: _Rule(
        (*_ALWAYS, *_CATALOGUE, *_DOCUMENTS, "hincrby"),
        reads=("*",),
        writes=(_REGISTRY_KEYS, f"{{catalogue}}:tally:*:{SHADOW}"),
    ),
    StoreRole.COARSE: _Rule(
        (*_ALWAYS, *_CATALOGUE, *_DOCUMENTS),
        reads=("*",),
        writes=(_REGISTRY_KEYS,),
    ),
    StoreRole.RERANK: _Rule(
        (*_ALWAYS, *_CATALOGUE, "mget"),
        reads=(_CATALOGUE_KEYS, _VECTOR_KEYS),
        writes=(_REGISTRY_KEYS,),
    ),
    StoreRole.MEMBER: _Rule(_ALWAYS, writes=(_REGISTRY_KEYS,)),
    StoreRole.OPERATOR: _Rule(
        (*_ALWAYS, *_CATALOGUE),
        reads=(_CATALOGUE_KEYS,),
        writes=(_REGISTRY_KEYS,),
    ),
}


def rules(role: StoreRole, prefix: str) -> list[str]:
    """The words of ACL SETUSER behind the password. prefix: `store.prefix`. Raises ConfigError for
    one that cannot be used.
    """
    opening, rule = Keyspace(prefix).prefix, _RULES[role]
    return [
        "resetkeys",
        *(f"~{opening}:{keys}" for keys in rule.writes),
        *(f"%R~{opening}:{keys}" for keys in rule.reads),
        "resetchannels",
        "-@all",
        *(f"+{command}" for command in dict.fromkeys(rule.commands)),
    ]


def user_of(role: StoreRole, base: str = "nestvec") -> str:
    """The usual name of a role's user."""
    return f"{base}-{role}"


def set_user(role: StoreRole, prefix: str, user: str, password: str) -> str:
    """A command for a server that runs. password: as the server takes it, `>TEXT` or `#SHA-256`."""
    return " ".join(["ACL", "SETUSER", user, "reset", "on", password, *rules(role, prefix)])


def file_line(role: StoreRole, prefix: str, user: str, password: str) -> str:
    """A line of the file that `aclfile` names, which takes `#SHA-256` alone."""
    return " ".join(["user", user, "on", password, *rules(role, prefix)])


def hashed(password: str) -> str:
    """As the server keeps it."""
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"


# --- what is said when a user has less ------------------------------------------------------------

_SHOWN_CHARACTERS = 160
_BY_SCRIPT = (b"EVAL", b"EVALSHA", b"EVALSHA_RO")
# Their second word is part of the command, and no key.
_OF_TWO_WORDS = (b"SCRIPT", b"CLUSTER", b"MEMORY")
_WITHOUT_KEY = (b"INFO", b"PING", b"SCAN", b"WAIT", b"MULTI", b"EXEC", b"TIME", b"ASKING")


def needed(command: Command) -> str:
    """What a refused command was: its name and first key, and no argument, which may be a
    document's.
    """
    name = _text(command[0])
    if command[0] in _BY_SCRIPT:
        keys = command[3:4] if command[2:3] and command[2] else ()
        return f"a script ({name})" + "".join(f" on the key {_text(key)}" for key in keys)
    if command[0] in _OF_TWO_WORDS:
        return f"{name} {_text(command[1])}"
    if command[0] in _WITHOUT_KEY or len(command) < 2:
        return name
    return f"{name} on the key {_text(command[1])}"


def advice(role: StoreRole | None) -> str:
    """Which rules to give."""
    if role is None:
        return "`nestvec acl` prints the rules of each role, for `ACL SETUSER`"
    return f"`nestvec acl --role {role}` prints the rules of this process's role, for `ACL SETUSER`"


def _text(word: bytes | str | int) -> str:
    text = word.decode(errors="replace") if isinstance(word, bytes) else str(word)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
