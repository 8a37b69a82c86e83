"""Serve the encoder on its own, or open it for another application."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.adapters.opening import open_model
from nestvec.config import EncoderSection, LimitsSection, Settings
from nestvec.core.members import Facts, MemberRole
from nestvec.core.ports import Encoder
from nestvec.encoder import servicer
from nestvec.encoder.app import EncoderApp, EncoderLimits
from nestvec.fanout.main import open_cluster_encoder
from nestvec.membership.measures import Load, resident_bytes
from nestvec.rpc.clients import RemoteEncoder
from nestvec.serving import Offer, open_channel, run_main


def local_encoder(section: EncoderSection, limits: LimitsSection) -> EncoderApp:
    """The model that the settings name, in this process. Raises ConfigError."""
    return EncoderApp(
        open_model(section),
        EncoderLimits(
            threads=section.threads,
            max_text_bytes=limits.max_text_bytes,
            chunk_texts=section.batch,
            waiting=section.waiting,
            batch_tokens=section.batch_tokens,
            batch_s=section.batch_ms / 1e3,
            batch_wait_s=section.batch_wait_ms / 1e3,
        ),
    )


async def open_encoder(settings: Settings, stack: AsyncExitStack) -> Encoder:
    """Those of the cluster where the settings say so; else behind gRPC where they give its address;
    else in this process.
    """
    section = settings.encoder
    if section.from_cluster:
        return await open_cluster_encoder(settings, stack)
    if section.address:
        return await RemoteEncoder.connect(await open_channel(settings, section.address, stack))
    encoder = local_encoder(section, settings.limits)
    stack.push_async_callback(encoder.close)
    return encoder


async def mounted(settings: Settings, stack: AsyncExitStack) -> Offer:
    """What a process of this application offers."""
    encoder = await open_encoder(settings, stack)
    load = Load(settings.encoder.threads)

    async def facts() -> Facts:
        queue = encoder.texts_under_way if isinstance(encoder, EncoderApp) else load.queue
        return Facts(memory_bytes=resident_bytes(), p95_ms=load.p95_ms, queue=queue)

    service = servicer.mount(encoder, settings.server.deadline_cap_s, load)
    return Offer([service], fingerprint=encoder.space.fingerprint, facts=facts)


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "the encoder", MemberRole.ENCODER))
