"""Encoding damage: UTF-8 that was read as Latin-1 or Windows-1252.

Such text holds runs of a lead character (U+00C2 to U+00F4) and continuation characters that, taken as bytes again,
decode as UTF-8 to fewer characters. The idea of testing by re-decoding is ftfy's. Sound text can decode too
("é »", "“CAFÉ”", "5 Å²"), so one lone sequence counts only where its characters have no business together:
`_strong` says when. Two sequences side by side need one that is not made of closing punctuation.
Cost: a regular expression over texts that hold a candidate; `CANDIDATE` is the superset for a vectorised search.
"""

from __future__ import annotations

import re
from typing import Final

# What Windows-1252 shows for the bytes 80 to 9F; where it has no character, the C1 control of the same number stands.
_HIGH: Final = "".join(
    bytes([code]).decode("cp1252") if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else chr(code)
    for code in range(0x80, 0xA0)
)
_TO_BYTE: Final = {ord(char): 0x80 + at for at, char in enumerate(_HIGH)}
_FOLLOW: Final = "\u0080-\u00bf" + "".join(sorted({char for char in _HIGH if ord(char) > 0xFF}))
CANDIDATE: Final = f"[\u00c2-\u00f4][{_FOLLOW}]"
_SEQUENCE: Final = f"(?:[\u00c2-\u00df][{_FOLLOW}]|[\u00e0-\u00ef][{_FOLLOW}]{{2}}|[\u00f0-\u00f4][{_FOLLOW}]{{3}})"
_RUN: Final = re.compile(f"(?:{_SEQUENCE})+")
_ONE: Final = re.compile(_SEQUENCE)
# What may rightly stand after a letter: closing and separating punctuation, ordinals, marks, spaces.
_CLOSING: Final = frozenset("\u00a0»«”’“‘„‚…–—›‹®™©ªº°¹²³·•¡¿§¶")


def mojibake(text: str) -> list[tuple[int, int]]:
    """The spans of misread UTF-8 in a text, in characters."""
    found = []
    for run in _RUN.finditer(text):
        pieces = [(one.start() + run.start(), one.group()) for one in _ONE.finditer(run.group())]
        valid = [(at, piece) for at, piece in pieces if _decodes(piece)]
        solid = [(at, piece) for at, piece in valid if not _CLOSING.issuperset(piece[1:])]
        if (len(valid) > 1 and solid) or any(_strong(text[at - 1 : at] if at else "", piece) for at, piece in valid):
            found.append((valid[0][0], valid[-1][0] + len(valid[-1][1])))
    return found


def _decodes(piece: str) -> bool:
    try:
        return len(piece.translate(_TO_BYTE).encode("latin-1").decode("utf-8")) < len(piece)
    except (UnicodeDecodeError, UnicodeEncodeError):
        return False


def _strong(before: str, piece: str) -> bool:
    """Whether one sequence by itself, after the character `before`, is evidence enough."""
    lead, rest = piece[0], piece[1:]
    if any("\u0080" <= char <= "\u009f" for char in rest):  # C1 controls are in no sound text
        return True
    closing = _CLOSING.issuperset(rest)
    if lead in "ÃÂ":  # U+0080 to U+00FF: the most common damage; capitals may end before a closing mark
        return not (closing and before.isupper())
    if lead in "ÄÅ":  # U+0100 to U+017F inside a word; by itself Å is a unit
        return not closing and before.islower()
    if lead == "â":
        return not closing
    return len(rest) > 1 and not any(char in _CLOSING for char in rest)
