"""Serve the encoders on their own, or open them for another application."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from nestvec.adapters.opening_models import open_model, open_named, spec_of
from nestvec.config import ModelSection, Settings
from nestvec.core.members import Facts, MemberRole
from nestvec.core.model_spec import ModelSpec
from nestvec.core.ports import EmbeddingModel, Encoder, ServedModel
from nestvec.encoder import servicer
from nestvec.encoder.app import EncoderApp, EncoderLimits
from nestvec.encoder.lazy import LazyModel
from nestvec.encoder.served import PAUSE_S, ServedEncoders
from nestvec.fanout.main import open_cluster_encoder
from nestvec.membership.measures import Load, resident_bytes
from nestvec.rpc.clients import RemoteEncoder
from nestvec.serving import Offer, open_channel, run_main


async def open_encoders(settings: Settings, stack: AsyncExitStack) -> ServedEncoders:
    """The default encoder now, others when they are needed; `stack` closes them all. Raises
    ConfigError, or WorkerUnavailable where the default's address does not answer.
    """
    section = settings.encoder
    default = ServedModel(await open_encoder(settings, stack), spec_of(section))
    # What is opened later must be closed where the default is, after the calls that use it; the
    # stack itself would close it first.
    later = await stack.enter_async_context(AsyncExitStack())
    listed = [
        LazyModel(_name_of(one), spec_of(one), partial(_open_listed, settings, one, later), PAUSE_S)
        for one in settings.encoders
    ]
    by_record = partial(_open_by_record, settings, later) if section.load_named else None
    encoders = ServedEncoders(default, listed, by_record)
    stack.push_async_callback(encoders.close)
    return encoders


async def open_encoder(settings: Settings, stack: AsyncExitStack) -> Encoder:
    """The default one: those of the cluster where the settings say so; else behind gRPC where they
    give its address; else in this process.
    """
    if settings.encoder.from_cluster:
        return await open_cluster_encoder(settings, stack)
    return await _open_section(settings, settings.encoder, stack)


async def _open_listed(
    settings: Settings, section: ModelSection, stack: AsyncExitStack
) -> ServedModel:
    return ServedModel(await _open_section(settings, section, stack), spec_of(section))


async def _open_section(
    settings: Settings, section: ModelSection, stack: AsyncExitStack
) -> Encoder:
    if section.address:
        return await RemoteEncoder.connect(await open_channel(settings, section.address, stack))
    model = await asyncio.to_thread(open_model, section)
    return _hosted(model, section, settings, stack)


async def _open_by_record(
    settings: Settings, stack: AsyncExitStack, spec: ModelSpec
) -> ServedModel:
    """Run as the default is."""
    section = settings.encoder
    model, spec = await asyncio.to_thread(open_named, spec, section.device)
    return ServedModel(_hosted(model, section, settings, stack), spec)


def _hosted(
    model: EmbeddingModel, section: ModelSection, settings: Settings, stack: AsyncExitStack
) -> EncoderApp:
    """In this process; closed by `stack`."""
    limits = EncoderLimits(
        threads=section.threads,
        max_text_bytes=settings.limits.max_text_bytes,
        chunk_texts=section.batch,
        waiting=section.waiting,
        batch_tokens=section.batch_tokens,
        batch_s=section.batch_ms / 1e3,
        batch_wait_s=section.batch_wait_ms / 1e3,
    )
    encoder = EncoderApp(model, limits)
    stack.push_async_callback(encoder.close)
    return encoder


def _name_of(section: ModelSection) -> str:
    return f"at {section.address}" if section.address else section.model


async def mounted(settings: Settings, stack: AsyncExitStack) -> Offer:
    """What a process of this application offers."""
    encoders = await open_encoders(settings, stack)
    load = Load(settings.encoder.threads)

    async def facts() -> Facts:
        apps = [one.encoder for one in encoders.open_now if isinstance(one.encoder, EncoderApp)]
        queue = sum(one.texts_under_way for one in apps) if apps else load.queue
        return Facts(memory_bytes=resident_bytes(), p95_ms=load.p95_ms, queue=queue)

    service = servicer.mount(encoders, settings.server.deadline_cap_s, load)
    return Offer([service], fingerprint=encoders.default.space.fingerprint, facts=facts)


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "the encoder", MemberRole.ENCODER))
