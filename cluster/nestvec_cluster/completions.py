"""Names that a shell completes. A server that does not answer at once completes nothing."""

from __future__ import annotations

import os
from typing import Any

from nestvec_cluster.cli_credentials import given_credentials

DEFAULT_ADDRESS = "127.0.0.1:7700"
ADDRESS_VARIABLE = "NESTVEC_ADDRESS"
_TIMEOUT_S = 0.5
_DEFAULT_CLASSES = ("analyst", "autocomplete", "search")


def complete_collection(ctx: Any, incomplete: str) -> list[str]:
    """Collections of the server that the command line so far names."""
    return [name for name in _collections(ctx) if name.startswith(incomplete)]


def complete_class(ctx: Any, incomplete: str) -> list[str]:
    """Search classes of that server, or those that every server begins with."""
    return [name for name in _classes(ctx) if name.startswith(incomplete)]


def _collections(ctx: Any) -> list[str]:
    from nestvec.client import NestvecClient
    from nestvec.core.errors import NestvecError

    try:
        with NestvecClient(
            _address(ctx), timeout_s=_TIMEOUT_S, credentials=given_credentials()
        ) as client:
            return [info.name for info in client.collections()]
    except NestvecError:
        return []


def _classes(ctx: Any) -> list[str]:
    from nestvec.client import NestvecClient
    from nestvec.core.errors import NestvecError

    try:
        with NestvecClient(
            _address(ctx), timeout_s=_TIMEOUT_S, credentials=given_credentials()
        ) as client:
            return sorted(one.name for one in client.server().search_classes)
    except NestvecError:
        return list(_DEFAULT_CLASSES)


def _address(ctx: Any) -> str:
    return ctx.params.get("address") or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
