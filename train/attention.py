"""Attention that cannot see across the segments of a packed row.

On CPU, segments of about the same length are stacked, padded on the right, and given to one causal sdpa call: a real
token never looks at the padding behind it, so no mask is built. The work is the sum of the squared segment lengths (at
most 1.6 times that, through padding) instead of the squared row length, and calls are few however short the segments.
FlashAttention is told the same lengths (`cu_seq_lens`). The other backends derive the isolation from position_ids alone,
which holds only while attention_mask and past_key_values are both None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from curate.foundation.errors import MissingExtra, UsageError
from train.data import Batch

SEGMENTS: Final = "gristmill_segments"
FLASH: Final = "flash_attention_2"
FLAT: Final = frozenset({SEGMENTS, FLASH})  # backends that take one flat row and the lengths of its segments


class Segments:
    """Where the segments of one flat row lie, and how to stack them; made once a batch, used by every layer.

    `stacks` are index tensors (segments, width) into the row, `back` (length,) finds each position in the stacked rows.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        sizes = np.asarray(lengths)
        starts = np.cumsum(sizes) - sizes
        widths = np.array([_width(int(size)) for size in sizes])
        self.length = int(sizes.sum())
        self.stacks: list[torch.Tensor] = []
        back, before = np.empty(self.length, np.int64), 0
        for width in np.unique(widths):
            chosen = np.flatnonzero(widths == width)
            within = np.minimum(np.arange(width), sizes[chosen, None] - 1)
            index = starts[chosen, None] + within
            real = np.arange(width) < sizes[chosen, None]
            back[index[real]] = before + np.flatnonzero(real)
            before += index.size
            self.stacks.append(torch.from_numpy(index))
        self.back = torch.from_numpy(back)


def _width(size: int) -> int:
    """A length rounded up by at most a quarter, so that segments of about one length share a stack."""
    step = max(8, 1 << max(0, size.bit_length() - 3))
    return -(-size // step) * step


def segment_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each segment.

    `query` is (1, heads, length, dim), `key` and `value` (1, kv_heads, length, dim). Returns (1, length, heads, dim).
    Raises `ValueError` when a model does not hand the segments down.
    """
    if segments is None or attention_mask is not None or query.shape[0] != 1:
        raise ValueError("packed attention needs segments, one flat row and no attention_mask")
    groups = query.shape[1] // key.shape[1]
    flat = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # (length, heads, dim)
    parts = []
    for index in segments.stacks:
        count, width = index.shape
        q, k, v = (
            tensor.index_select(0, index.reshape(-1)).view(count, width, *tensor.shape[1:]).transpose(1, 2)
            for tensor in flat
        )
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        band = _band(width, sliding_window, q.device) if sliding_window and width > sliding_window else None
        out = scaled_dot_product_attention(
            q, k, v, attn_mask=band, dropout_p=dropout, is_causal=band is None, scale=scaling
        )
        parts.append(out.transpose(1, 2).reshape(count * width, *out.shape[1:2], out.shape[3]))
    stacked = torch.cat(parts) if len(parts) > 1 else parts[0]
    return stacked.index_select(0, segments.back)[None], None


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


def choose(config: Any, device: str, wanted: str = "auto", precision: str = "fp32") -> str:
    """The backend for a model on a device.

    Left to itself: eager where scores are soft-capped, per segment on CPU, FlashAttention where it is installed and the
    run is not float32, else sdpa. Raises `UsageError` or `MissingExtra` when the one that is wanted cannot run here.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if wanted == "auto":
        if capped:
            return "eager"
        if device == "cpu":
            return SEGMENTS
        return FLASH if _has_flash() and precision != "fp32" else "sdpa"
    if capped and wanted in ("segments", "sdpa"):
        raise UsageError(f"attention {wanted}: this model caps its scores", hint="use --attention eager")
    if wanted in ("flash", "flex") and device == "cpu":
        raise UsageError(f"attention {wanted} needs a GPU", hint="use --attention segments or sdpa on CPU")
    if wanted == "flash" and precision == "fp32":
        raise UsageError("attention flash runs in bf16 or fp16 only", hint="--set precision=bf16, or --attention sdpa")
    if wanted == "flash" and not _has_flash():
        raise MissingExtra("attention flash needs the package flash-attn", hint="pip install flash-attn")
    if wanted == "segments" and device != "cpu":
        raise UsageError("attention segments is for CPU", hint="use --attention flash, flex or sdpa on a GPU")
    return {"segments": SEGMENTS, "flash": FLASH, "flex": "flex_attention"}.get(wanted, wanted)


def _has_flash() -> bool:
    from transformers.utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())


def inputs(batch: Batch, backend: str) -> dict[str, Any]:
    """What a model is called with on a backend: never an attention_mask, never a cache."""
    given: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    if backend == SEGMENTS and batch.lengths is not None:
        given["segments"] = Segments(batch.lengths)
    elif backend == FLASH and batch.lengths is not None:
        edges = np.concatenate(([0], np.cumsum(batch.lengths)))
        bounds = torch.from_numpy(edges.astype(np.int32)).to(batch.input_ids.device)
        given |= {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds}
        given |= {"max_length_q": max(batch.lengths), "max_length_k": max(batch.lengths)}
    return given
