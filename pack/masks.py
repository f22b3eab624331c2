"""Character spans to token masks, and the check that every mask passes before it leaves.

Tokens spell bytes: when the bytes of the ids equal the text, cumulative lengths are exact borders. Otherwise (a
normalizer changed the text) the library's character offsets are used and the decoded spans are compared.
A token that overlaps a trained span is trained, so one straddling header and answer is.
Cost: about 10 us a record and 0.05 us a token.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pack.engines import Ids
from pack.rendering import TemplateFailed
from pack.tokenizing import Tokenizer

Span = tuple[int, int]


@dataclass(slots=True)
class Tokens:
    """Ids and their borders, in bytes of the UTF-8 text when `exact`, else in characters."""

    ids: Ids
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    exact: bool


def borders(tokenizer: Tokenizer, raw: bytes, ids: Ids) -> Tokens | None:
    """The borders of the tokens that spell `raw`, None when they spell something else (a normalizer's work)."""
    if spell(tokenizer, ids) != raw:
        return None
    widths = tokenizer.token_lengths[ids]
    ends = np.cumsum(widths)
    return Tokens(ids, ends - widths, ends, True)


def spell(tokenizer: Tokenizer, ids: Ids) -> bytes | None:
    """The bytes some ids spell, None for a tokenizer whose tokens spell nothing fixed."""
    table = tokenizer.token_bytes
    return None if table is None else b"".join(map(table.__getitem__, ids.tolist()))


def utf8(text: str) -> bytes:
    """The text's bytes. Raises TemplateFailed("bad-unicode") for a lone surrogate, which has none."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise TemplateFailed("bad-unicode", "a lone surrogate") from None


def by_offsets(ids: Sequence[int], offsets: Sequence[Span], length: int) -> tuple[Tokens, int]:
    """Borders from the library's character offsets, and the text's length; an empty offset counts as one character."""
    pairs = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    ends = np.maximum(pairs[:, 1], pairs[:, 0] + 1)
    return Tokens(np.array(ids, dtype=np.int32), pairs[:, 0], ends, False), length


def join(chunks: Sequence[tuple[Tokens, int]]) -> Tokens:
    """The tokens of consecutive pieces of one text as one, borders shifted."""
    bases = np.cumsum([0, *(length for _, length in chunks)]).tolist()
    starts = np.concatenate([part.starts + base for (part, _), base in zip(chunks, bases, strict=False)])
    ends = np.concatenate([part.ends + base for (part, _), base in zip(chunks, bases, strict=False)])
    return Tokens(np.concatenate([part.ids for part, _ in chunks]), starts, ends, False)


def to_bytes(text: str, spans: Sequence[Span]) -> list[Span]:
    """Character spans of a text as byte spans of its UTF-8; spans in ascending order."""
    if text.isascii():
        return list(spans)
    found, at, size = [], 0, 0
    for start, end in spans:
        size += len(text[at:start].encode())
        width = len(text[start:end].encode())
        found.append((size, size + width))
        size, at = size + width, end
    return found


def token_ranges(tokens: Tokens, spans: Sequence[Span]) -> list[Span]:
    """Token ranges [a, b) that overlap each span (in the tokens' own unit)."""
    flat = np.array(spans, dtype=np.int64).reshape(-1, 2)
    first = np.searchsorted(tokens.ends, flat[:, 0], side="right")
    last = np.searchsorted(tokens.starts, flat[:, 1], side="left")
    return [(int(a), int(b)) for a, b in zip(first, last, strict=True)]


def check(tokens: Tokens, mask: NDArray[np.bool_], spans: Sequence[Span], stops: Sequence[int | None]) -> None:
    """Refuse a mask that is not exactly the spans, each ending in its terminator.

    Every token that overlaps a span must be trained, no other, and a span's last token must be its terminator.
    Raises TemplateFailed: no-trained-token, span-mismatch, no-terminator.
    """
    if not mask.any():
        raise TemplateFailed("no-trained-token")
    covered = np.zeros(len(mask), dtype=np.bool_)
    for (a, b), (_, end), stop in zip(token_ranges(tokens, spans), spans, stops, strict=True):
        if stop is not None and (b == 0 or tokens.ids[b - 1] != stop or tokens.ends[b - 1] != end):
            raise TemplateFailed("no-terminator", "a trained span does not end with its terminator")
        covered[a:b] = True
    if not np.array_equal(covered, mask):
        raise TemplateFailed("span-mismatch", "the mask is not the trained spans")


def same_text(decoded: str, text: str) -> bool:
    """Whether a decoded span holds a text, but for what normalizers change."""
    return _plain(text) in _plain(decoded)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("▁", " ").strip()
