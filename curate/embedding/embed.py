"""The vectors of many texts: from what is stored, from the cache, and from the model for the rest.

Each distinct text is encoded once. What is still to encode is announced before it starts, with the time it will take
by a measured first sample, and goes on in stretches that are cached as they end. Without anything to encode no model
is loaded, and none need be there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.embedding import vectors as disk
from curate.embedding.models import identity, locate
from curate.embedding.vectors import Cache, Shelf
from curate.foundation.console import Console
from curate.foundation.errors import GristmillError, MachineError

if TYPE_CHECKING:
    from curate.embedding.encoder import Encoder

SAMPLE: Final = 64  # texts that are measured before the cost is announced
STRETCH: Final = 1_024  # texts between two files of the cache
WIDER: Final = 32  # times as many on a GPU

Texts = Callable[[NDArray[np.int64]], Sequence[str]]


def embed(
    digests: Any, texts: Texts, model: str, *, stored: Sequence[Shelf] = (), console: Console | None = None
) -> Shelf:
    """The vectors of distinct texts: `digests` binary(16), `texts(rows)` gives the texts of some of them.

    Of `stored` those are used that are of the model that `model` names; they are all that is needed when they hold
    every text and the model is not there any more. Raises `UsageError` or `Offline` when a model is needed and cannot be had.
    """
    which = identify(digests, model, stored)
    size = len(digests)
    source = np.full(size, -1, np.int64)
    shelves = [shelf for shelf in stored if shelf.identity == which]
    cache = Cache(which)
    at = np.full(size, -1, np.int64)
    _fill(digests, shelves, source, at)
    if (source < 0).any():
        for shelf in cache.shelves():
            shelves.append(shelf)
            _fill(digests, shelves, source, at, len(shelves) - 1)
            if not (source < 0).any():
                break
    missing = np.flatnonzero(source < 0)
    if len(missing):
        fresh = _encode(digests, missing, texts, model, cache, console, known=size - len(missing))
        shelves += fresh
        for number in range(len(shelves) - len(fresh), len(shelves)):
            _fill(digests, shelves, source, at, number)
        cache.trim()
    dimensions = shelves[0].vectors.shape[1] if shelves else 0
    found, cut = np.empty((size, dimensions), np.float32), np.zeros(size, np.bool_)
    for number, shelf in enumerate(shelves):
        mine = source == number
        found[mine], cut[mine] = shelf.vectors[at[mine]], shelf.cut[at[mine]]
    return Shelf(which, model, digests, found, cut)


def identify(digests: Any, model: str, stored: Sequence[Shelf]) -> str:
    """The digest of the model that a name stands for; of the stored vectors' when that model is out of reach."""
    try:
        return identity(locate(model))
    except (GristmillError, OSError) as error:
        named = [shelf for shelf in stored if shelf.model == model]
        which = named[0].identity if named else ""
        rows = [shelf.find(digests) for shelf in named if shelf.identity == which]
        if rows and not (np.maximum.reduce(rows) < 0).any():
            return which
        if isinstance(error, GristmillError):
            raise
        raise MachineError(
            f"model {model}: {error.strerror or error}", hint="check the permissions of that path"
        ) from error


def _fill(
    digests: Any, shelves: Sequence[Shelf], source: NDArray[np.int64], at: NDArray[np.int64], first: int = 0
) -> None:
    """Note for each text not found so far which shelf from `first` on holds it, and where."""
    for number in range(first, len(shelves)):
        open_ = np.flatnonzero(source < 0)
        rows = shelves[number].find(digests.take(pa.array(open_)))
        held = rows >= 0
        source[open_[held]], at[open_[held]] = number, rows[held]


def _encode(
    digests: Any,
    missing: NDArray[np.int64],
    texts: Texts,
    model: str,
    cache: Cache,
    console: Console | None,
    known: int,
) -> list[Shelf]:
    """Encode some texts, in the order of their digests, which is a random order: a first sample stands for the rest."""
    from curate.embedding.encoder import Encoder

    encoder = Encoder.load(model)
    times = 1 if encoder.device == "cpu" else WIDER
    todo = missing[pc.array_sort_indices(digests.take(pa.array(missing))).to_numpy()]
    sample = min(SAMPLE * times, len(todo))
    began = time.monotonic()
    made = [_stretch(digests, todo[:sample], texts, encoder, cache)]
    rest = todo[sample:]
    if not len(rest):
        return made
    rate = sample / (time.monotonic() - began)
    say = console.say if console is not None else _silent
    say(
        f"embedding: {len(missing):,} texts with {model} on {encoder.device}"
        f"{f', {known:,} more are known already' if known else ''}; about {rate:,.0f} a second here, "
        f"so about {_duration(len(rest) / rate)}"
    )
    for advance, part in _parts(console, rest, STRETCH * times):
        made.append(_stretch(digests, part, texts, encoder, cache, advance))
    if not cache.writable and console is not None:
        console.warn(f"{cache.folder} cannot be written: vectors are not cached between runs")
    return made


def _parts(
    console: Console | None, rest: NDArray[np.int64], size: int
) -> Iterable[tuple[Callable[[int], None], NDArray[np.int64]]]:
    if console is None:
        for start in range(0, len(rest), size):
            yield _ignore, rest[start : start + size]
        return
    with console.progress("embedding", len(rest), "texts") as advance:
        for start in range(0, len(rest), size):
            yield advance, rest[start : start + size]


def _stretch(
    digests: Any,
    rows: NDArray[np.int64],
    texts: Texts,
    encoder: Encoder,
    cache: Cache,
    advance: Callable[[int], None] | None = None,
) -> Shelf:
    found = list(texts(rows))
    shelf = Shelf(
        encoder.identity,
        encoder.name,
        digests.take(pa.array(rows)),
        encoder.encode(found, advance),
        encoder.cut(found),
    )
    cache.add(shelf)
    return shelf


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:,.0f} minutes" if seconds < 5_400 else f"{seconds / 3_600:,.1f} hours"


def _silent(text: str) -> None:
    del text


def _ignore(count: int) -> None:
    del count


def stored_in(folder: Path) -> Shelf | None:
    """The vectors that an output folder keeps; None where it has none."""
    return disk.read(folder / "sketches" / "embedding" / "vectors.arrow")
