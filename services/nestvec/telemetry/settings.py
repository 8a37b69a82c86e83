"""The section `telemetry` of nestvec.yaml. It names files and variables that hold secrets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nestvec.security.hosts import is_loopback

# OTLP over gRPC.
DEFAULT_PORT = 4317
_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,127}")
_LONGEST_VALUE = 256
_MOST_ATTRIBUTES = 32
# Told by each process of itself.
_OWN = ("service.name", "service.version", "service.instance.id")


class _Section(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CollectorTlsSection(_Section):
    """Of an https:// endpoint. The files are read again when they change."""

    ca_file: Path | None = Field(
        None,
        description="Who may sign the collector's certificate. Unset: those the system trusts.",
    )
    cert_file: Path | None = Field(
        None, description="This process's, where the collector asks for one."
    )
    key_file: Path | None = None

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both or neither")
        return self


class TracesSection(_Section):
    """Traces, sent to an OpenTelemetry collector (OTLP over gRPC). Needs `nestvec[tracing]`."""

    endpoint: str | None = Field(
        None,
        description="http://HOST:4317, or https:// with TLS. Unset: no traces, and no cost.",
    )
    sample: float = Field(
        0.01, ge=0, le=1, description="The share of calls that are traced, of those undecided."
    )
    callers_per_s: float = Field(
        10.0,
        ge=0,
        description="Calls in a second, in each process, that are traced because their caller "
        "traces them. Further ones count as undecided. 0: callers decide nothing.",
    )
    service_name: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Unset: nestvec- and the role, as in nestvec-query.",
    )
    attributes: dict[str, str] = Field(
        default_factory=dict,
        description="Of every span's resource, as {deployment.environment.name: production}.",
    )
    headers_file: Path | None = Field(
        None,
        description="Metadata for the collector, one `name: value` a line. Read again on change.",
    )
    headers_env: str | None = Field(
        None, min_length=1, description="The variable that holds them, as name=value,name=value."
    )
    tls: CollectorTlsSection | None = None
    queue_spans: int = Field(
        4096, ge=64, le=1_000_000, description="Spans that wait to be sent; further ones are lost."
    )
    every_s: float = Field(5.0, gt=0, le=300, description="Between two sendings, at most.")
    timeout_s: float = Field(5.0, gt=0, le=60, description="Of one sending, tries again included.")

    @field_validator("endpoint")
    @classmethod
    def _reachable(cls, endpoint: str | None) -> str | None:
        if endpoint is None:
            return None
        expected = "expected http://HOST:PORT or https://HOST:PORT"
        try:
            parts = urlsplit(endpoint)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{expected} ({error})") from None
        if "@" in parts.netloc:
            raise ValueError("no user or password belongs in it; give headers_file or headers_env")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(expected)
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"{expected}, and nothing behind it: OTLP over gRPC has no path")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return f"{parts.scheme}://{host}:{DEFAULT_PORT if port is None else port}"

    @field_validator("attributes")
    @classmethod
    def _few_and_short(cls, attributes: dict[str, str]) -> dict[str, str]:
        if len(attributes) > _MOST_ATTRIBUTES:
            raise ValueError(f"{len(attributes)} of them, expected at most {_MOST_ATTRIBUTES}")
        for name, value in attributes.items():
            if not _ATTRIBUTE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an attribute, such as team.name")
            if name in _OWN:
                raise ValueError(f"{name} is each process's own; service_name changes the first")
            if not 0 < len(value) <= _LONGEST_VALUE:
                raise ValueError(
                    f"{name} has {len(value)} characters, expected 1 to {_LONGEST_VALUE}"
                )
        return attributes

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.headers_file is not None and self.headers_env is not None:
            raise ValueError("headers_file and headers_env are both given; give one of them")
        if self.endpoint is None:
            if self.tls or self.headers_file or self.headers_env:
                raise ValueError("tls and headers are for an endpoint, which is not given")
            return self
        if self.tls is not None and not self.secure:
            raise ValueError(f"endpoint is {self.endpoint}, and tls is of https://")
        if self.headers_file or self.headers_env:
            self.require_private()
        return self

    def require_private(self) -> None:
        """Raise ValueError where others could read headers on their way."""
        host = urlsplit(self.endpoint or "").hostname or ""
        if not self.secure and not is_loopback(host):
            raise ValueError(
                f"endpoint is {self.endpoint}: headers are secrets, and would be readable on the "
                f"way; use https://, or a collector on this machine"
            )

    @property
    def secure(self) -> bool:
        """Whether the way to the collector has TLS."""
        return self.endpoint is not None and self.endpoint.startswith("https:")


class TelemetrySection(_Section):
    """What a process tells of its work, beside logs (`log`) and metrics (`server.metrics_port`)."""

    traces: TracesSection = Field(default_factory=TracesSection)
