"""A static table of which earlier tokens count for more, as sentence-transformers trains it."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from torch import Tensor
from torch.nn.functional import embedding_bag

from nestvec.adapters.models.lead import lead_weights


class LeadEmbedding(StaticEmbedding):
    """What nestvec.adapters.models.static serves, lead and all."""

    def __init__(self, *named: Any, lead: float = 0.0, **more: Any) -> None:
        """lead: in tokens (lead_weights); 0 counts all alike, and is what the library gives when it
        loads a checkpoint, of which only the numbers are taken. The rest is the library's.
        """
        super().__init__(*named, **more)
        self.lead = lead

    def forward(self, features: dict[str, Tensor], **named: Any) -> dict[str, Tensor]:
        del named
        tokens, offsets = features["input_ids"], features["offsets"]
        ends = torch.cat([offsets[1:], offsets.new_tensor([len(tokens)])])
        lengths = ends - offsets
        longest = int(lengths.max()) if len(lengths) else 0
        weights = torch.from_numpy(lead_weights(longest, self.lead)).to(tokens.device)
        positions = torch.arange(len(tokens), device=tokens.device)
        each = weights[positions - torch.repeat_interleave(offsets, lengths)]
        totals = torch.cat([weights.new_zeros(1), weights.cumsum(0)])[lengths].clamp(min=1e-12)
        sums = embedding_bag(
            tokens, self.embedding.weight, offsets, mode="sum", per_sample_weights=each
        )
        features["sentence_embedding"] = sums / totals[:, None]
        return features
