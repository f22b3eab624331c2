"""Exact dedup: sketch (per batch) -> resolve (global, one hash partition at a time) -> verdict rows.

The key of a record is its text in NFC with white space collapsed as `" ".join(text.split())` does, case kept, roles
and message boundaries included; its digest is xxh3_128. `conversation`: all messages (role, name, content, reasoning,
tool calls) and the tool list. `prompt`: the same up to the last assistant message. `response`: that message alone.
`first-user`: the content of the first user message. A record whose key holds no text has no twins.

Cost: `sketch` reads every byte twice, at 1 to 2 GB/s in all; a sketch row is about 150 bytes. `resolve` holds the keys
of one partition in memory and, on disk, reads each sketch twice a partition; only rows that share a key are sorted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from curate.foundation.errors import UsageError
from curate.foundation.store import canonical
from curate.previous import OldSketch, Previous, old_sketches, own_twins
from curate.stages.settings import ExactSettings
from curate.stages.text import ASSISTANT, USER, Messages, buffers, joined, nfc, unfold, whole

if TYPE_CHECKING:
    import polars as pl

SKETCH_SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.binary(16)),
        pa.field("score", pa.float64()),
        pa.field("assistant_chars", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("part", pa.int32(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
    ]
)
META: Final = b"exact"
FORMAT: Final = 1  # raise when keys change: older sketches are then refused
PLACE: Final = ("source", "file", "row", "part")
RESOLVED_SCHEMA: Final = pa.schema(
    [
        pa.field("sketch", pa.int32(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        *(SKETCH_SCHEMA.field(name) for name in PLACE),
        pa.field("id", pa.string(), nullable=False),
        pa.field("twin_id", pa.string(), nullable=False),
        *(SKETCH_SCHEMA.field(name).with_name(f"twin_{name}") for name in PLACE),
        pa.field("twin_folder", pa.string()),  # the earlier output that holds the twin; null: this run
        pa.field("group", pa.int64(), nullable=False),
    ]
)
ROW_BYTES: Final = 400  # of a sketch row while its partition is resolved, measured with room to spare
MEMORY: Final = 1 << 30


class ExactStage:
    """Exact duplicates under one of the four keys."""

    name = "exact"

    def __init__(self, settings: ExactSettings, previous: Sequence[Previous] = ()) -> None:
        self.settings = settings
        self.previous = previous
        self.rule = settings.key
        self.stamp = canonical({"format": FORMAT, "key": settings.key})

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """One row a record under SKETCH_SCHEMA; `position` counts from `start`."""
        messages = unfold(table)
        origin = whole(table.column("origin"))
        spoken = messages.per_row(messages.content.chars, messages.roles == ASSISTANT)
        columns = {
            "key": digests(table, self.settings.key, messages),
            "score": table.column("score"),
            "assistant_chars": pa.array(spoken),
            "source": table.column("source"),
            **{name: origin.field(name) for name in ("file", "row", "part")},
            "id": table.column("id"),
            "position": pa.array(np.arange(start, start + table.num_rows, dtype=np.int64)),
        }
        return pa.table(columns, schema=SKETCH_SCHEMA.with_metadata({META: self.stamp.encode()})).combine_chunks()

    def resolve(
        self,
        sketches: Sequence[pa.Table | Path],
        priority: Mapping[str, int],
        gone: Sequence[NDArray[np.int64]] | None = None,
        memory: int = MEMORY,
    ) -> pa.Table:
        """The records that go, under RESOLVED_SCHEMA (see `resolve`)."""
        from curate.stages.registry import surviving

        left = [
            surviving(item, gone[number]) if gone and len(gone[number]) and isinstance(item, Path) else item
            for number, item in enumerate(sketches)
        ]
        with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch:
            old = list(old_sketches(self, self.previous, scratch))
            for one in old:
                self._check(one)
            earlier = [(one.folder, surviving(one.path, one.gone)) for one in old]
            return resolve(left, priority, memory, earlier)

    def _check(self, old: OldSketch) -> None:
        """Refuse an earlier output whose sketches were made under another key or version."""
        from curate.tables import read_arrow

        found = ((read_arrow(old.path).schema.metadata or {}).get(META) or b"").decode()
        if found != self.stamp:
            raise UsageError(
                f"{old.folder}: exact was sketched under {found or 'an unknown scheme'}, this run compares {self.stamp}",
                hint=f"use the same --key, or make another one first: curate exact {old.folder} OTHER --key {self.rule}",
            )

    def facts(self, resolved: pa.Table) -> dict[str, Any]:
        """Clusters, and who duplicates whom."""
        from curate.stages.duplicates import duplicate_facts

        return duplicate_facts(resolved, key=self.settings.key)

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """Resolved rows as verdict columns: sketch, position, twin_source and `verdict.VERDICT_FIELDS`."""
        from curate.stages.verdict import VERDICT_FIELDS

        size = resolved.num_rows
        twins = resolved.select([*(f"twin_{name}" for name in (*PLACE, "folder")), "group"]).to_pylist()
        columns = {
            "stage": pa.array([self.name] * size, pa.string()),
            "rule": pa.array([self.rule] * size, pa.string()),
            "value": pa.array(np.ones(size)),
            "threshold": pa.array(np.ones(size)),
            "twin_id": resolved.column("twin_id"),
            "evidence": pa.array([_evidence(twin) for twin in twins], pa.large_string()),
            "similarity": pa.array(np.ones(size)),
        }
        lead = {name: resolved.column(name) for name in ("sketch", "position", "id")}
        fields = [*(RESOLVED_SCHEMA.field(name) for name in lead), pa.field("twin_source", pa.string())]
        lead["twin_source"] = own_twins(resolved)
        schema = pa.schema([*fields, *VERDICT_FIELDS])
        return pa.table({**lead, **columns}, schema=schema)


def _evidence(twin: Mapping[str, Any]) -> str:
    place = {name: twin[f"twin_{name}"] for name in PLACE}
    if twin["twin_folder"] is not None:
        place["folder"] = twin["twin_folder"]
    return canonical({"twin": place, "group": twin["group"]})


def normalised(table: pa.Table, key: str, messages: Messages | None = None) -> tuple[Any, NDArray[np.int64], Any]:
    """The normalised keys of a batch: bytes, int64[rows + 1] offsets, and bool[rows], False where a key has no text."""
    from curate import kernels

    messages = unfold(table) if messages is None else messages
    rows = table.num_rows
    starts, ends = messages.starts[:-1], messages.starts[1:]
    if key == "first-user":
        first = _first(messages, messages.roles == USER)
        last = np.where(first >= 0, first + 1, 0)
        first = np.maximum(first, 0)
    elif key == "conversation":
        first, last = starts, ends
    else:
        answer = messages.last(messages.roles == ASSISTANT)
        none = answer < 0
        if key == "prompt":
            first, last = starts, np.where(none, ends, answer)
        else:
            first, last = np.where(none, 0, answer), np.where(none, 0, answer + 1)
    content, content_at = buffers(nfc(messages.fields["content"], messages.content.flags))
    fields = () if key == "first-user" else ("tool_calls", "reasoning", "name")
    more = [_optional(messages.fields[name]) for name in fields] or [_nothing()] * 3
    with_tools = key in ("conversation", "prompt")
    tools, tools_at = _optional(joined(table.column("tools"))) if with_tools else _nothing()
    sizes = [content, *(data for data, _ in more), tools]
    room = sum(len(data) for data in sizes) + 8 * len(messages.roles) + rows + 64
    out = np.empty(room, np.uint8)
    stops, filled = np.empty(rows, np.int64), np.empty(rows, np.bool_)
    kernels.assemble(
        np.ascontiguousarray(first),
        np.ascontiguousarray(last),
        messages.roles,
        content,
        content_at,
        tuple(data for data, _ in more),
        tuple(at for _, at in more),
        tools,
        tools_at,
        kernels.SPACE,
        out,
        stops,
        filled,
    )
    return out, np.concatenate([[0], stops]).astype(np.int64), filled


def _nothing() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    return _frozen(np.zeros(0, np.uint8)), _frozen(np.zeros(1, np.int64))


def _frozen(array: Any) -> Any:
    array.flags.writeable = False  # Arrow buffers are read-only, and one array kind means one compiled kernel
    return array


def _optional(array: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if array.null_count == len(array):
        return _nothing()
    data, at = buffers(nfc(array))
    return _frozen(data), _frozen(at)


def _first(messages: Messages, where: NDArray[np.bool_]) -> NDArray[np.int64]:
    size = len(where)
    at = np.where(where, np.arange(size), size)
    ahead = np.concatenate([np.minimum.accumulate(at[::-1])[::-1], [size]])
    found = ahead[messages.starts[:-1]]
    return np.asarray(np.where(found < messages.starts[1:], found, -1), dtype=np.int64)


def digests(table: pa.Table, key: str, messages: Messages | None = None) -> Any:
    """The 128-bit key digests of a batch as a binary(16) array, null where a key holds no text."""
    out, at, filled = normalised(table, key, messages)
    ends = at.tolist()  # a loop in C: the interpreter would take as long as the hash
    packed = b"".join(map(xxhash.xxh3_128_digest, map(memoryview(out).__getitem__, map(slice, ends, ends[1:]))))
    valid = pa.array(filled).buffers()[1] if len(filled) else None
    return pa.Array.from_buffers(pa.binary(16), len(filled), [valid, pa.py_buffer(packed)])


def resolve(
    sketches: Iterable[pa.Table | Path],
    priority: Mapping[str, int],
    memory: int = MEMORY,
    earlier: Sequence[tuple[str, pa.Table]] = (),
) -> pa.Table:
    """What goes, by the keep rule (-priority, -score, -assistant_chars, source, file, row, part), null score lowest.

    `sketches` are tables or Arrow IPC files; `sketch` in the result is the index among them. `earlier` are sketches of
    what earlier outputs kept, each with its folder: those come first and never go. The rows are the same, and in the
    same order, for any order of sketches and any `memory` (bytes, of one partition).
    """
    import polars as pl

    own = list(sketches)
    inputs = [*own, *(table for _, table in earlier)]
    folders = [None] * len(own) + [folder for folder, _ in earlier]
    total = sum(_rows(item) for item in inputs)
    partitions = max(1, -(-total * ROW_BYTES // memory))
    found = [_resolve_one(inputs, priority, index, partitions, folders) for index in range(partitions)]
    frame = pl.concat(found).sort([*PLACE, "id"]) if found else pl.DataFrame()
    return frame.select(RESOLVED_SCHEMA.names).to_arrow().cast(RESOLVED_SCHEMA)


def _rows(item: pa.Table | Path) -> int:
    return item.num_rows if isinstance(item, pa.Table) else sum(batch.num_rows for batch in _read(item))


def _read(item: pa.Table | Path) -> Iterator[Any]:
    if isinstance(item, pa.Table):
        yield from item.to_batches()
        return
    with pa.memory_map(str(item)) as source, pa.ipc.open_file(source) as reader:
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _resolve_one(
    inputs: Sequence[pa.Table | Path],
    priority: Mapping[str, int],
    index: int,
    partitions: int,
    folders: Sequence[str | None],
) -> pl.DataFrame:
    """The removals among the keys of one partition; `folders` are the earlier outputs, null for this run's sketches."""
    import polars as pl

    mine = [_lows(batch, index, partitions) for item in inputs for batch in _read(item)]
    shared = _repeated(np.concatenate(mine) if mine else np.zeros(0, np.uint64))
    del mine
    parts = [part for number, item in enumerate(inputs) for part in _members(item, number, index, partitions, shared)]
    frame = pl.concat(parts) if parts else pl.from_arrow(_member_schema().empty_table())
    assert isinstance(frame, pl.DataFrame)
    frame = frame.filter(pl.struct("high", "low").is_duplicated())
    rank = pl.col("source").replace_strict(dict(priority), default=0, return_dtype=pl.Int64)
    score = pl.when(pl.col("score").is_nan()).then(None).otherwise(pl.col("score"))
    named = list(dict.fromkeys(folder for folder in folders if folder is not None))
    folder = pl.Series(folders, dtype=pl.String)
    turn = pl.Series([named.index(one) if one is not None else len(named) for one in folders], dtype=pl.Int64)
    frame = frame.with_columns(rank=-rank, worth=-score, length=-pl.col("assistant_chars"))
    frame = frame.with_columns(folder=folder.gather(frame["sketch"]), turn=turn.gather(frame["sketch"]))
    frame = frame.sort(["high", "low", "turn", "rank", "worth", "length", *PLACE, "id"], nulls_last=True)
    group = ["high", "low"]
    twins = [pl.col(name).first().over(group).alias(f"twin_{name}") for name in ("id", *PLACE, "folder")]
    frame = frame.with_columns(*twins, group=pl.len().over(group).cast(pl.Int64))
    fresh = (pl.col("high") != pl.col("high").shift()) | (pl.col("low") != pl.col("low").shift())
    return frame.filter(~fresh.fill_null(True) & pl.col("folder").is_null()).select(RESOLVED_SCHEMA.names)


