"""Packed rows for other trainers: Parquet of the rows as they are, or one row a document for trainers that pack.

Cost: one read of the shards, one write of Parquet (zstd).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pack.shards import SCHEMA, ShardReader

if TYPE_CHECKING:
    from pack.exporting import Export

TRL: Final = pa.schema([SCHEMA.field(name) for name in ("input_ids", "labels", "position_ids", "seq_lengths")])
DOCUMENT: Final = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("attention_mask", pa.list_(pa.int8())),
        pa.field("labels", pa.list_(pa.int32())),
    ]
)
PLACE: Final = pa.schema(
    [
        pa.field("row", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("id", "source")),
        pa.field("epoch", pa.int32()),
    ]
)


def packed(job: Export, split: str) -> None:
    """Every column of the rows (`--to hf`), one Parquet file a part."""
    _rows(job, split, SCHEMA, "data", "default")


def trl(job: Export, split: str) -> None:
    """The four columns TRL's padding-free collator reads; which record lies where goes to `provenance/`."""
    _rows(job, split, TRL, "packed", "default")
    with _parquet(job, f"provenance/{split}.parquet", PLACE, "provenance", split) as writer:
        for _, first, batch in job.shards.open(split).batches():
            segments = batch.column("segments")
            rows = first + np.repeat(np.arange(batch.num_rows), np.diff(segments.offsets.to_numpy()))
            _places(writer, rows, segments.values)


def axolotl(job: Export, split: str) -> None:
    """One row a document with input_ids, attention_mask and labels, which axolotl takes as tokenised and packs itself.

    Row n of `provenance/` tells whose document row n is: columns of text would reach axolotl's collator.
    """
    count, tokens, trained = 0, 0, 0
    with (
        _parquet(job, f"data/{split}.parquet", DOCUMENT, "default", split) as writer,
        _parquet(job, f"provenance/{split}.parquet", PLACE, "provenance", split) as places,
    ):
        for _, _, batch in job.shards.open(split).batches():
            segments = batch.column("segments").values
            table = documents(batch, job.shards.split_ctx(split))
            writer.write_table(table)
            _places(places, np.arange(count, count + len(segments)), segments)
            count += len(segments)
            tokens += len(table.column("input_ids").combine_chunks().values)
            trained += int(np.sum(segments.field("trained").to_numpy()))
    job.splits[split] = {"documents": count, "tokens": tokens, "trained": trained}


def documents(batch: pa.RecordBatch, ctx: int) -> pa.Table:
    """The segments of packed rows as rows of their own, in order; the pad tail is nobody's."""
    segments = batch.column("segments")
    rows = np.repeat(np.arange(batch.num_rows), np.diff(segments.offsets.to_numpy()))
    lengths = segments.values.field("length").to_numpy().astype(np.int64)
    starts = rows * ctx + segments.values.field("start").to_numpy()
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    edges = pa.array(offsets.astype(np.int32))
    ids, labels = (batch.column(name).values.to_numpy()[places] for name in ("input_ids", "labels"))
    columns = (ids, np.ones(len(ids), dtype=np.int8), labels)
    lists = [pa.ListArray.from_arrays(edges, pa.array(values)) for values in columns]
    return pa.Table.from_arrays(lists, schema=DOCUMENT)


def _places(writer: pq.ParquetWriter, rows: Any, segments: Any) -> None:
    columns = [pa.array(rows.astype(np.int64)), *(segments.field(name) for name in ("id", "source", "epoch"))]
    writer.write_table(pa.Table.from_arrays(columns, schema=PLACE))


def _rows(job: Export, split: str, schema: pa.Schema, folder: str, config: str) -> None:
    count = 0
    for number, batches in enumerate(_by_part(job, split)):
        with _parquet(job, f"{folder}/{split}-{number:05d}.parquet", schema, config, split) as writer:
            for batch in batches:
                writer.write_table(pa.Table.from_batches([batch.select(schema.names)]))
                count += batch.num_rows
    facts = job.shards.facts["splits"][split]
    job.splits[split] = {"rows": count, "tokens": facts["tokens"], "trained": facts["trained"]}


def _by_part(job: Export, split: str) -> Iterator[Iterator[pa.RecordBatch]]:
    for part in job.shards.parts(split):
        yield (batch for _, _, batch in ShardReader([part], job.shards.split_ctx(split)).batches())


@contextmanager
def _parquet(job: Export, name: str, schema: pa.Schema, config: str, split: str) -> Iterator[pq.ParquetWriter]:
    """A Parquet file of the export, named in its README under a config and split."""
    with job.store.writing(name) as temp, pq.ParquetWriter(temp, schema, compression="zstd") as writer:
        yield writer
    job.files.append(name)
    job.configs.setdefault(config, {}).setdefault(split, []).append(name)


ROWS: Final[dict[str, Callable[[Export, str], None]]] = {"hf": packed, "trl": trl, "axolotl": axolotl}
