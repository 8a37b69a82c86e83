"""What a Redis-protocol server or its client library says, in nestvec's own errors."""

from __future__ import annotations

from typing import Any

from redis import exceptions as redis_errors

from nestvec.adapters.redis_acl import StoreRole, advice
from nestvec.core.errors import NestvecError, Overloaded, StoreUnavailable

# The code that opens a server's error reply -> what it means here and what to do.
_MEANINGS = {
    "READONLY": "is a read-only replica; point store.url at the primary",
    "MISCONF": "cannot save its data and refuses writes; see its log and its disk",
    "NOREPLICAS": "has too few replicas and refuses writes; see their state",
    "MASTERDOWN": "has lost its primary; retry when one is elected",
    "CLUSTERDOWN": "is a cluster that does not serve all slots; see its nodes",
    "TRYAGAIN": "is moving slots; retry in a moment",
    "BUSY": "is busy with a long script; retry in a moment",
    "LOADING": "is loading its data; retry in a moment",
    "CROSSSLOT": "is a cluster; set store.cluster",
    "MOVED": "is a cluster; set store.cluster and name several of its nodes",
    "ASK": "is moving slots; retry in a moment",
    "MOVING": "is moving slots; retry in a moment",
    "WRONGTYPE": "keeps another type under one of nestvec's keys; give nestvec a prefix of its own",
}
# What a handshake that failed says, and what it means here.
_TLS_MEANINGS = {
    "Hostname mismatch": "has a certificate for another host; connect by the name in it, or set "
    "store.tls.check_hostname to false",
    "IP address mismatch": "has a certificate that does not name its IP address; connect by the "
    "name in it, or set store.tls.check_hostname to false",
    "CERTIFICATE_VERIFY_FAILED": "has a certificate that is not signed by an authority trusted "
    "here; set store.tls.ca_file to the one that signed it",
    "CERTIFICATE_REQUIRED": "asks for a client's certificate; set store.tls.cert_file and key_file",
    "UNKNOWN_CA": "does not trust the client's certificate; see store.tls.cert_file",
    "WRONG_VERSION_NUMBER": "does not speak TLS on that port; begin store.url with redis, or name "
    "its TLS port",
    "RECORD_LAYER_FAILURE": "does not speak TLS on that port; begin store.url with redis, or name "
    "its TLS port",
}
# A script that meets a key of a slot that is being moved away; none of ours has written by then.
_NOT_LOCAL = "access a non local key"
_NOT_PERMITTED = ("The user executing the script can't", "ACL failure in script")
# Long enough for deletes to free something, short enough for a stream to resume by itself.
_FULL_RETRY_AFTER_S = 5.0
_REASON_CHARACTERS = 200


class NotSent(StoreUnavailable):
    """No connection was had, so nothing was done: it may be sent elsewhere."""


def refused_undone(answer: Any) -> str:
    """The code of a refusal after which a command was certainly not done and another try, maybe at
    another server, may do it; else empty.
    """
    if not isinstance(answer, Exception):
        return ""
    code = _code(answer)
    return code if code in _UNDONE else ""


def translate(
    error: Exception, address: str, refused: str = "", role: StoreRole | None = None
) -> NestvecError:
    """The error to raise for `error`. `address` names the server, without credentials. refused: the
    command, as redis_acl.needed tells it. role: of this process, for what its user needs.

    Raise it `from None`: a server may quote the arguments of a command that it did not understand,
    and the password is one, so its text is cut here and must not follow as the cause.
    """
    where = f"the store at {address}"
    code = _code(error)
    if code == "OOM":
        return Overloaded(
            f"{where} is full (maxmemory reached) and nothing was written; "
            f"delete documents or give it more memory, then retry",
            retry_after_s=_FULL_RETRY_AFTER_S,
        )
    if code == "NOPERM":
        return StoreUnavailable(
            f"{where} does not permit {refused or 'what nestvec needs'} ({_reason(error)}); its "
            f"user has less than its access rules must give: {advice(role)}"
        )
    if code in _MEANINGS:
        return StoreUnavailable(f"{where} {_MEANINGS[code]}")
    if isinstance(error, redis_errors.AuthenticationError):
        return StoreUnavailable(
            f"{where} asks for a password, or refuses the user or password of store.url and "
            f"store.password_file"
        )
    if isinstance(
        error, redis_errors.TimeoutError | redis_errors.ConnectionError | OSError
    ):  # the built-in TimeoutError is an OSError
        return _out_of_reach(error, where)
    if isinstance(error, redis_errors.InvalidResponse):
        return StoreUnavailable(f"{where} does not speak the Redis protocol; check store.url")
    return StoreUnavailable(
        f"{where} refused a command ({_reason(error)}); see its log and its version"
    )


def _out_of_reach(error: Exception, where: str) -> StoreUnavailable:
    if isinstance(error, redis_errors.TimeoutError) and "connecting" in str(error):
        return StoreUnavailable(
            f"{where} took no connection in time; it is overloaded, stopped or out of reach, or "
            f"store.url begins with rediss and it does not speak TLS on that port"
        )
    if isinstance(error, redis_errors.TimeoutError | TimeoutError):
        return StoreUnavailable(
            f"{where} did not answer in time; it is overloaded, stopped or out of reach"
        )
    for sign, meaning in _TLS_MEANINGS.items():
        if sign in str(error):
            return StoreUnavailable(f"{where} {meaning}")
    return StoreUnavailable(
        f"{where} cannot be reached ({error}); see that it runs, or where nestvec started it, "
        f"start nestvec again"
    )


def _reason(error: Exception) -> str:
    return str(error).split(", with args", 1)[0][:_REASON_CHARACTERS]


def _code(error: Exception) -> str:
    """The upper-case word that opens an error reply; the library strips some and keeps others."""
    if isinstance(error, redis_errors.BusyLoadingError):
        return "LOADING"
    for kind, code in _CODES_STRIPPED.items():
        if isinstance(error, kind):
            return code
    text = str(error)
    if text.startswith(_NOT_PERMITTED):  # of a command within a script
        return "NOPERM"
    if _NOT_LOCAL in text:
        return "MOVING"
    if "OOM command not allowed" in text:  # Redis before 7 wraps a script's error in another
        return "OOM"
    word = text.split(" ", 1)[0]
    return word if word.isupper() else "ERR"


_CODES_STRIPPED: dict[type[Exception], str] = {
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.TryAgainError: "TRYAGAIN",
    redis_errors.NoPermissionError: "NOPERM",
    redis_errors.ClusterCrossSlotError: "CROSSSLOT",
    redis_errors.MovedError: "MOVED",
    redis_errors.AskError: "ASK",
    redis_errors.TryAgainError: "TRYAGAIN",
}

_UNDONE = frozenset(
    ("MOVED", "ASK", "MOVING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN", "LOADING", "READONLY")
)
