"""What a training starts from: a static table or a transformer, as a SentenceTransformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from nestvec.adapters.models.static import WEIGHTS_FILE, read_weights
from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import ConfigError
from nestvec.training.agreement import unit
from nestvec.training.lead_embedding import LeadEmbedding

# What tells a static model of ours from others that keep a model.safetensors.
_INT8 = "embedding.int8"


def open_base(place: str, device: str = "cpu") -> SentenceTransformer:
    """The model in a folder, or of that name on the hub; a static one of ours among them.

    Raises ConfigError when it cannot be loaded, or has no tokenizer of its own.
    """
    folder = Path(place)
    if folder.is_dir():
        _require_tokenizer(folder)
        if (own := _own_table(folder)) is not None:
            table, lead = own
            return static_base(table, read_tokenizer(folder / "tokenizer.json"), lead)
    try:
        model = SentenceTransformer(place, device=device)
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"base {place} cannot be loaded: {reason}; expected a static model of nestvec, a "
            f"sentence-transformers folder, or a hub name that this machine reaches"
        ) from error
    if getattr(model, "tokenizer", None) is None:
        raise ConfigError(f"base {place} has no tokenizer: nothing can turn its texts into tokens")
    # A model may carry a length that its vectors are cut to; it is trained at its full one.
    model.truncate_dim = None
    return model


def static_base(table: Floats, tokenizer: Tokenizer, lead: float = 0.0) -> SentenceTransformer:
    """A model that is the mean of its tokens' rows, earlier ones counting for more where there is
    a `lead` (adapters.models.lead). table: (vocabulary, dim) float32.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    module: StaticEmbedding
    if lead:
        module = LeadEmbedding(tokenizer, table, lead=lead)
    else:
        # One that the library loads again by itself, wherever it is saved.
        module = StaticEmbedding(tokenizer, table)
    return SentenceTransformer(modules=[module], device="cpu")


def lead_of(model: SentenceTransformer) -> float:
    """In tokens, of one that `is_static`; 0 where all tokens count alike."""
    static: Any = model[0]
    return static.lead if isinstance(static, LeadEmbedding) else 0.0


def table_of(model: SentenceTransformer) -> Floats:
    """(vocabulary, dim) float32: of one that `is_static`, as it is now."""
    static: Any = model[0]
    table: Floats = static.embedding.weight.detach().numpy().copy()
    return table


def set_table(model: SentenceTransformer, table: Floats) -> None:
    """Put another table in the place of `table_of(model)`, as large."""
    static: Any = model[0]
    weight = static.embedding.weight.data
    weight.copy_(weight.new_tensor(table))


def is_static(model: SentenceTransformer) -> bool:
    """Whether it can be served without torch."""
    return len(model) == 1 and isinstance(model[0], StaticEmbedding)


def read_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer.json. Raises ConfigError."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001  the library raises bare Exception
        raise ConfigError(f"{path}: cannot be read as a tokenizer ({error})") from None


def _require_tokenizer(folder: Path) -> None:
    """The library makes an empty tokenizer of a folder without one, and trains with it."""
    names = ("tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "tokenizer.model")
    if not any(path.name in names for path in folder.rglob("*")):
        raise ConfigError(
            f"base {folder} has no tokenizer ({', '.join(names)}): nothing can turn texts into "
            f"the tokens that it was trained on; copy it from where the weights are from"
        )


def _own_table(folder: Path) -> tuple[Floats, float] | None:
    """(vocabulary, dim) float32, and the lead."""
    from safetensors import safe_open

    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        return None
    with safe_open(weights, "numpy") as tensors:
        if _INT8 not in tensors.keys():  # noqa: SIM118  it is no mapping
            return None
    rows, row_scale, column_scale, lead = read_weights(weights)
    table: Floats = rows.astype(np.float32)
    table *= row_scale[:, None]
    table *= column_scale
    return table, lead


def token_vectors(teacher: SentenceTransformer, token_ids: Ids, batch: int = 1_024) -> Floats:
    """(n, teacher's dim) float32, unit rows: the teacher's output for each token alone, between
    the special tokens that it puts around every text.
    """
    import torch

    tokenizer: Any = teacher.tokenizer
    before, after = tokenizer.cls_token_id, tokenizer.sep_token_id
    if before is None or after is None:
        raise ConfigError("the teacher's tokenizer has no [CLS] and [SEP]; take one of BERT's kind")
    parts = []
    for start in range(0, len(token_ids), batch):
        tokens = torch.from_numpy(token_ids[start : start + batch])
        around = [torch.full_like(tokens, before), tokens, torch.full_like(tokens, after)]
        inputs = torch.stack(around, dim=1)
        with torch.no_grad():
            output = teacher({"input_ids": inputs, "attention_mask": torch.ones_like(inputs)})
        parts.append(output["sentence_embedding"].numpy())
    return unit(np.concatenate(parts).astype(np.float32))
