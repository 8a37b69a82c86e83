"""Measured queries, kept in a file where the settings say so: vectors and figures, never texts.

A vector is nearly as telling as the text that it was made of: off unless told to.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from nestvec.core.codec import floats_to_bytes
from nestvec.core.errors import ConfigError
from nestvec.core.sampled import SampledAnswer
from nestvec.quality.live_recall import Outcome

# The file is put aside as FILE.1, in place of the one before, when it has grown to this.
_LARGEST_BYTES = 64 * 1024 * 1024


class KeptQueries:
    """One JSON object a line; `vector` is base64 of little-endian float32. Blocking."""

    def __init__(self, path: Path, largest_bytes: int = _LARGEST_BYTES) -> None:
        """Raises ConfigError when the file cannot be written."""
        self._path = path
        self._largest_bytes = largest_bytes
        try:
            with path.open("a", encoding="utf-8"):
                # Readable by nobody else: it is made of what people asked.
                path.chmod(0o600)
        except OSError as error:
            raise ConfigError(
                f"live_recall.keep_queries: {path} cannot be written ({error.strerror}); name a "
                f"file in a folder that exists, or leave it out"
            ) from None

    def write(self, measured: Sequence[tuple[SampledAnswer, Outcome]]) -> None:
        """Append them."""
        if self._path.exists() and self._path.stat().st_size >= self._largest_bytes:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        with self._path.open("a", encoding="utf-8") as file:
            self._path.chmod(0o600)
            for sample, one in measured:
                file.write(json.dumps(_line(sample, one)) + "\n")


def _line(sample: SampledAnswer, one: Outcome) -> dict[str, object]:
    return {
        "collection": sample.collection.name,
        "generation": sample.collection.generation,
        "fingerprint": sample.collection.space.fingerprint,
        "search_class": sample.search_class,
        "coarse_dim": sample.coarse_dim,
        "k": sample.k,
        "measured_at": round(one.at_s, 3),
        "recall": one.recall,
        "lost": {cause.value: share for cause, share in one.lost.items()},
        "vector": base64.b64encode(floats_to_bytes(sample.vector)).decode("ascii"),
    }
