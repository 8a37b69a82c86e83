"""In front of every call: who it is from, whether it may, and whether it is one too many."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from cachetools import LRUCache

from nestvec.core.errors import Forbidden, Unauthenticated
from nestvec.security.certificates import CallerCertificates
from nestvec.security.files import Reloaded
from nestvec.security.grants import Rights, Verb
from nestvec.security.identity import Identity, current_identity, region_host
from nestvec.security.methods import RULES, Rule, Scope
from nestvec.security.quotas import Quotas, Use
from nestvec.security.rules import Rules
from nestvec.security.tokens import TokenVerifier

AUTHORIZATION = "authorization"
_SCHEME = "bearer "
# As gRPC's auth context names the peer's certificate, and all that came with it.
_LEAF, _CHAIN = "x509_pem_cert", "x509_pem_cert_chain"
# Longer than any that the verifiers keep.
_MOST_REMEMBERED = 20_000
_LONGEST_QUOTED = 128


class CallContext(Protocol):
    """As much of gRPC's context as is needed."""

    def invocation_metadata(self) -> Any: ...

    def auth_context(self) -> Any: ...


class Guard:
    """rules: who may do what, as it stands at any time. tokens, certificates: whichever callers may
    bring; a token says who asks where both come. clock: Unix time, in seconds.
    """

    def __init__(
        self,
        rules: Reloaded[Rules],
        tokens: TokenVerifier | None,
        certificates: CallerCertificates | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        assert tokens is not None or certificates is not None
        self._rules = rules
        self._tokens = tokens
        self._certificates = certificates
        self._quotas = Quotas(())
        self._clock = clock
        # Of the rules that rights and quotas were made by.
        self._ruled = 0
        # By the identity's own id, which holds while the identity is kept beside.
        self._rights: LRUCache[int, tuple[Identity, Rights]] = LRUCache(_MOST_REMEMBERED)

    def entry(self, path: str) -> Entry:
        """For one method, by its path. Raises LookupError for one that the table does not have."""
        if path not in RULES:
            raise LookupError(f"{path} has no rule in security/methods.py; add the right it takes")
        return Entry(self, RULES[path])

    @property
    def version(self) -> tuple[object, ...]:
        """Another one when anything has changed that a call was let in by."""
        tokens, certificates = self._tokens, self._certificates
        return (
            self._current().version,
            None if tokens is None else tokens.version,
            None if certificates is None else certificates.version,
        )

    def _current(self) -> Reloaded[Rules]:
        """The rules; what was made by those before is forgotten."""
        rules = self._rules
        value, version = rules.value, rules.version
        if version != self._ruled:
            self._ruled = version
            self._rights.clear()
            self._quotas.replace(value.quotas)
        return rules

    def identify(self, context: CallContext) -> Identity:
        """Whose call it is. Raises Unauthenticated."""
        if self._tokens is not None:
            token = _token_of(context)
            if token is not None:
                return self._tokens.identity(token)
            if self._certificates is None:
                raise Unauthenticated(
                    "this call brings no token; send one as `authorization: Bearer TOKEN` "
                    "(--token-file, NESTVEC_TOKEN_FILE)"
                )
        assert self._certificates is not None
        context_of_tls: Mapping[str, Any] = context.auth_context()
        leaf = context_of_tls.get(_LEAF)
        if not leaf:
            raise Unauthenticated(
                "this call brings no certificate; connect with one (--tls-cert, --tls-key)"
            )
        chain = context_of_tls.get(_CHAIN)
        return self._certificates.identity(leaf[0], chain[0] if chain else b"")

    def rights_of(self, identity: Identity) -> Rights:
        """What the grants allow it."""
        rules = self._current()
        known = self._rights.get(id(identity))
        if known is None:
            known = self._rights[id(identity)] = identity, rules.value.access.rights_of(identity)
        return known[1]

    def begin(self, identity: Identity, rights: Rights) -> Use | None:
        """Count a call. Raises Overloaded. nestvec's own processes are bounded where they began."""
        if rights.internal:
            return None
        use = self._quotas.use_of(identity)
        if use is not None:
            use.begin(identity.name)
        return use

    def now_s(self) -> float:
        """Unix time."""
        return self._clock()


class Entry:
    """The guard of one method."""

    __slots__ = ("_guard", "rule")

    def __init__(self, guard: Guard, rule: Rule) -> None:
        self._guard = guard
        self.rule = rule

    def enter(self, context: CallContext) -> Entered:
        """Let a call in, or raise Unauthenticated, Forbidden or Overloaded. What it names is looked
        at with `require`; it counts until `leave`.
        """
        guard, rule = self._guard, self.rule
        entered = Entered(guard, rule, context)
        # Other regions copy as fast as their own settings let them.
        if not rule.speaks:
            entered.count()
        return entered


class Entered:
    """A call that was let in. It ends when what let it in is there no more: see `lasting`."""

    __slots__ = (
        "_context",
        "_guard",
        "_identity",
        "_named",
        "_rights",
        "_rule",
        "_use",
        "_version",
    )

    def __init__(self, guard: Guard, rule: Rule, context: CallContext) -> None:
        """Raises Unauthenticated or Forbidden."""
        self._guard = guard
        self._rule = rule
        self._context = context
        self._use: Use | None = None
        # What the request names, once that was looked at.
        self._named: str | None = None
        # Of what it was let in by; of streams alone, since a single answer is soon over.
        self._version: tuple[object, ...] = ()
        self._let_in()

    def _let_in(self) -> None:
        guard, rule = self._guard, self._rule
        self._identity = identity = guard.identify(self._context)
        self._rights = rights = guard.rights_of(identity)
        current_identity.set(identity)
        if rule.scope is Scope.ALL:
            allowed = any(rights.allows(verb, "") for verb in rule.verbs)
        else:
            allowed = any(map(rights.has, rule.verbs))
        if not allowed:
            where = "all collections" if rule.scope is Scope.ALL else "any collection"
            raise _forbidden(identity, rule, where)

    def count(self) -> None:
        """It is one of the caller's calls, until `leave`. Raises Overloaded."""
        self._use = self._guard.begin(self._identity, self._rights)

    @property
    def internal(self) -> bool:
        """Whether the caller is a process of nestvec's own."""
        return self._rights.internal

    @property
    def filters(self) -> bool:
        """Whether answers must go through `shown`."""
        return self._rule.shown is not None and not self._rights.internal

    def require(self, request: Any) -> None:
        """Raise Forbidden where the caller may not do this with what the request names."""
        rule = self._rule
        if rule.speaks and not self._identity.speaks_for(request.caller):
            caller = _shortened(request.caller)
            raise Forbidden(
                f"{self._identity.name} is not of region {caller!r}, which the call says it is "
                f"from; its certificate must name {region_host(caller)}"
            )
        if not rule.collection:
            return
        name = request
        for part in rule.collection.split("."):
            name = getattr(name, part)
        if rule.scope is Scope.SOME and not name:
            return
        self._named = name
        self._require_named(name)

    def _require_named(self, name: str) -> None:
        if not self._allows(name):
            where = f"collection {_shortened(name)!r}" if name else "all collections"
            raise _forbidden(self._identity, self._rule, where)

    def shown(self, response: Any) -> Any:
        """The answer, without what the caller may not know of."""
        rule = self._rule
        if rule.shown is None or self._rights.internal:
            return response
        field, name = rule.shown
        entries = getattr(response, field)
        kept = [one for one in entries if self._allows(getattr(one, name))]
        if len(kept) < len(entries):
            del entries[:]
            entries.extend(kept)
        return response

    def lasts(self) -> None:
        """It is a stream, and ends where it would not be let in any more. Safe to repeat."""
        self._version = self._version or self._guard.version

    async def checked(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """A stream's messages. The first names the collection; the stream ends with the caller's
        credentials, and with what it was granted.
        """
        first = True
        self.lasts()
        async for request in requests:
            if first:
                self.require(request)
                first = False
            self.require_current()
            yield request

    async def lasting(self, responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """An answer in parts, which ends with the caller's credentials, or rights."""
        self.lasts()
        async for response in responses:
            self.require_current()
            yield response

    def leave(self) -> None:
        """The call is over."""
        if self._use is not None:
            self._use.end()

    def _allows(self, collection: str) -> bool:
        return any(self._rights.allows(verb, collection) for verb in self._rule.verbs)

    def require_current(self) -> None:
        """Raise where a stream would not be let in any more."""
        version = self._guard.version
        if version != self._version:
            self._let_in()
            if self._named is not None:
                self._require_named(self._named)
            # Only now: whoever was refused is refused again.
            self._version = version
        if self._guard.now_s() >= self._identity.expires_s:
            raise Unauthenticated(
                f"the credentials of {self._identity.name} ended during the call; go on with new "
                f"ones"
            )


def _token_of(context: CallContext) -> str | None:
    """None where the metadata has none. Raises Unauthenticated for another kind of credentials."""
    for key, value in context.invocation_metadata() or ():
        if key == AUTHORIZATION:
            if isinstance(value, str) and value[: len(_SCHEME)].lower() == _SCHEME:
                return value[len(_SCHEME) :].strip()
            raise Unauthenticated("the metadata `authorization` is not of the form `Bearer TOKEN`")
    return None


def _forbidden(identity: Identity, rule: Rule, where: str) -> Forbidden:
    if rule.verbs == (Verb.INTERNAL,):
        return Forbidden(
            f"{identity.name} is not granted internal: only nestvec's own processes make this call"
        )
    return Forbidden(
        f"{identity.name} is not granted {' or '.join(rule.verbs)} on {where}; ask whoever runs "
        f"this server for it (security.grants)"
    )


def _shortened(name: str) -> str:
    return name[:_LONGEST_QUOTED]
