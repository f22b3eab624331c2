"""What a token is where records and evaluation items are compared, and the kernel that hashes tokens.

Words follow the rule of `curate/words.py`, as near-duplicates do: NFKC, lower case, runs of `\\w` (so digits stay), each
Han or kana character alone. Beside them the operators in OPERATORS are tokens of their own, one a character; signs
that print alike (−, ×, ÷) count as the ASCII ones. A hyphen or slash inside a word (step-by-step, and/or) is none; in
`x-y` it is. Rules that keep operators see `x - 2 = 6`, the others `x 2 6`.
`tokens` is the rule in Python and the oracle.

Cost: about 1 GB/s of ASCII a core; a text with a character that needs its neighbours (`words.py`: COMPLEX) takes Python.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.lanes import copy_bytes
from curate.splitting import Bytes, Edges, Hashes, Ints, hash_words, is_ascii, mark_words, room_for, widen, word_hash
from curate.stages.text import buffers
from curate.words import ALONE, WORD, wide_table

OPERATORS: Final = "+-*/=<>^%&|~"
ALIKE: Final = str.maketrans("−×÷∕∗∙⋅∼∣", "-*//***~|")
_HYPHEN: Final = re.compile("(?<=[a-z_]{2})[-/](?=[a-z_])|(?<=[a-z_])[-/](?=[a-z_]{2})")
_TOKEN: Final = re.compile(f"{WORD.pattern}|[{re.escape(OPERATORS)}]")

NO_WIDE: Final = np.zeros(0, np.uint32)  # the text is thought to be ASCII
PLAIN: Final = np.zeros(1, np.uint32)  # the text is tokens joined by spaces
for _table in (NO_WIDE, PLAIN):
    _table.flags.writeable = False  # as the wide table: one array kind means one compiled kernel


def tokens(text: str) -> list[str]:
    """The words and operators of a text, in order."""
    for char in sorted({char for char in text if not char.isascii()}):
        if sign := _sign(char):
            text = text.replace(char, f" {sign} ")
    return _TOKEN.findall(_HYPHEN.sub(" ", unicodedata.normalize("NFKC", text).lower()))


def _sign(char: str) -> str:
    """The operator that a character beyond ASCII stands for, "" for none."""
    normal = unicodedata.normalize("NFKC", char).translate(ALIKE)
    return normal if len(normal) == 1 and normal in OPERATORS else ""


def token_hash(token: str) -> int:
    """The 64-bit hash of a token (the kernels' oracle)."""
    return word_hash(token.encode())


@dataclass(frozen=True, slots=True)
class Tokens:
    """The hashes of many texts' tokens and words: text i has `every[at[i]:at[i+1]]` and `words[word_at[i]:word_at[i+1]]`."""

    every: Hashes
    at: Ints
    words: Hashes
    word_at: Ints


def _signs() -> Hashes:
    """For each byte the hash it has as an operator, 0 where it is none."""
    out = np.zeros(256, np.uint64)
    for char in OPERATORS:
        out[ord(char)] = token_hash(char)
    out.flags.writeable = False
    return out


SIGNS: Final = _signs()


@lru_cache(maxsize=1)
def operator_table() -> NDArray[np.uint32]:
    """`words.wide_table`, but for separators that are operators: these stand alone, as ASCII."""
    table = wide_table().copy()
    for point in np.flatnonzero(table == 0).tolist():
        if point >= 0x80 and (sign := _sign(chr(point))):
            table[point] = ALONE | np.uint32(ord(sign))
    table.flags.writeable = False
    return table


@compiled
def scratch_for(longest: int) -> Any:
    """Scratch to split texts of at most `longest` bytes: as `splitting.room_for`, then hashes of all tokens."""
    text, wider, edges, words = room_for(longest)
    return text, wider, edges, words, np.empty(wider.size, np.uint64)


@compiled
def _letter(byte: int) -> bool:
    return 97 <= byte <= 122 or byte == 95


@compiled
def _inside_word(text: Bytes, at: int) -> bool:
    """Whether the hyphen or slash at `at` joins two ASCII words, of which one has two letters or more there."""
    if (text[at] != 45 and text[at] != 47) or at == 0 or not _letter(text[at - 1]) or not _letter(text[at + 1]):
        return False
    return _letter(text[at + 2]) or (at > 1 and _letter(text[at - 2]))


@compiled
def split_tokens(data: Bytes, start: int, stop: int, wide: NDArray[np.uint32], signs: Hashes, room: Any) -> Any:
    """Hash the words of data[start:stop] into room[3] and all its tokens into room[4]; returns how many of each.

    The edges of the words, in bytes of room[0] or of its rewritten form room[1], are in room[2]. (-1, 0) when the text
    needs `operator_table` and `wide` is empty, (-2, 0) when it needs `tokens`; an entry of one says it went through.
    """
    size = stop - start
    copy_bytes(data, start, room[0], 0, size)
    text = room[0]
    if wide.size != 1 and not is_ascii(text, 0, size):
        if wide.size == 0:
            return -1, 0
        size = widen(text, 0, size, wide, room[1], room[2][:0])
        if size < 0:
            return -2, 0
        text = room[1]
    edges, words, every = room[2], room[3], room[4]
    said = mark_words(text, size, edges)
    hash_words(text, edges, said, words)
    if signs.size == 0:
        return said, 0
    count = 0
    before = np.int64(0)
    for item in range(said + 1):
        begin = np.int64(edges[2 * item]) if item < said else size
        for at in range(before, begin):
            if signs[text[at]] and not (begin - before == 1 and _inside_word(text, at)):
                every[count] = signs[text[at]]
                count += 1
        if item < said:
            every[count] = words[item]
            count += 1
            before = np.int64(edges[2 * item + 1])
    return said, count


@compiled
def _split_all(
    data: Bytes, at: Ints, wide: Any, signs: Hashes, longest: int, kept: Hashes, counts: Ints, said: Ints, found: Hashes
) -> None:
    """Split every text, writing words to `kept` and tokens to `found`, the texts one after the other."""
    room = scratch_for(longest)
    words, tokens = 0, 0
    for item in range(at.size - 1):
        more, every = split_tokens(data, at[item], at[item + 1], wide, signs, room)
        said[item], counts[item] = more, every
        if more > 0:
            kept[words : words + more] = room[3][:more]
            words += more
        if every > 0:
            found[tokens : tokens + every] = room[4][:every]
            tokens += every


def tokenise(texts: Any) -> Tokens:
    """The tokens and words of a large_string array, hashed; nulls count as empty."""
    data, at = buffers(texts)
    parts = _pass(data, at, NO_WIDE if pure(data, at) else operator_table())
    slow = np.flatnonzero(parts[2] == -2)
    if len(slow):
        strings = texts.to_pylist()
        for item in slow.tolist():
            strings[item] = canonical(strings[item])
        rest = np.ones(len(at) - 1, np.bool_)
        rest[slow] = False
        return _merged(
            parts, _pass(*buffers(pa.array([strings[i] for i in slow.tolist()], pa.large_string())), PLAIN), rest
        )
    words, every, said, counts = parts
    return Tokens(every, _ends(counts), words, _ends(said))


def pure(data: Bytes, at: Ints) -> bool:
    """Whether texts are all ASCII."""
    return bool(is_ascii(data, at[0], at[-1]))


def canonical(text: str) -> str:
    """The tokens of a text joined by spaces: what a kernel can split without knowing Unicode."""
    return " ".join(tokens(text))


def _pass(data: Bytes, at: Ints, wide: Any) -> tuple[Hashes, Hashes, Ints, Ints]:
    size = len(at) - 1
    room = 2 * int(at[-1] - at[0]) + 1  # a character of two bytes may become a word of its own
    words, every = np.empty(room, np.uint64), np.empty(room, np.uint64)
    said, counts = np.zeros(size, np.int64), np.zeros(size, np.int64)
    _split_all(data, at, wide, SIGNS, int(np.diff(at).max(initial=0)), words, counts, said, every)
    return words[: said[said > 0].sum()], every[: counts.sum()], said, counts


def _merged(first: Any, second: Any, rest: NDArray[np.bool_]) -> Tokens:
    """The texts of two passes in their order; `rest` are those of the first."""
    out = []
    for which in (0, 1):
        sizes = np.zeros(len(rest), np.int64)
        sizes[rest], sizes[~rest] = first[2 + which][rest], second[2 + which]
        ends = _ends(sizes)
        values = np.empty(ends[-1], np.uint64)
        mine = np.repeat(rest, sizes)
        values[mine], values[~mine] = first[which], second[which]
        out += [values, ends]
    return Tokens(out[2], out[3], out[0], out[1])


def _ends(sizes: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


__all__ = ["OPERATORS", "Bytes", "Edges", "Hashes", "Ints", "Tokens", "split_tokens", "tokenise", "tokens"]
