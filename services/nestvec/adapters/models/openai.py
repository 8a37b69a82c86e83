"""Any endpoint that speaks OpenAI's POST /embeddings.

Always asked for the full dimension, and truncated here: a provider's own cut may leave out the
renormalising, and takes the full vector away for good. Source:
https://platform.openai.com/docs/api-reference/embeddings/create
"""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from nestvec.adapters.models.card import ModelCard
from nestvec.adapters.models.retries import Retries, wait_asked_for
from nestvec.adapters.models.settings import OPENAI_URL, EndpointSettings
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError, InvalidRequest, WorkerUnavailable
from nestvec.core.space import Space

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_CALLERS_FAULT = frozenset({400, 413, 422})
_LONGEST_QUOTE = 300


class OpenAIModel:
    """One model behind one endpoint. Its client keeps connections and may be shared by threads."""

    def __init__(self, model: str, card: ModelCard | None, settings: EndpointSettings) -> None:
        """model: the name that the endpoint knows it by.

        Raises ConfigError for settings that cannot work, and, unless `probe` is off, for a key,
        model or dimension that the endpoint refuses; WorkerUnavailable when it does not answer.
        """
        url, key = _address(settings)
        if card is not None and card.tasks.query:
            raise ConfigError(
                f"{card.name} chooses an adapter by role, which an OpenAI-compatible endpoint "
                f"cannot be asked for; run it with kind: sentence_transformers"
            )
        self._model = model
        self._url = url
        self._settings = settings
        self._retries = Retries(settings.attempts, settings.backoff_s, settings.longest_wait_s)
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(settings.timeout_s, connect=settings.connect_timeout_s),
            headers={"authorization": f"Bearer {key}"} if key else {},
        )
        self._key = key
        self._closed = threading.Event()
        self._dim = card.dim if card else settings.dim
        try:
            self._space = self._find_space(card)
        except BaseException:
            self._client.close()
            raise

    def __repr__(self) -> str:
        return f"OpenAIModel({self._model!r}, {self._url!r})"

    @property
    def space(self) -> Space:
        return self._space

    @property
    def inline_texts(self) -> int:
        return 0

    def embed(self, texts: Sequence[str]) -> Floats:
        """Raises WorkerUnavailable when the endpoint does not give what was asked for, and
        InvalidRequest when it refuses a text (most often as too long).
        """
        try:
            batches = [self._request(batch) for batch in self._batches(texts)]
        except ConfigError as error:  # a key revoked, a model taken down: it worked at load
            raise WorkerUnavailable(str(error)) from None
        for batch in batches:
            if batch.shape[1] != self._dim:
                raise WorkerUnavailable(
                    f"{self._url} answered {batch.shape[1]} dimensions, expected {self._dim}; "
                    f"it serves another model than {self._model} now, or shortens"
                )
        return np.concatenate(batches) if batches else np.empty((0, self._dim), np.float32)

    def close(self) -> None:
        """Close connections; a call that waits to try again gives up."""
        self._closed.set()
        self._client.close()

    def _find_space(self, card: ModelCard | None) -> Space:
        given = self._probe() if self._settings.probe or not self._dim else self._dim
        card = card or ModelCard(self._model, self._settings.dim or given)
        card.require_dim(given, f"{self._model} at {self._url}")
        self._dim = card.dim
        return card.space(self._settings.revision)

    def _probe(self) -> int:
        """How many dimensions the endpoint gives."""
        try:
            return int(self._request(["dimension"]).shape[1])
        except InvalidRequest as error:
            raise ConfigError(f"{self._url} refused a first request: {error.message}") from None

    def _batches(self, texts: Sequence[str]) -> Iterator[list[str]]:
        batch: list[str] = []
        chars = 0
        for text in texts:
            full = len(batch) == self._settings.batch_texts
            if batch and (full or chars + len(text) > self._settings.batch_chars):
                yield batch
                batch, chars = [], 0
            batch.append(text)
            chars += len(text)
        if batch:
            yield batch

    def _request(self, texts: list[str]) -> Floats:
        """One request, tried again while that may help."""
        body: dict[str, object] = {
            "model": self._model,
            "input": texts,
            "encoding_format": self._settings.encoding,
        }
        if self._settings.send_dimensions:
            body["dimensions"] = self._dim
        fault = "was not asked"
        asked_s: float | None = None
        for attempt in range(self._retries.attempts):
            if self._closed.wait(self._retries.pause_s(attempt, asked_s)):
                raise WorkerUnavailable(f"{self._url}: the model was closed")
            asked_s = None
            try:
                response = self._client.post(f"{self._url}/embeddings", json=body)
            except httpx2.TimeoutException as error:
                fault = f"did not answer in time ({type(error).__name__})"
                continue
            except (httpx2.HTTPError, RuntimeError) as error:  # RuntimeError: closed meanwhile
                fault = f"cannot be reached ({type(error).__name__}: {self._quote(str(error))})"
                continue
            if response.status_code not in _RETRIED:
                return self._read(response, len(texts))
            fault = f"answered HTTP {response.status_code}: {self._reason(response)}"
            asked_s = wait_asked_for(response.headers.get("retry-after"))
        raise WorkerUnavailable(
            f"{self._url} {fault}; tried {self._retries.attempts} times, "
            f"check the endpoint, or raise endpoint.attempts or endpoint.timeout_s"
        )

    def _read(self, response: httpx2.Response, count: int) -> Floats:
        status = response.status_code
        if status in _CALLERS_FAULT:
            raise InvalidRequest(
                "texts", f"{self._model} refused them (HTTP {status}): {self._reason(response)}"
            )
        if status in (401, 403):
            # The provider's own words may quote a part of the key.
            raise ConfigError(
                f"{self._url} refused the API key (HTTP {status}); check what "
                f"endpoint.api_key_env or endpoint.api_key_file names"
            )
        if status != 200:
            raise ConfigError(
                f"{self._url}/embeddings answered HTTP {status}: {self._reason(response)}; "
                f"check endpoint.url and the model's name, {self._model!r}"
            )
        try:
            return self._vectors(response.json(), count)
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
            raise WorkerUnavailable(
                f"{self._url} answered what is no list of embeddings "
                f"({type(error).__name__}: {self._quote(str(error))})"
            ) from None

    def _vectors(self, body: Any, count: int) -> Floats:
        data = body["data"]
        order = [item["index"] for item in data]
        if sorted(order) != list(range(count)):
            raise WorkerUnavailable(
                f"{self._url} answered {len(order)} embeddings numbered "
                f"{self._quote(str(order))}, expected {count} numbered from 0"
            )
        decoded = [_decode(item["embedding"]) for item in data]
        if len({len(vector) for vector in decoded}) != 1:
            raise ValueError("embeddings of several lengths")
        vectors = np.empty((count, len(decoded[0])), np.float32)
        vectors[order] = decoded
        if not np.isfinite(vectors).all():
            raise WorkerUnavailable(f"{self._url} answered NaN or infinite values")
        return vectors

    def _reason(self, response: httpx2.Response) -> str:
        try:
            body = response.json()
            error = body.get("error", body)
            text = error.get("message", error) if isinstance(error, dict) else error
        except (ValueError, AttributeError):
            text = response.text
        return self._quote(str(text))

    def _quote(self, text: str) -> str:
        """Another's words, on one line, short, and without our key."""
        text = " ".join(text.split())
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


