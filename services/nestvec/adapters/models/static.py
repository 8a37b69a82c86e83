"""The project's own kind of model: a table of token vectors, and their mean.

A text's vector is the mean of its tokens' rows; where the weights have a lead, earlier tokens count
for more. No special tokens, no truncation. Source: the recipe is that of Tulkens and van Dongen,
Model2Vec (2024), and of sentence-transformers' StaticEmbedding (2025), both with Matryoshka
variants.

Held in memory: the int8 rows as on disk (23 MB for 30,522 x 768), one scale a row, one factor a
column, and the tokenizer (about 15 MB). Rows become float32 only once gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from nestvec.adapters.models.card import CARD_FILE, ModelCard, card_in
from nestvec.adapters.models.digest import digest_files
from nestvec.adapters.models.lead import FURTHEST, lead_weights
from nestvec.adapters.models.words import WordTokens
from nestvec.core.arrays import Floats, Ids, Int8s
from nestvec.core.errors import ConfigError
from nestvec.core.space import Space

WEIGHTS_FILE = "model.safetensors"
TOKENIZER_FILE = "tokenizer.json"
# In the weights: (1,) float32. Where it is not there, all tokens count alike.
LEAD = "lead.tokens"

# Token rows summed at once. 256 x 768 float32 stay in the second-level cache: 1,024 rows are 15%
# slower, 4,096 three times. It also cuts long texts, always at the same places, so that a sum
# does not depend on the texts beside it.
_PIECE_TOKENS = 256
# Longer texts are tokenized in slices: a tokenizer holds some hundred bytes a token.
_SLICE_CHARS = 8_192
# How much is tokenized at once, so that memory does not grow with the batch.
_GROUP_CHARS = 65_536
_INLINE_TEXTS = 8
_QUERY_CHARS = 512


class StaticModel:
    """An embedding model without a network: 30 to 70 microseconds for a query, and no torch.

    A row depends on its own text only, to the last bit, whatever the batch.
    """

    def __init__(
        self,
        space: Space,
        tokenizer: Tokenizer,
        rows: Int8s,
        row_scale: Floats,
        column_scale: Floats,
        lead: float = 0.0,
    ) -> None:
        """rows: (vocabulary, space.dim) int8. row_scale: (vocabulary,), column_scale:
        (space.dim,) float32; a token's vector is row * row_scale * column_scale. lead: in tokens
        (lead_weights); 0 counts all alike.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._space = space
        self._tokenizer = tokenizer
        self._words = WordTokens.of(tokenizer)
        self._rows = rows
        self._row_scale = row_scale[:, None]
        self._column_scale = column_scale
        self._weights = lead_weights(FURTHEST, lead)
        # Of the first so many tokens, together.
        self._totals = np.concatenate([[0.0], np.cumsum(self._weights, dtype=np.float64)])

    @classmethod
    def load(cls, folder: Path, card: ModelCard | None = None) -> StaticModel:
        """The model in `folder`: model.safetensors, tokenizer.json and, unless given, card.json.

        Raises ConfigError when a file is missing or they do not fit together.
        """
        card = card or card_in(folder)
        if card is None:
            raise ConfigError(f"{folder} has no {CARD_FILE}; a static model needs one, or `card`")
        weights, vocabulary = folder / WEIGHTS_FILE, folder / TOKENIZER_FILE
        rows, row_scale, column_scale, lead = read_weights(weights)
        tokenizer = _read_tokenizer(vocabulary)
        card.require_dim(rows.shape[1], str(weights))
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        if highest >= len(rows):
            raise ConfigError(
                f"{vocabulary} has token ids up to {highest}, {weights} only {len(rows)} rows; "
                f"they are of two models: take both files from one"
            )
        space = card.space(digest_files(folder, [weights, vocabulary]))
        return cls(space, tokenizer, rows, row_scale, column_scale, lead)

    @property
    def space(self) -> Space:
        return self._space

    @property
    def inline_texts(self) -> int:
        return _INLINE_TEXTS

    def embed(self, texts: Sequence[str]) -> Floats:
        """The weighted mean of each text's token vectors; zero for a text without tokens."""
        if len(texts) == 1 and len(texts[0]) <= _QUERY_CHARS:
            query = self._embed_query(texts[0])
            if query is not None:
                return query
        sums = np.zeros((len(texts), self._space.dim), np.float32)
        counts = np.zeros(len(texts), np.int64)
        for owners, slices in _groups(texts):
            encodings = self._tokenizer.encode_batch_fast(slices, add_special_tokens=False)
            weights = []
            for owner, encoding in zip(owners, encodings, strict=True):
                weights.append(self._between(counts[owner], len(encoding)))
                counts[owner] += len(encoding)
            self._add(sums, owners, [encoding.ids for encoding in encodings], weights)
        within = np.minimum(counts, FURTHEST)
        totals = self._totals[within] + (counts - within) * self._weights[-1]
        sums /= np.where(counts, totals, 1.0).astype(np.float32)[:, None]
        sums *= self._column_scale
        return sums

    def _embed_query(self, text: str) -> Floats | None:
        """One short text by the same arithmetic, without what a batch needs: half the time.

        None for a text of more than one piece, or of no tokens.
        """
        tokens = self._words.ids(text) if self._words else None
        if tokens is None:
            (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
            tokens = encoding.ids
        if not 0 < len(tokens) <= _PIECE_TOKENS:
            return None
        rows = self._scaled(np.array(tokens), self._weights[: len(tokens)])
        mean: Floats = np.add.reduceat(rows, (0,), axis=0)
        mean /= self._totals[len(tokens)].astype(np.float32)
        mean *= self._column_scale
        return mean

    def close(self) -> None:
        """Nothing is held but memory."""

    def _between(self, begin: int, count: int) -> Floats:
        """(count,): what the tokens from the position `begin` on count for."""
        if begin + count <= FURTHEST:
            return self._weights[begin : begin + count]
        weights: Floats = self._weights[np.minimum(np.arange(begin, begin + count), FURTHEST - 1)]
        return weights

    def _add(
        self,
        sums: Floats,
        owners: list[int],
        token_ids: list[list[int]],
        token_weights: list[Floats],
    ) -> None:
        """Add the weighted rows of `token_ids[i]` to `sums[owners[i]]`, piece by piece."""
        tokens, starts, piece_owners = _pieces(owners, token_ids)
        if not len(tokens):
            return
        weights = np.concatenate(token_weights)
        pieces = np.empty((len(starts), sums.shape[1]), np.float32)
        first = 0
        while first < len(starts):
            begin = starts[first]
            last = max(int(np.searchsorted(starts, begin + _PIECE_TOKENS)), first + 1)
            end = starts[last] if last < len(starts) else len(tokens)
            rows = self._scaled(tokens[begin:end], weights[begin:end])
            np.add.reduceat(rows, starts[first:last] - begin, axis=0, out=pieces[first:last])
            first = last
        if len(set(piece_owners)) == len(piece_owners):
            sums[piece_owners] += pieces
        else:
            for owner, piece in zip(piece_owners, pieces, strict=True):
                sums[owner] += piece

    def _scaled(self, tokens: Ids, weights: Floats) -> Floats:
        """(len(tokens), space.dim) float32, each row times its weight. Cast, then scaled in
        place: a multiply that casts goes through numpy's buffers and takes four times as long.
        """
        rows = self._rows.take(tokens, axis=0).astype(np.float32)
        rows *= self._row_scale.take(tokens, axis=0) * weights[:, None]
        return rows


def _pieces(owners: list[int], token_ids: list[list[int]]) -> tuple[Ids, Ids, list[int]]:
    """All tokens in one row, where each piece starts in it, and whose each piece is.

    A piece is at most _PIECE_TOKENS tokens of one slice, never empty (np.add.reduceat would take
    an empty one for its neighbour's first row).
    """
    tokens = np.fromiter(chain.from_iterable(token_ids), np.int64)
    starts: list[int] = []
    piece_owners: list[int] = []
    begin = 0
    for owner, ids in zip(owners, token_ids, strict=True):
        for start in range(begin, begin + len(ids), _PIECE_TOKENS):
            starts.append(start)
            piece_owners.append(owner)
        begin += len(ids)
    return tokens, np.array(starts, np.int64), piece_owners


def _groups(texts: Sequence[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Slices of the texts in order, each with its text's number, about _GROUP_CHARS at a time."""
    owners: list[int] = []
    slices: list[str] = []
    chars = 0
    for owner, text in enumerate(texts):
        for part in (text,) if len(text) <= _SLICE_CHARS else _slices(text):
            owners.append(owner)
            slices.append(part)
            chars += len(part)
            if chars >= _GROUP_CHARS:
                yield owners, slices
                owners, slices, chars = [], [], 0
    if slices:
        yield owners, slices


def _slices(text: str) -> Iterator[str]:
    """Cut before a blank or a line's end, where no token spans. A run of _SLICE_CHARS without
    any, which is no text, is cut where it is.
    """
    start = 0
    while len(text) - start > _SLICE_CHARS:
        end = max(text.rfind(mark, start + 1, start + _SLICE_CHARS) for mark in (" ", "\n"))
        end = end if end > start else start + _SLICE_CHARS
        yield text[start:end]
        start = end
    yield text[start:]


def read_weights(path: Path) -> tuple[Int8s, Floats, Floats, float]:
    """(rows, row_scale, column_scale, lead) of a model.safetensors, as StaticModel takes them.

    Raises ConfigError where it cannot be read, or holds something else.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as safetensors ({error})") from None
    names = ("embedding.int8", "embedding.row_scale", "embedding.column_scale")
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ConfigError(
            f"{path}: no tensor {', '.join(missing)}; has {', '.join(sorted(tensors))}; expected "
            f"a static model as models/default/MODEL_CARD.md describes it"
        )
    rows, row_scale, column_scale = (tensors[name] for name in names)
    if rows.dtype != np.int8 or row_scale.shape + column_scale.shape != rows.shape:
        raise ConfigError(
            f"{path}: {rows.dtype} {rows.shape} with scales {row_scale.shape} and "
            f"{column_scale.shape}; expected int8 (n, dim) with (n,) and (dim,)"
        )
    lead = tensors.get(LEAD, np.zeros(1, np.float32))
    if lead.shape != (1,) or not (lead[0] >= 0 and np.isfinite(lead[0])):
        raise ConfigError(f"{path}: {LEAD} is {lead}; expected one number of tokens, 0 or more")
    return rows, _floats(row_scale, path), _floats(column_scale, path), float(lead[0])


def _floats(scale: NDArray[np.generic], path: Path) -> Floats:
    floats = scale.astype(np.float32)
    if not np.isfinite(floats).all():
        raise ConfigError(f"{path}: a scale is NaN or infinite; the file is damaged")
    return floats


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise ConfigError(f"{path} is missing; a static model needs its tokenizer beside it")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        raise ConfigError(f"{path}: cannot be read as a tokenizer ({error})") from None
