"""What a word is, for every comparison of texts by words.

The rule: NFKC, then lower case, then runs of `\\w` characters; each Han or kana character is a word of its own, because
those scripts put no space between words. `words` is that rule in Python, and the oracle of the kernels.

`wide_table` lets a kernel apply the rule one character at a time below U+20000: a separator, a word character (its lower-case
form), a character that is a word alone, or COMPLEX where the rule needs its neighbours (combining marks, conjoining
jamo, final sigma) or gives several characters (ligatures). A text with a COMPLEX character goes through `canonical`.

Cost: the table takes about 0.1 s once a process, on the first text that is not ASCII; `words` about 10 MB/s.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

ALONE_SCRIPTS: Final = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U0001b000-\U0001b16f\U00020000-\U0003347f"
)
WORD: Final = re.compile(rf"(?=\w)[{ALONE_SCRIPTS}]|[^\W{ALONE_SCRIPTS}]+")
_ALONE: Final = re.compile(rf"[{ALONE_SCRIPTS}]")

LIMIT: Final = 0x20000
COMPLEX: Final = np.uint32(0xFFFFFFFF)
ALONE: Final = np.uint32(0x80000000)
_FINAL_SIGMA: Final = "\u03a3"


def words(text: str) -> list[str]:
    """The words of a text."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def canonical(text: str) -> bytes:
    """The words of a text joined by single spaces, UTF-8: what a kernel can split without knowing Unicode."""
    return " ".join(words(text)).encode()


@lru_cache(maxsize=1)
def wide_table() -> NDArray[np.uint32]:
    """For each code point below LIMIT: 0 separator, COMPLEX, ALONE | lower-case form, or the lower-case form."""
    unsafe = _followers() | {_FINAL_SIGMA}
    normalize = unicodedata.normalize
    table = np.zeros(LIMIT, np.uint32)
    table[0x80:] = [_kind(normalize("NFKC", chr(point)), unsafe) for point in range(0x80, LIMIT)]
    table[0xD800:0xE000] = COMPLEX
    table.flags.writeable = False
    return table


def _kind(normal: str, unsafe: set[str]) -> int:
    """How a character with this NFKC form behaves whatever stands beside it; COMPLEX when that is not so."""
    lower = normal.lower()
    if len(normal) == 1 == len(lower):  # nearly all; str.isalnum and _ are what \w matches
        if normal in unsafe or unicodedata.combining(normal):
            return int(COMPLEX)
        if lower.isalnum() or lower == "_":
            return ord(lower) | (int(ALONE) if _ALONE.match(lower) else 0)
        return 0
    if any(c in unsafe or unicodedata.combining(c) for c in normal) or WORD.search(lower):
        return int(COMPLEX)
    return 0


def _followers() -> set[str]:
    """Characters that may compose with the one before: second halves of canonical pairs, vowel and final jamo."""
    found = {chr(point) for point in (*range(0x1161, 0x1176), *range(0x11A7, 0x11C3))}
    for mapping in filter(None, map(unicodedata.decomposition, map(chr, range(LIMIT)))):  # beyond are no pairs
        parts = mapping.split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return found