def _decode(embedding: Any) -> Floats:
    """(dim,) float32 of base64 (little-endian float32) or of a list: some servers answer a list
    whatever they were asked for.
    """
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    vector = np.asarray(embedding, np.float32)
    if vector.ndim != 1:
        raise ValueError(f"an embedding of shape {vector.shape}")
    return vector


def _address(settings: EndpointSettings) -> tuple[str, str]:
    """The base URL without a trailing slash, and the key, or "" where there is none."""
    url = (settings.url or OPENAI_URL).rstrip("/")
    try:
        parts = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"endpoint.url {url!r} is no URL ({error})") from None
    if parts.userinfo:
        raise ConfigError("endpoint.url holds a password; name the key in endpoint.api_key_env")
    if parts.scheme not in ("http", "https") or not parts.host or parts.query:
        raise ConfigError(f"endpoint.url is {url!r}, expected a base like http://127.0.0.1:8000/v1")
    # OpenAI's key must never reach another provider because its variable happens to be set.
    env = settings.api_key_env
    if not settings.url and not settings.api_key_file:
        env = env or "OPENAI_API_KEY"
    return url, _read_key(env, settings.api_key_file)


def _read_key(env: str, file: str) -> str:
    if file:
        try:
            key = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"endpoint.api_key_file {file}: cannot be read ({error})") from None
        where = f"endpoint.api_key_file {file}"
    elif env:
        key, where = os.environ.get(env, "").strip(), f"environment variable {env}"
    else:
        return ""
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{where} holds no API key; set it to the endpoint's key")
    return key
