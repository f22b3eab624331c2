"""Near-duplicates by words: sketch (per batch) -> resolve (global, bounded memory) -> verdict rows.

The key text of a record joins its messages by line feeds: reasoning, content and tool calls of each. `conversation`:
every message but system ones (a system prompt shared by a whole source would make its records look alike). `prompt`:
the same up to the last assistant message. `response`: that message alone. `first-user`: the first user message.

A sketch row holds the record's place in the keep order and its signature; texts stay where they are (`passages.py`).
`bands.py` and `neighbours.py` say which records go, `evidence.py` what the evidence is.

Cost: `sketch` about 0.4 GB/s a core; a sketch row is 4 bytes a permutation and about 150 bytes, 1.1 KB at the default.
`resolve` reads all signatures once for each block of bands that fits `memory`, and twice the texts of records with a
possible twin.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.clusters import ORDER_FIELDS
from curate.foundation.errors import UsageError
from curate.foundation.store import canonical
from curate.previous import Previous, old_sketches
from curate.stages.minhash_settings import MinhashSettings
from curate.stages.text import ASSISTANT, SYSTEM, USER, Messages, buffers, joined, unfold

if TYPE_CHECKING:
    from curate.shingles import Parts
    from curate.stages.passages import Home

FORMAT: Final = 2  # raise when words, hashes or signatures change: older sketches are then refused
SCHEME: Final = "affine32"
META: Final = b"minhash"
PLACE: Final = ("source", "file", "row", "part")


def sketch_schema(settings: MinhashSettings) -> pa.Schema:
    """The columns of a sketch; its metadata stamps everything that a signature depends on."""
    bands, rows = settings.shape
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        *ORDER_FIELDS,
        pa.field("shingles", pa.int32(), nullable=False),
        pa.field("signature", pa.list_(pa.uint32(), bands * rows), nullable=False),
    ]
    return pa.schema(fields, metadata={META: stamp(settings).encode()})


def stamp(settings: MinhashSettings) -> str:
    """Canonical JSON of format, scheme, key, n-gram, permutations and seed: sketches mix only where these agree."""
    bands, rows = settings.shape
    facts = {"format": FORMAT, "scheme": SCHEME, "key": settings.key, "ngram": settings.ngram, "seed": settings.seed}
    return canonical(facts | {"permutations": bands * rows})


class MinhashStage:
    """Near-duplicates of one of the four keys, every removal verified."""

    name = "minhash"

    def __init__(self, settings: MinhashSettings, out: Path | None = None, previous: Sequence[Previous] = ()) -> None:
        from curate.shingles import permutations

        self.settings = settings
        self.out = out
        self.previous = previous
        self.rule = settings.key
        bands, rows = settings.shape
        self._permutations = permutations(bands * rows, settings.seed)
        self._schema = sketch_schema(settings)

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """One row a record under `sketch_schema`; `position` counts from `start`."""
        from curate.shingles import signatures
        from curate.splitting import code_points

        messages = unfold(table)
        found, counts = signatures(key_parts(messages, self.settings.key), self.settings.ngram, *self._permutations)
        origin = table.column("origin").combine_chunks()
        if isinstance(origin, pa.ChunkedArray):
            origin = pa.array([], origin.type)
        said, spoken = messages.roles == ASSISTANT, np.zeros(len(messages.roles), np.int64)
        code_points(*buffers(messages.fields["content"]), np.flatnonzero(said), spoken)
        columns = {
            "id": table.column("id"),
            "position": pa.array(np.arange(start, start + table.num_rows, dtype=np.int64)),
            "source": table.column("source"),
            "score": table.column("score"),
            "assistant_chars": pa.array(messages.per_row(spoken)),
            **{name: origin.field(name) for name in ("file", "row", "part")},
            "shingles": pa.array(counts.astype(np.int32)),
            "signature": pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[1]),
        }
        ordered = {name: columns[name] for name in self._schema.names}
        return pa.table(ordered, schema=self._schema).combine_chunks()

    def resolve(
        self,
        sketches: Sequence[pa.Table | Path],
        priority: Mapping[str, int],
        gone: Sequence[NDArray[np.int64]] | None = None,
        threads: int | None = None,
        texts: Sequence[pa.Table] | None = None,
    ) -> pa.Table:
        """The records that go, under `near_rows.RESOLVED_SCHEMA`; `gone` are positions, by sketch, to leave out.

        `texts` are the records that were sketched, for sketches that are tables; files have theirs in the folder `out`.
        """
        from curate.stages import near
        from curate.stages.passages import Home, Passages

        memory = self.settings.memory or _quarter_of_memory()
        threads = threads or _cores()
        with tempfile.TemporaryDirectory(prefix="gristmill-", dir=self._scratch()) as scratch:
            old = list(old_sketches(self, self.previous, scratch))
            homes = [self._home(path) for path in sketches] if texts is None else [Home(kept=one) for one in texts]
            homes += [Home(archives=(one.records,), name=one.folder) for one in old]
            without = [*(gone or [np.zeros(0, np.int64)] * len(sketches)), *(one.gone for one in old)]
            folders = [*[None] * len(sketches), *(one.folder for one in old)]
            passages = Passages(homes, lambda messages: key_parts(messages, self.settings.key), Path(scratch))
            inputs = near.open_sketches(
                [*sketches, *(one.path for one in old)], self.settings, without, passages, folders
            )
            with closing(passages):
                return near.resolve(inputs, self.settings, priority, memory, threads)

    def _scratch(self) -> Path | None:
        """Where working files go: beside the output where there is one."""
        if self.out is None:
            return None
        place = self.out / ".work"
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _home(self, path: pa.Table | Path) -> Home:
        """Where the texts of a sketch of this run lie: what the map stages kept, or a finished unit's files."""
        from curate.stages.passages import Home

        if not isinstance(path, Path) or self.out is None:
            raise TypeError("sketches that are tables come with the texts they were made of")
        kept = self.out / ".work" / "kept" / path.name
        if kept.exists():
            return Home(kept=kept)
        name = f"{path.stem}.parquet"
        archives = (self.out / "records" / name, *sorted((self.out / "removed").rglob(name)))
        return Home(archives=tuple(one for one in archives if one.exists()), name=str(self.out))

    def facts(self, resolved: pa.Table) -> dict[str, Any]:
        """Clusters, similarities, who duplicates whom, and how many candidates there were."""
        from curate.stages.duplicates import duplicate_facts
        from curate.stages.near import COUNTS

        counts = json.loads((resolved.schema.metadata or {}).get(COUNTS, b"{}"))
        return duplicate_facts(resolved, key=self.settings.key, threshold=self.settings.threshold, counts=counts)

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """Resolved rows as verdict columns: sketch, position, id, twin_source and `verdict.VERDICT_FIELDS`."""
        from curate.stages.twins import twin_verdicts

        return twin_verdicts(resolved, self.name, self.rule, self.settings.threshold)


