"""From settings to open adapters: the store, and the model. For main.py, and for nothing else."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.models.card import ModelCard
from nestvec.adapters.models.factory import load_model
from nestvec.adapters.models.settings import EndpointSettings, LocalSettings, ModelSettings
from nestvec.adapters.redis_pool import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.config import EncoderSection, StoreSection
from nestvec.core.errors import ConfigError
from nestvec.core.ports import EmbeddingModel, VectorStore
from nestvec.core.space import Prompts, Recipe


async def open_store(section: StoreSection, stack: AsyncExitStack) -> VectorStore:
    """The store that the settings name, or an embedded server of its own; closed by `stack`.

    Raises ConfigError or StoreUnavailable when it does not answer, or holds another format.
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
    store = RedisStore(
        RedisSettings(
            url=url,
            prefix=section.prefix,
            max_connections=section.max_connections,
            command_timeout_s=section.timeout_s,
            wait_replicas=section.wait_replicas,
            wait_timeout_s=section.wait_timeout_s,
        )
    )
    stack.push_async_callback(store.close)
    await store.ping()
    await store.finish_drops()
    return store


async def open_shared_store(section: StoreSection, stack: AsyncExitStack) -> VectorStore:
    """The store of an application that runs on its own. Raises ConfigError without `url`."""
    if section.url is None:
        raise ConfigError(
            "store.url is not set; an application that runs on its own shares a store with the "
            "others: give the address of that store"
        )
    return await open_store(section, stack)


def open_model(section: EncoderSection) -> EmbeddingModel:
    """The model that the settings name. Raises ConfigError or WorkerUnavailable."""
    card = None
    if section.card is not None:
        card = ModelCard(
            name=section.model,
            dim=section.card.trained_dims[-1],
            trained_dims=section.card.trained_dims,
            recipe=Recipe(section.card.layer_norm),
            prompts=Prompts(section.card.query_prompt, section.card.document_prompt),
        )
    endpoint = EndpointSettings(
        url=section.url or "",
        api_key_env=section.api_key_env or "",
        api_key_file=str(section.api_key_file or ""),
        revision=section.revision,
    )
    local = LocalSettings(
        device=section.device,
        revision=section.revision,
        trust_remote_code=section.trust_remote_code,
    )
    return load_model(
        ModelSettings(
            model=section.model,
            card=card,
            card_file=str(section.card_file or ""),
            local=local,
            endpoint=endpoint,
        )
    )
