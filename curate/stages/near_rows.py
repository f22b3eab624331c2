"""The decisions of `near.resolve` as rows, with the evidence for each: twin, similarity, and what both texts share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.evidence import spans_of
from curate.stages.minhash import PLACE
from curate.stages.minhash_settings import MinhashSettings
from curate.stages.text import joined

if TYPE_CHECKING:
    from curate.stages.near import Inputs, Members

Ints = NDArray[np.int64]
Texts = tuple[NDArray[np.uint8], Ints]  # bytes and offsets

PLACES: Final = (
    pa.field("source", pa.string(), nullable=False),
    pa.field("file", pa.string(), nullable=False),
    pa.field("row", pa.int64(), nullable=False),
    pa.field("part", pa.int32(), nullable=False),
)
RESOLVED_SCHEMA: Final = pa.schema(
    [
        pa.field("sketch", pa.int32(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        *PLACES,
        pa.field("id", pa.string(), nullable=False),
        pa.field("twin_id", pa.string(), nullable=False),
        *(field.with_name(f"twin_{field.name}") for field in PLACES),
        pa.field("similarity", pa.float64(), nullable=False),
        pa.field("evidence", pa.large_string(), nullable=False),
    ]
)
FOLDER: Final = pa.field("twin_folder", pa.string())  # the earlier output that holds the twin; null: this run
SHOWN: Final = 2_048  # pairs at least whose texts are looked at together


def verdict_rows(
    inputs: Inputs,
    settings: MinhashSettings,
    members: Members,
    away: Ints,
    twins: Ints,
    similarity: NDArray[np.float64],
    memory: int,
    threads: int,
) -> pa.Table:
    """RESOLVED_SCHEMA rows, and `twin_folder`, for members `away`, in the order of source, file, row and part."""
    if not len(away):
        return RESOLVED_SCHEMA.append(FOLDER).empty_table()
    here = inputs.take(members.record[away], [*PLACE, "id"])
    order = pc.sort_indices(here, [(name, "ascending") for name in PLACE]).to_numpy()
    here, away, twins, similarity = here.take(pa.array(order)), away[order], twins[order], similarity[order]
    there = inputs.take(members.record[twins], [*PLACE, "id"])
    folders = [inputs.folders[owner] for owner in members.sketch[twins].tolist()]
    evidence = _evidence(inputs, settings, members, away, twins, there, folders, memory, threads)
    columns = {
        "sketch": pa.array(members.sketch[away].astype(np.int32)),
        "position": pa.array(members.position[away]),
        **{name: here.column(name) for name in (*PLACE, "id")},
        "twin_id": there.column("id"),
        **{f"twin_{name}": there.column(name) for name in PLACE},
        "similarity": pa.array(similarity),
        "evidence": pa.chunked_array(list(evidence), pa.large_string()),
        "twin_folder": pa.array(folders, pa.string()),
    }
    return pa.table(columns, schema=RESOLVED_SCHEMA.append(FOLDER))


def _evidence(
    inputs: Inputs,
    settings: MinhashSettings,
    members: Members,
    away: Ints,
    twins: Ints,
    there: pa.Table,
    folders: Sequence[str | None],
    memory: int,
    threads: int,
) -> Iterator[Any]:
    """Canonical JSON for each removed record: key, twin, and spans [from, to) in characters of both key texts."""
    # Texts of many pairs at once: each pass looks into every chunk that holds a twin.
    size = max(SHOWN, min(-(-len(away) // threads), memory // (64 << 10)))

    names = pa.array(folders, pa.string())

    def show(start: int) -> Any:
        part = slice(start, start + size)
        texts = [_texts(inputs, members, side[part]) for side in (away, twins)]
        spans, counts = spans_of(texts[0], texts[1], settings.ngram)
        return evidence_rows(settings.key, spans, counts, there.slice(start, size), names.slice(start, size))

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(show, range(0, len(away), size))


def evidence_rows(key: str, spans: NDArray[np.int64], counts: Ints, twins: pa.Table, folders: Any) -> Any:
    """Canonical JSON of each pair, large_string: spans (n, most, 4) of which counts (n,) hold, and where the twin is."""
    numbers = spans[np.arange(spans.shape[1]) < counts[:, None]]
    ends = [pa.array(np.ascontiguousarray(numbers[:, k])).cast(pa.large_string()) for k in range(4)]
    shown = _put('{"here":[', ends[0], ",", ends[1], '],"twin":[', ends[2], ",", ends[3], "]}")
    bounds = pa.array(np.concatenate([[0], np.cumsum(counts)]))
    lists = pc.binary_join(pa.LargeListArray.from_arrays(bounds, shown), pa.scalar(",", pa.large_string()))
    name = {field: joined(twins.column(field).cast(pa.large_string())) for field in ("part", "row")}
    name |= {field: _quoted(joined(twins.column(field))) for field in ("file", "source")}
    folder = pc.fill_null(_put(',"folder":', _quoted(joined(folders))), "")
    place = [
        '"file":',
        name["file"],
        folder,
        ',"part":',
        name["part"],
        ',"row":',
        name["row"],
        ',"source":',
        name["source"],
    ]
    return _put(f'{{"key":{orjson.dumps(key).decode()},"spans":[', lists, '],"twin":{', *place, "}}")


def _put(*parts: Any) -> Any:
    """Texts and columns of texts one after the other; null where a column is."""
    each = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*each, pa.scalar("", pa.large_string()))


def _quoted(texts: Any) -> Any:
    """Each text as a JSON string; nulls stay."""
    distinct = texts.dictionary_encode()
    quoted = [orjson.dumps(text).decode() for text in distinct.dictionary.to_pylist()]
    return pa.array(quoted, pa.large_string()).take(distinct.indices)


def _texts(inputs: Inputs, members: Members, wanted: Ints) -> Texts:
    """The key texts of some members, one after the other."""
    return inputs.texts.gathered(members.sketch[wanted], members.position[wanted]).joined()
