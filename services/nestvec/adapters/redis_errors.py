"""What a Redis-protocol server or its client library says, in nestvec's own errors."""

from __future__ import annotations

from redis import exceptions as redis_errors

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
    "NOPERM": "does not permit a command that nestvec needs; see its access rules",
    "CROSSSLOT": "is a cluster; set store.cluster",
    "MOVED": "is a cluster; set store.cluster and name all its nodes",
    "WRONGTYPE": "keeps another type under one of nestvec's keys; give nestvec a prefix of its own",
}
# Long enough for deletes to free something, short enough for a stream to resume by itself.
_FULL_RETRY_AFTER_S = 5.0
_REASON_CHARACTERS = 200


def translate(error: Exception, address: str) -> NestvecError:
    """The error to raise for `error`. `address` names the server, without credentials.

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
    if code in _MEANINGS:
        return StoreUnavailable(f"{where} {_MEANINGS[code]}")
    if isinstance(error, redis_errors.AuthenticationError):
        return StoreUnavailable(
            f"{where} asks for a password, or refuses the user or password of store.url"
        )
    if isinstance(error, redis_errors.TimeoutError | TimeoutError):
        return StoreUnavailable(
            f"{where} did not answer in time; it is overloaded, stopped or out of reach"
        )
    if isinstance(error, redis_errors.ConnectionError | OSError):
        return StoreUnavailable(
            f"{where} cannot be reached ({error}); see that it runs, or where nestvec started it, "
            f"start nestvec again"
        )
    if isinstance(error, redis_errors.InvalidResponse):
        return StoreUnavailable(f"{where} does not speak the Redis protocol; check store.url")
    reason = str(error).split(", with args", 1)[0][:_REASON_CHARACTERS]
    return StoreUnavailable(f"{where} refused a command ({reason}); see its log and its version")


def _code(error: Exception) -> str:
    """The upper-case word that opens an error reply; the library strips some and keeps others."""
    if isinstance(error, redis_errors.BusyLoadingError):
        return "LOADING"
    for kind, code in _CODES_STRIPPED.items():
        if isinstance(error, kind):
            return code
    text = str(error)
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
}