def chosen(messages: Messages, key: str) -> NDArray[np.bool_]:
    """Which messages a key takes."""
    size = len(messages.roles)
    if key == "conversation":
        return np.asarray(messages.roles != SYSTEM)
    picked = np.zeros(size, np.bool_)
    if key == "first-user":
        users = np.flatnonzero(messages.roles == USER)
        picked[users[np.unique(messages.rows[users], return_index=True)[1]]] = True
        return picked
    answers = messages.last(messages.roles == ASSISTANT)
    if key == "response":
        picked[answers[answers >= 0]] = True
        return picked
    ends = np.where(answers >= 0, answers, messages.starts[1:])
    return np.asarray((messages.roles != SYSTEM) & (np.arange(size) < ends[messages.rows]))


def key_parts(messages: Messages, key: str) -> Parts:
    """The key text of each record, its messages as parts: views of the column where messages are content alone."""
    from curate.shingles import Parts

    mask = chosen(messages, key)
    data, at = buffers(_spoken(messages))
    bounds = np.concatenate([[0], np.cumsum(mask)])[messages.starts]
    if mask.all():
        return Parts(data, at[:-1], at[1:], bounds)
    return Parts(data, at[:-1][mask], at[1:][mask], bounds)


def key_texts(messages: Messages, key: str) -> Any:
    """The key text of each record as a large_string array; "" where a record has no such message."""
    mask = chosen(messages, key)
    bounds = np.concatenate([[0], np.cumsum(mask)])[messages.starts]
    lists = pa.LargeListArray.from_arrays(pa.array(bounds.astype(np.int64)), _spoken(messages).filter(pa.array(mask)))
    return joined(pc.binary_join(lists, pa.scalar("\n", pa.large_string())))


def _spoken(messages: Messages) -> Any:
    """Reasoning, content and tool calls of each message, joined by line feeds; never null."""
    present = [name for name in ("reasoning", "content", "tool_calls") if _any(messages.fields[name])]
    if present == ["content"] or not present:
        content = joined(messages.fields["content"])
        return pc.fill_null(content, "") if content.null_count else content
    texts = [joined(messages.fields[name]) for name in present]
    found = pc.binary_join_element_wise(*texts, pa.scalar("\n", pa.large_string()), null_handling="skip")
    return pc.fill_null(found, "")


def _any(array: Any) -> bool:
    return bool(array.null_count < len(array))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quarter_of_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    except (ValueError, OSError, AttributeError):  # pragma: no cover - platforms without sysconf
        return 1 << 30


def check_stamp(schema: pa.Schema, settings: MinhashSettings, name: str) -> None:
    """Refuse a sketch made under another scheme, version, key, n-gram, number of permutations or seed."""
    found = ((schema.metadata or {}).get(META) or b"").decode()
    wanted = stamp(settings)
    if found != wanted:
        raise UsageError(
            f"{name}: sketched under {found or 'an unknown scheme'}, but this run compares {wanted}",
            hint="run both with the same --key, --ngram, --bands, --rows and seed: curate minhash OUT OTHER makes one anew",
        )
