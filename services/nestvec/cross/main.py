"""Serve the cross-encoder on its own, or open it for another application."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from nestvec.adapters.models.cross_encoder import CrossEncoderModel, CrossEncoderSettings
from nestvec.config import CrossEncoderSection, Settings
from nestvec.core.errors import ConfigError
from nestvec.core.members import MemberRole
from nestvec.core.ports import PairScorer
from nestvec.cross import servicer
from nestvec.cross.app import CrossEncoderApp, CrossEncoderLimits
from nestvec.rpc.clients import RemotePairScorer
from nestvec.rpc.server import Mounted
from nestvec.serving import open_channel, run_main


async def open_cross_encoder(settings: Settings, stack: AsyncExitStack) -> PairScorer | None:
    """Behind gRPC where the settings give its address, else in this process; None where they name
    none. Raises ConfigError or WorkerUnavailable.
    """
    section = settings.cross_encoder
    if section.address:
        channel = await open_channel(settings, section.address, stack)
        return await RemotePairScorer.connect(channel)
    return None if section.model is None else await _open_local(section, section.model, stack)


async def _open_local(
    section: CrossEncoderSection, model: str, stack: AsyncExitStack
) -> CrossEncoderApp:
    loaded = await asyncio.to_thread(
        CrossEncoderModel.load,
        CrossEncoderSettings(
            model=model,
            revision=section.revision,
            device=section.device,
            trust_remote_code=section.trust_remote_code,
            max_tokens=section.max_tokens,
            batch=section.batch,
        ),
    )
    limits = CrossEncoderLimits(
        batch=section.batch,
        max_tokens=section.max_tokens,
        waiting=section.waiting,
        batch_wait_s=section.batch_wait_ms / 1e3,
    )
    app = CrossEncoderApp(loaded, limits)
    stack.push_async_callback(app.close)
    await app.warm_up()
    return app


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """What a process of this application offers."""
    scorer = await open_cross_encoder(settings, stack)
    if scorer is None:
        raise ConfigError(
            "cross_encoder.model is not set; name a folder, an installed package or a hub model"
        )
    return [servicer.mount(scorer, settings.server.deadline_cap_s)]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "the cross-encoder", MemberRole.CROSS_ENCODER))
