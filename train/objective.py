"""The loss of a packed batch: the sum of cross-entropies over its trained tokens, and nothing else.

The LM head runs only where the next token is trained, so untrained positions have no logits and no gradient. The sum is
divided by the trained tokens of the *whole* optimizer step (all micro-batches, all processes), which makes
accumulation and data parallelism exact for unequal rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from pack.shards import IGNORE
from train.attention import SEGMENTS, Segments
from train.data import Batch


class PackedLoss(torch.nn.Module):
    """Wraps a causal language model; `forward` gives the loss of each kept position."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def flat(self) -> bool:
        """Whether the backend wants one flat row (per-segment attention) rather than a stack of rows."""
        return bool(self.model.config._attn_implementation == SEGMENTS)

    def logits(self, batch: Batch, keep: torch.Tensor | int) -> torch.Tensor:
        """The logits (rows, n, vocabulary) at `keep`: positions (n,), or 0 for all of them."""
        extra = {"segments": Segments(batch.lengths)} if batch.lengths is not None else {}
        out = self.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=keep,
            **extra,
        )
        logits: torch.Tensor = out.logits
        return logits

    def forward(self, batch: Batch) -> torch.Tensor:
        """Cross-entropy (rows, n) in float32 at the kept positions; 0 where a row does not train that position."""
        logits = self.logits(batch, batch.keep).float()
        losses = cross_entropy(
            logits.reshape(-1, logits.shape[-1]), batch.targets.reshape(-1), ignore_index=IGNORE, reduction="none"
        )
        return losses.view(batch.targets.shape)
