"""From settings to an open store, or registry. For main.py, and for nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_acl import StoreRole
from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_registry import RedisRegistry
from nestvec.adapters.redis_settings import RedisSettings, TlsSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.config import ClusterSection, StoreSection
from nestvec.core.errors import ConfigError
from nestvec.core.ports import Registry, VectorStore

# Heartbeats and looks follow one another; a call beside them is rare.
_REGISTRY_CONNECTIONS = 4


async def open_store(
    section: StoreSection, stack: AsyncExitStack, role: StoreRole = StoreRole.INGEST
) -> VectorStore:
    """The store that the settings name, or an embedded server of its own; closed by `stack`. One
    that writes documents deletes what a crash has left of collections that were dropped.

    Raises StoreUnavailable when it does not answer, and ConfigError when it holds another format,
    or is a cluster and the settings do not say so, or the other way round.
    """
    url = section.url
    if url is None:
        embedded = EmbeddedValkey(
            EmbeddedSettings(
                data_dir=section.data_dir,
                appendfsync=section.fsync,
                maxmemory_bytes=section.max_memory_bytes,
            )
        )
        await asyncio.to_thread(embedded.start)
        stack.push_async_callback(asyncio.to_thread, embedded.stop)
        url = embedded.url
    elif section.data_dir is not None:
        raise ConfigError(
            "store.data_dir is for the embedded server, and store.url names another one; "
            "remove one of them"
        )
    store = RedisStore(_redis_settings(section, url, section.max_connections, role))
    stack.push_async_callback(store.close)
    await store.require_kind()
    if role.writes_documents:
        await store.finish_drops()
    else:
        # So that a format of another version, and a user with too few rights, are told at once.
        await store.collections()
    return store


def _redis_settings(
    section: StoreSection, url: str, max_connections: int, role: StoreRole | None
) -> RedisSettings:
    return RedisSettings(
        url=url,
        prefix=section.prefix,
        max_connections=max_connections,
        command_timeout_s=section.timeout_s,
        wait_replicas=section.wait_replicas,
        wait_timeout_s=section.wait_timeout_s,
        cluster=section.cluster,
        user=section.user,
        password_file=section.password_file,
        sentinel_user=section.sentinel_user,
        sentinel_password_file=section.sentinel_password_file,
        tls=None if section.tls is None else TlsSettings(**section.tls.model_dump()),
        role=role,
    )


async def open_registry(
    settings: StoreSection,
    cluster: ClusterSection,
    stack: AsyncExitStack,
    role: StoreRole | None = None,
) -> Registry:
    """The registry of the cluster that the settings name; `stack` closes its connections, which are
    its own: a busy store must not hold a heartbeat up. role: for messages; all have the same rights
    there.

    Raises ConfigError without `store.url` or `cluster.name`, or where the namespace is another
    cluster's; StoreUnavailable when the server does not answer.
    """
    if cluster.name is None:
        raise ConfigError("cluster.name is not set; give the name of the cluster to belong to")
    if settings.url is None:
        raise ConfigError(
            "store.url is not set; the processes of a cluster share a store: give its address"
        )
    client = RedisClient(
        _redis_settings(settings, settings.url, _REGISTRY_CONNECTIONS, role),
        Epochs(Keyspace(settings.prefix).primary),
    )
    stack.push_async_callback(client.close)
    registry = RedisRegistry(client, settings.prefix)
    await registry.found(cluster.name)
    return registry


async def open_shared_store(
    section: StoreSection, stack: AsyncExitStack, role: StoreRole = StoreRole.INGEST
) -> VectorStore:
    """The store of an application that runs on its own. Raises ConfigError without `url`."""
    if section.url is None:
        raise ConfigError(
            "store.url is not set; an application that runs on its own shares a store with the "
            "others: give the address of that store"
        )
    return await open_store(section, stack, role)
