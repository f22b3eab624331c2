"""`pack verify`: every promise of contract 2, read back from the files.

Digests first, then each batch of each part against the invariants, vectorised; then the law and the totals of the
manifest against what the files hold. A problem names its file and row.

Cost: one read of the shards, about 0.5 GB/s a core.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curate.foundation.errors import DataError
from curate.foundation.store import Store
from pack.account import law
from pack.gather import removed_table
from pack.shards import BATCH_ROWS, IGNORE, ShardManifest

LIMIT = 100


def problems(root: Path) -> tuple[list[str], dict[str, int]]:
    """Every broken promise, one line each (at most 100), and what was checked."""
    shards = ShardManifest.read(root)
    found = Store(root, "shards").verify()
    checked = {"files": len(shards.facts["files"]), "rows": 0}
    unreadable = {line.split(":")[0] for line in found}
    sums: dict[str, dict[str, int]] = {}
    for split in shards.splits:
        names = shards.facts["splits"].get(split, {}).get("parts", [])
        if unreadable.intersection(names):
            continue  # its digest already says so, and its content proves nothing
        totals = sums.setdefault(split, {"rows": 0, "segments": 0, "tokens": 0, "trained": 0, "pad": 0})
        for path, first, batch in shards.open(split).batches():
            part = path.relative_to(root).as_posix()
            found += [
                f"{part} row {first + row}: {said}"
                for row, said in _batch(batch, shards.split_ctx(split), shards.pad_id)
            ]
            _add(totals, batch)
        checked["rows"] += totals["rows"]
        for key, count in totals.items():
            said = shards.facts["splits"].get(split, {}).get(key, 0)
            if said != count:
                found.append(f"{split}: holds {count:,} {key}, the manifest says {said:,}")
    if not unreadable:
        found += _records(shards)
    found += _card(root, shards)
    return found[:LIMIT], checked


def _batch(batch: pa.RecordBatch, ctx: int, pad_id: int) -> Iterator[tuple[int, str]]:
    """(row, what is wrong) for each broken row of one batch."""
    count = batch.num_rows
    if count > BATCH_ROWS:
        yield 0, f"a batch of {count} rows; at most {BATCH_ROWS}"
    flat = {}
    for name in ("input_ids", "labels", "loss_mask", "position_ids"):
        offsets = batch.column(name).offsets.to_numpy()
        wrong = np.flatnonzero(np.diff(offsets) != ctx)
        if len(wrong):
            yield int(wrong[0]), f"{name} is not {ctx} long"
            return
        flat[name] = batch.column(name).values.to_numpy(zero_copy_only=False).reshape(count, ctx)
    ids, labels, mask, positions = flat.values()
    pad = batch.column("pad").to_numpy()
    segments, lengths = batch.column("segments"), batch.column("seq_lengths")
    seg_at, len_at = segments.offsets.to_numpy(), lengths.offsets.to_numpy()
    starts, sizes, trained = (segments.values.field(name).to_numpy() for name in ("start", "length", "trained"))
    stretches = lengths.values.to_numpy()
    where = np.arange(ctx)
    tail = where >= (ctx - pad)[:, None]
    wrong_labels = (labels != np.where(mask, ids, IGNORE)).any(axis=1)
    wrong_pad = (tail & ((ids != pad_id) | mask)).any(axis=1)
    for row in range(count):
        mine = slice(seg_at[row], seg_at[row + 1])
        want = [*sizes[mine].tolist(), *([int(pad[row])] if pad[row] else [])]
        begins = np.cumsum([0, *want])[:-1]
        if stretches[len_at[row] : len_at[row + 1]].tolist() != want or sum(want) != ctx:
            yield row, "seq_lengths are not the segments and the pad tail, or do not sum to ctx"
        elif starts[mine].tolist() != begins[: len(sizes[mine])].tolist():
            yield row, "segments do not lie one after the other"
        elif not np.array_equal(positions[row], where - np.repeat(begins, want)):
            yield row, "position_ids do not restart at 0 in every segment"
        elif mask[row, begins].any():
            yield row, "the first token of a segment carries a label"
        elif trained[mine].tolist() != [
            int(mask[row, b : b + n].sum()) for b, n in zip(begins, sizes[mine], strict=False)
        ]:
            yield row, "a segment's trained count is not what its labels say"
        elif batch.column("trained")[row].as_py() != int(mask[row].sum()):
            yield row, "the row's trained count is not what its labels say"
        elif wrong_labels[row]:
            yield row, "labels and loss_mask differ, or a label is not its token"
        elif wrong_pad[row]:
            yield row, "the pad tail holds something else than pad, or carries loss"


def _add(totals: dict[str, int], batch: pa.RecordBatch) -> None:
    pad = int(np.sum(batch.column("pad").to_numpy()))
    totals["rows"] += batch.num_rows
    totals["segments"] += len(batch.column("segments").values)
    totals["pad"] += pad
    totals["tokens"] += len(batch.column("input_ids").values) - pad
    totals["trained"] += int(np.sum(batch.column("trained").to_numpy()))


def _records(shards: ShardManifest) -> list[str]:
    """The law by source, with records counted in the files: distinct ids of a split, rows of `removed/`."""
    held: dict[tuple[str, str], int] = {}
    for fate, splits in (("packed", shards.splits[:-1]), ("eval", ["eval"])):
        seen = [
            (segments.field("source"), segments.field("id"))
            for split in splits
            for _, _, batch in shards.open(split).batches()
            for segments in [batch.column("segments").values]
        ]
        if seen:
            table = pa.table(
                {"source": pa.chunked_array([s for s, _ in seen]), "id": pa.chunked_array([i for _, i in seen])}
            )
            for entry in table.group_by("source").aggregate([("id", "count_distinct")]).to_pylist():
                held[entry["source"], fate] = entry["id_count_distinct"]
    for name in shards.facts["files"]:
        if name.startswith("removed/"):
            fate = {"template": "template_failed", "notdrawn": "not_drawn"}.get(name.split("/")[1], name.split("/")[1])
            sources = removed_table(shards.root / name).column("source").value_counts().to_pylist()
            for entry in sources:
                key = (entry["values"], fate)
                held[key] = held.get(key, 0) + entry["counts"]
    found = []
    for name, entry in shards.facts["sources"].items():
        if not law(entry):
            found.append(f"source {name}: records are not packed + eval + over-long + template-failed + not drawn")
        for fate in ("packed", "eval", "overlong", "template_failed", "not_drawn"):
            if held.get((name, fate), 0) != entry[fate]:
                found.append(
                    f"source {name}: the files hold {held.get((name, fate), 0):,} records {fate}, "
                    f"the manifest says {entry[fate]:,}"
                )
    return found


def _card(root: Path, shards: ShardManifest) -> list[str]:
    """The card must be what its manifest and its sidecar render to."""
    from curate.cards.render import rendered

    return [
        f"{name}: not what the manifest renders to (curate card {root} renders it again)"
        for name, content in rendered(root, shards.facts).items()
        if not (root / name).is_file() or (root / name).read_bytes() != content
    ]


def verify(root: Path) -> tuple[Any, str]:
    """Check everything; raises DataError that names the first problems by file and row."""
    found, checked = problems(root)
    if found:
        raise DataError(
            f"{root}: {len(found)} problems\n" + "\n".join(f"  {line}" for line in found[:20]),
            hint="restore the files, or rebuild: pack build --overwrite",
        )
    text = f"{root}: {checked['files']} files and {checked['rows']:,} rows hold every promise"
    return {"ok": True, **checked}, text
