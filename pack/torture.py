"""Nasty texts, always the same: what an engine must encode exactly as `tokenizers` does before it is trusted.

Control tokens glued and spaced, every plane of Unicode, runs of white space, digits, code, words of 100 kB.
Cost: 650 to 1,150 texts, 0.25 MB; 0.15 s for `tokenizers`.
"""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Iterable

_SPACES = (" ", "\t", "\n", "\r", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\x0b", "\x0c")
_WORDS = (
    "the",
    "don't",
    "I'LL",
    "we've",
    "naïve",
    "Straße",
    "ΑΒγ",
    "дом",
    "שלום",
    "مرحبا",
    "नमस्ते",
    "日本語",
    "한국어",
    "ไทย",
    "🙂",
    "👩‍👩‍👧",
    "x_1",
    "3.14",
    "1,000,000",
    "0xFF",
    "$5",
    "100%",
    "a=b;",
    "->",
    "!=",
    "/*",
    "*/",
    "{{",
    "}}",
    "\\n",
    "<b>",
    "https://a.b/c?d=e",
)
_CODE = """def f(x):\n\tif x > 1:\n        return {"a": [x**2, 'b']}  # done\n\n\n    raise ValueError(f"{x!r}")\r\n"""


def torture(control: Iterable[str] = ()) -> list[str]:
    """The corpus, with the tokenizer's own control tokens (a sample of at most 64) mixed in."""
    rng = random.Random(20_240_229)
    tokens = sorted(control)
    tokens = sorted(rng.sample(tokens, 64)) if len(tokens) > 64 else tokens
    texts = [
        "",
        " ",
        "\n",
        "a",
        _CODE,
        _CODE * 40,
        "x" * 100_000,
        "é" * 50_000,
        "9" * 20_000,
        " " * 20_000,
        "\n" * 5_000,
    ]
    texts += [space * n + tail for space in _SPACES for n in (1, 2, 3, 7, 16, 33) for tail in ("", "a", "1", "\n")]
    texts += [str(rng.randrange(10**n)) for n in range(1, 24)]
    for token in tokens:
        texts += [
            token,
            f"a{token}b",
            f" {token} ",
            f"{token}{token}",
            f"{token}\n\nx",
            token[:-1],
            token[1:],
            f"<{token}>",
        ]
    texts += list(_planes())
    for _ in range(300):
        pieces = rng.choices([*_WORDS, *_SPACES, *tokens[:8]], k=rng.randrange(2, 40))
        texts.append("".join(piece + rng.choice(("", " ", " ", "\n")) for piece in pieces))
    return texts


def _planes() -> Iterable[str]:
    """Every 7th assigned, non-combining character of all planes, in texts of 64 with a letter between."""
    codes = (c for c in range(0x20, sys.maxunicode + 1, 7) if c < 0x3000 or c % 49 == 0)
    chars = [chr(c) for c in codes if _plain(chr(c))]
    for start in range(0, len(chars), 64):
        yield "a".join(chars[start : start + 64])


def _plain(char: str) -> bool:
    # Combining and unassigned characters are the known difference (see `engines`): they are routed, not tested.
    return unicodedata.category(char) not in ("Cn", "Cs", "Co", "Mn", "Mc", "Me") and unicodedata.is_normalized(
        "NFC", char
    )
