"""Serve the encoder on its own, or open it for another application."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.adapters.opening import open_model
from nestvec.config import EncoderSection, LimitsSection, Settings
from nestvec.core.ports import Encoder
from nestvec.encoder import servicer
from nestvec.encoder.app import EncoderApp, EncoderLimits
from nestvec.rpc.clients import RemoteEncoder
from nestvec.rpc.server import Mounted
from nestvec.serving import open_channel, run_main


def local_encoder(section: EncoderSection, limits: LimitsSection) -> EncoderApp:
    """The model that the settings name, in this process. Raises ConfigError."""
    return EncoderApp(
        open_model(section),
        EncoderLimits(
            threads=section.threads,
            max_text_bytes=limits.max_text_bytes,
            chunk_texts=section.batch,
        ),
    )


async def open_encoder(settings: Settings, stack: AsyncExitStack) -> Encoder:
    """In this process, or behind gRPC where the settings give its address."""
    section = settings.encoder
    if section.address:
        return await RemoteEncoder.connect(await open_channel(settings, section.address, stack))
    encoder = local_encoder(section, settings.limits)
    stack.push_async_callback(encoder.close)
    return encoder


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """What a process of this application offers."""
    encoder = await open_encoder(settings, stack)
    return [servicer.mount(encoder, settings.server.deadline_cap_s)]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "the encoder"))
