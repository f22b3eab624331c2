"""Attention that cannot see across the segments of a packed row.

On CPU, attention loops over the segments and calls sdpa(is_causal=True) on each: the work is the sum of the squared
segment lengths, and no ctx x ctx mask is ever built (a 4,096-token row of 100-token answers needs 2.5 % of the full
square). Elsewhere transformers derives the same isolation from position_ids alone, which holds only while
attention_mask and past_key_values are both None.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention

SEGMENTS: Final = "gristmill_segments"


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segment_lengths: list[int] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment.

    `query` is (1, heads, length, dim), `key` and `value` (1, kv_heads, length, dim); `segment_lengths` sums to length.
    Returns (1, length, heads, dim). Raises `ValueError` when a model does not hand the segments down.
    """
    if segment_lengths is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError("packed attention needs segment_lengths, one flat row and no attention_mask")
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    parts = []
    pieces = [torch.split(tensor, segment_lengths, dim=2) for tensor in (query, key, value)]
    for q, k, v in zip(*pieces, strict=True):
        length = q.shape[2]
        band = _band(length, sliding_window, q.device) if sliding_window and length > sliding_window else None
        parts.append(
            scaled_dot_product_attention(
                q, k, v, attn_mask=band, dropout_p=dropout, is_causal=band is None, scale=scaling
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _band(length: int, window: int, device: torch.device) -> torch.Tensor:
    """A causal mask (length, length) that reaches back `window` positions."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def _no_mask(*_: Any, **__: Any) -> None:
    """The segments are the mask."""


def register() -> None:
    """Make `gristmill_segments` known to transformers (again is harmless)."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(SEGMENTS, segment_attention)
    AttentionMaskInterface.register(SEGMENTS, _no_mask)


def choose(config: Any, device: str) -> str:
    """The backend for a model on a device: per segment on CPU, else sdpa; eager where scores are soft-capped."""
    text = config.get_text_config()
    if getattr(text, "attn_logit_softcapping", None):
        return "eager"
    return SEGMENTS if device == "cpu" else "sdpa"
