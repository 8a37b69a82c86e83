"""From the settings to a server's port and to channels: TLS, who may call, what one may take."""

from __future__ import annotations

import functools
import resource
from pathlib import Path

from nestvec.config import Settings
from nestvec.rpc.channels import PLAIN, ChannelSecurity, token_header
from nestvec.rpc.server import ServerLimits, ServerSecurity
from nestvec.security.certificates import reloaded_material, server_credentials
from nestvec.security.files import TokenFile
from nestvec.security.identity import region_host
from nestvec.security.opening import open_security
from nestvec.security.settings import PortTlsSection, require_guarded

# After so long a connection with TLS is made anew, where the settings do not say.
_AGE_WITH_TLS_S = 3600.0


def check_security(settings: Settings) -> None:
    """Raise ConfigError for a port beyond this machine that anyone could call, and for files that
    cannot be used.
    """
    server_security(settings)


def server_security(settings: Settings) -> ServerSecurity:
    """Of this process's port. Raises ConfigError, for a port beyond this machine that anyone could
    call, too.
    """
    section, regions = settings.server, settings.regions
    require_guarded(section.host, "server.host", settings.security, section.insecure)
    others = [one.name for one in regions.map if one.name != regions.here]
    opened = open_security(settings.security, others, list(regions.collections))
    credentials = None if opened.tls is None else server_credentials(opened.tls)
    return ServerSecurity(credentials, opened.guard)


def server_limits(settings: Settings) -> ServerLimits:
    """What a server takes, as far as this process may have so many files open."""
    section = settings.server
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = section.max_connections
    if files != resource.RLIM_INFINITY:
        # The rest is for the store, for other processes and for files.
        connections = max(1, min(connections, files * 3 // 4))
    default_age_s = None if settings.security.tls is None else _AGE_WITH_TLS_S
    return ServerLimits(
        section.max_message_bytes,
        section.max_concurrent_calls,
        section.drain_s,
        section.max_streams_per_connection,
        connections,
        section.connection_age_s or default_age_s,
        section.connection_idle_s,
    )


def channel_security(settings: Settings, region: str | None = None) -> ChannelSecurity:
    """Of channels to other processes of nestvec. region: of another region, whose certificate must
    name it. Raises ConfigError.
    """
    section = settings.security
    if section.tls is None and section.token_file is None:
        return PLAIN
    security = _channel_security(section.tls, section.token_file)
    return security if region is None else security.named(region_host(region))


@functools.lru_cache(maxsize=8)
def _channel_security(section: PortTlsSection | None, token_file: Path | None) -> ChannelSecurity:
    """Kept, so that all channels of a process look at the files together."""
    return ChannelSecurity(
        None if section is None else reloaded_material(section),
        None if token_file is None else token_header(TokenFile(token_file)),
        None if section is None else section.server_name,
    )
