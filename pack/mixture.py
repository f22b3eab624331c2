"""Which records go where: the eval split, the epochs of each source, and seeded orders.

Every order is a sort by a keyed digest, never a random stream: a record's place depends on its id, the seed and the
epoch alone, so neither file order, nor workers, nor a numpy release can change it, and adding a record moves no other.

Cost: one sort of the records an epoch.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from curate.foundation.errors import UsageError

Words = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


def digest_words(hexes: Sequence[str]) -> Words:
    """Digests of 32 hex characters as uint64 [n, 2]; raises ValueError for anything else."""
    if any(len(text) != 32 for text in hexes):
        raise ValueError("a digest has 32 hex characters")
    raw = bytes.fromhex("".join(hexes))
    return np.frombuffer(raw, dtype=">u8").astype(np.uint64).reshape(-1, 2)


def keyed(words: Words, seed: int, salt: int = 0) -> Words:
    """A 64-bit digest of each row of `words` [n, 2] under seed and salt: splitmix64 (Steele et al., 2014)."""
    with np.errstate(over="ignore"):
        state = np.full(len(words), np.uint64(seed))
        for word in (np.full(len(words), np.uint64(salt)), words[:, 0], words[:, 1]):
            state = _mixed(state ^ word)
    return state


def _mixed(state: Words) -> Words:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def held_for_eval(content: Words, fraction: float) -> Bools:
    """Whether each record belongs to the eval split: by its content digest, so equal contents never straddle."""
    if fraction <= 0:
        return np.zeros(len(content), dtype=bool)
    return content[:, 0] < np.uint64(int(fraction * 2.0**64))


def draws(ids: Words, sources: npt.NDArray[np.integer], epochs: Sequence[float], seed: int) -> npt.NDArray[np.int32]:
    """How often each record is drawn, int32 [n]: floor(epochs) of its source, and once more for the seeded first
    round(fraction x n) records of that source.
    """
    times = np.zeros(len(ids), dtype=np.int32)
    order = np.lexsort((ids[:, 1], ids[:, 0], keyed(ids, seed, salt=1)))
    for code, wanted in enumerate(epochs):
        mine = order[sources[order] == code]
        whole = int(wanted)
        times[mine] = whole
        times[mine[: round((wanted - whole) * len(mine))]] += 1
    return times


def row_order(count: int, seed: int) -> npt.NDArray[np.int64]:
    """A seeded order of `count` rows, so that length and source never follow position."""
    numbers = np.stack((np.arange(count, dtype=np.uint64), np.zeros(count, dtype=np.uint64)), axis=1)
    return np.argsort(keyed(numbers, seed, salt=2), kind="stable")


def epochs_of(names: Sequence[str], wanted: Mapping[str, float]) -> list[float]:
    """The epochs of each source (1 unless the recipe says otherwise); an unknown source is a UsageError."""
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"sources here: {', '.join(names[:10])}"
            raise UsageError(f"pack.epochs names {name!r}, which is not a source of this folder", hint=hint)
    return [float(wanted.get(name, 1.0)) for name in names]
