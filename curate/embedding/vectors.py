"""Vectors on disk: by the digest of a text, under the digest of a model. No text is kept.

A vector file is Arrow IPC, sorted by text digest: digest binary(16), cut (the text is longer than the model's window)
and the vector, 4 bytes a dimension: 1.6 KB a text at 384 dimensions. An output folder holds one file with every vector
its decisions used (`out/sketches/embedding/vectors.arrow`), so that it can be decided again without a model.

The cache holds one folder a model, with a file for each stretch of texts encoded, named by its own digest: written
whole or not at all, so a killed run goes on where it was; a damaged file is dropped. It lies beside the eval sets, in
`gristmill/embeddings` under `HF_ASSETS_CACHE`. What was not used longest goes when it grows past LIMIT.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from curate.foundation.store import canonical, digest_bytes, digest_file, replacing

META: Final = b"embedding"
FORMAT: Final = 1
LIMIT: Final = 8 << 30  # bytes of all cached vectors: 5 million texts at 384 dimensions
DIGEST: Final = pa.binary(16)

Vectors = NDArray[np.float32]


@dataclass(slots=True)
class Shelf:
    """Vectors of texts of one model: `digests` binary(16) without doubles, `vectors` float32 [n, d], `cut` bool [n]."""

    identity: str
    model: str
    digests: Any
    vectors: Vectors
    cut: NDArray[np.bool_]

    def part(self, rows: NDArray[np.int64]) -> Shelf:
        """The shelf of some rows."""
        return Shelf(self.identity, self.model, self.digests.take(pa.array(rows)), self.vectors[rows], self.cut[rows])

    def find(self, wanted: Any) -> NDArray[np.int64]:
        """The row of each wanted digest, -1 where it is not here."""
        found = pc.fill_null(pc.index_in(wanted, self.digests), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def text_digests(texts: Any) -> Any:
    """The 128-bit digests of a large_string array's texts (UTF-8 bytes), binary(16)."""
    raw = texts.cast(pa.large_binary())
    return pa.array([xxhash.xxh3_128_digest(item.as_buffer()) for item in raw], DIGEST)


def read(path: Path) -> Shelf | None:
    """A vector file, memory-mapped; None where there is none, or what is there is not one."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all().combine_chunks()
        facts = json.loads(table.schema.metadata[META])
        if facts["format"] != FORMAT:
            return None
        flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(table.num_rows, facts["dimensions"]) if table.num_rows else _none(facts["dimensions"])
        cut = table.column("cut").to_numpy()
        return Shelf(facts["identity"], facts["model"], table.column("digest").combine_chunks(), vectors, cut)
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def table_of(shelf: Shelf) -> pa.Table:
    """A shelf as the table of a vector file, sorted by digest."""
    size = shelf.vectors.shape[1]
    facts = {"format": FORMAT, "identity": shelf.identity, "model": shelf.model, "dimensions": size}
    order = pc.array_sort_indices(shelf.digests)
    rows = order.to_numpy()
    schema = pa.schema(
        [
            pa.field("digest", DIGEST, nullable=False),
            pa.field("cut", pa.bool_(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), size), nullable=False),
        ],
        metadata={META: canonical(facts).encode()},
    )
    flat = pa.array(np.ascontiguousarray(shelf.vectors[rows]).reshape(-1), pa.float32())
    columns = [shelf.digests.take(order), pa.array(shelf.cut[rows]), pa.FixedSizeListArray.from_arrays(flat, size)]
    return pa.table(columns, schema=schema)


def write(path: Path, shelf: Shelf) -> None:
    """Write a vector file to a path that `replacing` or a store gave."""
    table = table_of(shelf)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def root() -> Path:
    """Where the vectors of all models are cached; it need not be there."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    assets = os.environ.get("HF_ASSETS_CACHE") or Path(home) / "assets"
    return Path(assets).expanduser() / "gristmill" / "embeddings"


class Cache:
    """The cached vectors of one model; a place that cannot be written is said once, and nothing is cached."""

    def __init__(self, identity: str, folder: Path | None = None) -> None:
        self.identity = identity
        self.folder = (folder or root()) / identity
        self.writable = True

    def shelves(self) -> Iterator[Shelf]:
        """Every intact file, in order of names; damaged ones are removed."""
        for path in sorted(self.folder.glob("*.arrow")):
            shelf = read(path) if digest_file(path) == path.stem else None
            if shelf is None or shelf.identity != self.identity:
                path.unlink(missing_ok=True)
                continue
            _touch(path)
            yield shelf

    def add(self, shelf: Shelf) -> None:
        """Keep the vectors of a shelf, as one file."""
        table, sink = table_of(shelf), pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        data = sink.getvalue()
        try:
            with replacing(self.folder / f"{digest_bytes(memoryview(data))}.arrow") as temp:
                temp.write_bytes(data)
        except OSError:
            self.writable = False

    def trim(self, limit: int = LIMIT) -> None:
        """Remove the files that were not used longest, of any model, until `limit` bytes are left."""
        try:
            files = [(path.stat(), path) for path in self.folder.parent.glob("*/*.arrow")]
            left = sum(stat.st_size for stat, _ in files)
            for stat, path in sorted(files, key=lambda item: (item[0].st_mtime_ns, item[1])):
                if left <= limit:
                    return
                path.unlink(missing_ok=True)
                left -= stat.st_size
        except OSError:  # someone else tidies up at the same time
            return


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        return


def _none(dimensions: int) -> Vectors:
    return np.zeros((0, dimensions), np.float32)