def _member_schema() -> pa.Schema:
    fields = [pa.field("high", pa.uint64()), pa.field("low", pa.uint64()), *list(SKETCH_SCHEMA)[1:]]
    return pa.schema([*fields, pa.field("sketch", pa.int32())])


def _words(batch: Any) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The keys of a batch as uint64[rows, 2], and whether each is there."""
    key = batch.column("key")
    words = np.frombuffer(key.buffers()[1], np.uint64)[2 * key.offset : 2 * (key.offset + len(key))].reshape(-1, 2)
    return words, np.asarray(key.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)


def _lows(batch: Any, index: int, partitions: int) -> NDArray[np.uint64]:
    """The second words of a batch's keys in one partition."""
    if not batch.num_rows:
        return np.zeros(0, np.uint64)
    words, valid = _words(batch)
    mine = valid if partitions == 1 else valid & (words[:, 0] % np.uint64(partitions) == index)
    return np.asarray(words[mine, 1])


def _repeated(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The values that occur more than once, sorted."""
    values.sort()
    again = values[1:][values[1:] == values[:-1]]
    return np.unique(again)


def _members(
    item: pa.Table | Path, number: int, index: int, partitions: int, shared: NDArray[np.uint64]
) -> Iterator[pl.DataFrame]:
    """The rows of one sketch whose key falls into a partition and may be shared, the key as two uint64."""
    import polars as pl

    for batch in _read(item):
        if not batch.num_rows or not len(shared):
            continue
        words, valid = _words(batch)
        at = np.minimum(np.searchsorted(shared, words[:, 1]), len(shared) - 1)
        mine = valid & (shared[at] == words[:, 1]) & (words[:, 0] % np.uint64(partitions) == index)
        if not mine.any():
            continue
        taken = pa.table(batch).drop_columns("key").filter(pa.array(mine))
        columns = {"high": pa.array(words[mine, 0]), "low": pa.array(words[mine, 1])}
        columns |= {name: taken.column(name) for name in taken.column_names}
        columns["sketch"] = pa.array(np.full(int(mine.sum()), number, np.int32))
        frame = pl.from_arrow(pa.table(columns, schema=_member_schema()))
        assert isinstance(frame, pl.DataFrame)
        yield frame
