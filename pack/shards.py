"""Contract 2: packed shards.

`<split>/part-00000.arrow` are Arrow IPC *files*, uncompressed (so they memory-map), in batches of at most 1,000 rows.
Every row is exactly `ctx` tokens. There is no attention_mask column: with one present, transformers 5 stops isolating
packed samples.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

IGNORE: Final = -100
BATCH_ROWS: Final = 1_000

SEGMENT: Final = pa.struct(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("trained", pa.int32(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
    ]
)
SCHEMA: Final = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("loss_mask", pa.list_(pa.bool_()), nullable=False),
        pa.field("position_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("seq_lengths", pa.list_(pa.int32()), nullable=False),
        pa.field("segments", pa.list_(SEGMENT), nullable=False),
        pa.field("trained", pa.int32(), nullable=False),
        pa.field("pad", pa.int32(), nullable=False),
    ]
)
