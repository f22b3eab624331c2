"""Engines: what turns texts into ids. `tokenizers` is the oracle; gigatoken is fast and must equal it exactly.

`guard` compares the two on the torture corpus and on whatever texts it is given (a sample of the user's own); one
differing id and the fast engine is not used. One difference is known and routed text by text: where the tokenizer
has a Unicode normalizer, texts holding combining or unassigned characters, or not in NFC, go to `tokenizers`.

Cost: tokenizers 1 to 2 M tokens/s, gigatoken 40 to 80 M, on two cores; loading gigatoken 0.3 to 2.2 s, the
guard 0.3 s more.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from curate.foundation.errors import UsageError
from pack.tokenizing import Tokenizer

Ids = NDArray[np.int32]
ENGINES = ("auto", "hf", "gigatoken")


class Engine(Protocol):
    """Encodes texts with added tokens recognised and none added."""

    name: str

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """One int32 array a text, in order."""

    def encode_buffer(self, text: NDArray[np.uint8], edges: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
        """Ids of all texts as one array, and its borders: text i is the UTF-8 text[edges[i]:edges[i + 1]]."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard found; `engine` is the one to use."""

    asked: str
    engine: str
    reason: str
    torture: int = 0
    sample: int = 0
    differing: int = 0

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


class HfEngine:
    """The oracle: `tokenizers` in batches."""

    name = "hf"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids a text, through encode_batch_fast (no offsets: byte lengths give them)."""
        batch = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in batch]

    def encode_buffer(self, text: NDArray[np.uint8], edges: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
        """Ids of all texts as one array and its borders."""
        raw = text.tobytes()
        found = self.encode([raw[a:b].decode() for a, b in pairwise(edges.tolist())])
        borders = np.cumsum([0, *map(len, found)], dtype=np.int64)
        return np.concatenate([np.empty(0, np.int32), *found]), borders


class GigatokenEngine:
    """gigatoken over the same `tokenizer.json`; raises whatever gigatoken raises on one it cannot read."""

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer) -> None:
        import gigatoken

        self._giga = gigatoken.Tokenizer.from_json(tokenizer.bare)
        self._oracle = HfEngine(tokenizer)
        self._normalizes = tokenizer.normalizes

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids a text; texts of the known-different class go to the oracle."""
        routed = [i for i, text in enumerate(texts) if self._normalizes and differs_by_design(text)]
        plain = [""] * len(routed)
        if routed:
            texts, plain = list(texts), [texts[i] for i in routed]
            for i in routed:
                texts[i] = ""
        encoded = split(self._giga.encode_batch(list(texts)))
        for i, ids in zip(routed, self._oracle.encode(plain) if routed else (), strict=True):
            encoded[i] = ids
        return encoded

    def encode_buffer(self, text: NDArray[np.uint8], edges: NDArray[np.int64]) -> tuple[Ids, NDArray[np.int64]]:
        """Ids of all texts as one array and its borders; no text may be of the known-different class."""
        import awkward as ak

        chars = ak.contents.NumpyArray(text, parameters={"__array__": "char"})
        lists = ak.contents.ListOffsetArray(ak.index.Index64(edges), chars, parameters={"__array__": "string"})
        layout = self._giga.encode_batch(ak.Array(lists)).layout
        return np.asarray(layout.content.data).view(np.int32), np.asarray(layout.offsets)


def split(batch: Any) -> list[Ids]:
    """Views of an awkward list array, one int32 array a text."""
    layout = batch.layout
    offsets, flat = np.asarray(layout.offsets), np.asarray(layout.content.data).astype(np.int32, copy=False)
    return [flat[a:b] for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


@lru_cache(maxsize=1 << 16)
def _unsettled(char: str) -> bool:
    """Whether a character combines or is unassigned: where the normalizers of two libraries may disagree."""
    return unicodedata.category(char) in ("Mn", "Mc", "Me", "Cn")


def differs_by_design(text: str) -> bool:
    """Whether a text is of the class in which gigatoken and a Unicode normalizer are known to differ."""
    if text.isascii():
        return False
    return not unicodedata.is_normalized("NFC", text) or any(map(_unsettled, set(text)))


def choose(tokenizer: Tokenizer, asked: str, corpus: Sequence[str]) -> tuple[Engine, Verdict]:
    """The engine for a tokenizer: gigatoken if it reads it and equals `tokenizers` on the corpus, else `tokenizers`.

    Raises UsageError for an unknown name, or when gigatoken was asked for by name and is not exact here.
    """
    if asked not in ENGINES:
        raise UsageError(f"no tokenizer engine named {asked}", hint="--tokenizer-engine auto|hf|gigatoken")
    oracle = HfEngine(tokenizer)
    if asked == "hf":
        return oracle, Verdict(asked, "hf", "asked for")
    try:
        fast = GigatokenEngine(tokenizer)
    except ImportError:
        verdict = Verdict(asked, "hf", "gigatoken is not installed")
    except Exception as error:  # a Rust panic or any refusal; its text may hold a path of the build machine
        verdict = Verdict(asked, "hf", f"gigatoken does not read this tokenizer ({type(error).__name__})")
    else:
        differing = compare(fast, oracle, corpus)
        if not differing:
            return fast, Verdict(asked, "gigatoken", "equal on the torture corpus", len(corpus))
        verdict = Verdict(asked, "hf", "differs on the torture corpus", len(corpus), differing=differing)
    if asked == "gigatoken":
        raise UsageError(
            f"gigatoken cannot be used with {tokenizer.name}: {verdict.reason}",
            hint="--tokenizer-engine auto takes tokenizers instead",
        )
    return oracle, verdict


def compare(one: Engine, other: Engine, texts: Sequence[str]) -> int:
    """How many texts two engines encode differently."""
    pairs = zip(one.encode(texts), other.encode(texts), strict=True)
    return sum(not np.array_equal(a, b) for a, b in pairs)
