"""Near-duplicates by meaning: sketch (per batch) -> resolve (embed, search, decide) -> verdict rows.

The key text of a record is that of `minhash.py`, the prompt by default. Records whose key text is blank, or that an
earlier stage removed, take no part. Two texts are similar when the cosine of their vectors is `threshold` or more;
`embedding/search.py` finds all of them, and a record goes only against a kept one (`clusters.py`). A text longer than
the model's window is judged by its beginning; such records are counted, and their evidence says so.

A sketch row holds the record's place in the keep order, its key text and that text's digest: working data, not kept.
The vectors stay in `out/sketches/embedding/vectors.arrow` (`embedding/vectors.py` says how large they are): deciding
again at another threshold needs no model.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.clusters import ORDER_FIELDS, keep_order
from curate.embedding import vectors as disk
from curate.embedding.embed import embed, identify, stored_in
from curate.embedding.search import gpu, settle
from curate.embedding.vectors import DIGEST, Shelf, text_digests
from curate.evidence import shared_spans
from curate.foundation.errors import UsageError
from curate.foundation.store import Store, canonical
from curate.previous import Previous, old_sketches
from curate.stages.embedding_settings import EmbeddingSettings
from curate.stages.minhash import PLACE, key_texts
from curate.stages.near_rows import FOLDER, RESOLVED_SCHEMA, SHOWN
from curate.stages.registry import surviving
from curate.stages.text import ASSISTANT, unfold
from curate.stages.twins import twin_verdicts

if TYPE_CHECKING:
    from curate.stages.registry import Setting

Ints = NDArray[np.int64]

SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        *ORDER_FIELDS,
        pa.field("digest", DIGEST, nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
    ]
)
ROWS: Final = RESOLVED_SCHEMA.append(FOLDER)
FACTS: Final = b"facts"
NGRAM: Final = 3  # rewrites share short runs of words
VECTORS: Final = "sketches/embedding/vectors.arrow"
MARKER: Final = "resolve/embedding"


@dataclass(frozen=True, slots=True)
class Live:
    """The records that take part: `table` under SCHEMA, the sketch that each is of, and its rank before the keep rule.

    `folders` names the earlier output that each sketch is of, None for this run; those rank ahead, in their order.
    """

    table: pa.Table
    sketch: Ints
    folders: Sequence[str | None]

    def texts(self, rows: Ints) -> list[str]:
        """The key texts of some records."""
        found: list[str] = self.table.column("text").take(pa.array(rows)).to_pylist()
        return found

    def order(self, priority: Mapping[str, int]) -> Ints:
        """The records from the first to keep to the last: earlier outputs first, then the keep rule."""
        old = list(dict.fromkeys(folder for folder in self.folders if folder is not None))
        ranks = [0 if folder is None else old.index(folder) - len(old) for folder in self.folders]
        return keep_order(self.table, priority, ahead=np.array(ranks, np.int64)[self.sketch])


class EmbeddingStage:
    """Records that say the same in other words, by one of the four keys."""

    name = "embedding"

    def __init__(
        self, settings: EmbeddingSettings, setting: Setting | None = None, previous: Sequence[Previous] = ()
    ) -> None:
        self.settings = settings
        self.previous = previous
        self.setting = setting
        self.rule = settings.key

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """One row a record under SCHEMA; `position` counts from `start`."""
        messages = unfold(table)
        texts = key_texts(messages, self.settings.key)
        origin = table.column("origin").combine_chunks()
        if isinstance(origin, pa.ChunkedArray):
            origin = pa.array([], origin.type)
        spoken = pc.fill_null(pc.utf8_length(messages.fields["content"]), 0).to_numpy(zero_copy_only=False)
        columns = {
            "id": table.column("id"),
            "position": pa.array(np.arange(start, start + table.num_rows, dtype=np.int64)),
            "source": table.column("source"),
            "score": table.column("score"),
            "assistant_chars": pa.array(messages.per_row(spoken, messages.roles == ASSISTANT)),
            **{name: origin.field(name) for name in ("file", "row", "part")},
            "digest": text_digests(texts),
            "text": texts,
        }
        return pa.table({name: columns[name] for name in SCHEMA.names}, schema=SCHEMA).combine_chunks()

    def resolve(
        self,
        sketches: Sequence[pa.Table | Path],
        priority: Mapping[str, int],
        gone: Sequence[NDArray[np.int64]] | None = None,
    ) -> pa.Table:
        """The records that go, under ROWS; the vectors are stored in the run's folder."""
        with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch:
            old = [(one.path, one.folder) for one in old_sketches(self, self.previous, scratch)]
            folders = [*[None] * len(sketches), *(folder for _, folder in old)]
            live = _live([*sketches, *(path for path, _ in old)], gone, folders)
            return self._decide(live, len(sketches), priority)

    def _decide(self, live: Live, own: int, priority: Mapping[str, int]) -> pa.Table:
        """Embed what takes part, store the vectors of this run's own texts, and let the first of each crowd stay."""
        out, console = (None, None) if self.setting is None else (self.setting.out, self.setting.console)
        if not (live.sketch < own).any():
            if out is not None:
                Store(out, "records").mark(MARKER, "", [], {})
            return ROWS.empty_table()
        unique, rows = _distinct(live.table.column("digest"))
        first = np.unique(rows, return_index=True)[1]
        stored, model = self._stored(out), self.settings.model
        self._check_previous(identify(unique, model, stored))
        shelf = embed(unique, lambda wanted: live.texts(first[wanted]), model, stored=stored, console=console)
        mine = np.unique(rows[live.sketch < own])
        if out is not None:
            store = Store(out, "records")
            with store.writing(VECTORS) as temp:
                disk.write(temp, shelf.part(mine))
            store.mark(MARKER, shelf.identity, [VECTORS], {})
        cut = int(shelf.cut[mine].sum())
        if console is not None and cut:
            console.say(
                f"embedding: {cut:,} of {len(mine):,} texts are longer than the model's window; "
                "only their beginning is compared"
            )
        order = live.order(priority)
        old = int((live.sketch >= own).sum())
        device = gpu(len(rows))
        twin, cosine = settle(shelf.vectors, rows[order], self.settings.threshold, safe=old, device=device)
        away = np.flatnonzero(twin >= 0)
        facts = {
            "model": shelf.model,
            "model_digest": shelf.identity,
            "dimensions": int(shelf.vectors.shape[1]),
            "texts": len(mine),
            "longer_than_window": cut,
        }
        found = _resolved(live, self.settings.key, shelf.cut[rows], order[away], order[twin[away]], cosine[away])
        return found.replace_schema_metadata({FACTS: canonical(facts).encode()})

    def _stored(self, out: Path | None) -> list[Shelf]:
        """The vectors that lie in this run's folder and in earlier outputs."""
        folders = [*([] if out is None else [out]), *(old.root for old in self.previous)]
        return [shelf for folder in folders if (shelf := stored_in(folder)) is not None]

    def _check_previous(self, identity: str) -> None:
        """Refuse an earlier output that was embedded by another model, or by another key."""
        for old in self.previous:
            if (other := stored_in(old.root)) is None:
                continue
            key = old.manifest["config"]["embedding"]["key"]
            if other.identity != identity:
                raise UsageError(
                    f"{old.folder}: embedded by {other.model} ({other.identity}), but this run has "
                    f"{self.settings.model} ({identity})",
                    hint=f"compare with the model it was made with: --set embedding.model={other.model}",
                )
            if key != self.settings.key:
                raise UsageError(
                    f"{old.folder}: embedded by the key {key}, but this run compares {self.settings.key}",
                    hint=f"compare by the key it was made with: --set embedding.key={key}",
                )

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """Resolved rows as verdict columns: sketch, position, id, twin_source and `verdict.VERDICT_FIELDS`."""
        return twin_verdicts(resolved, self.name, self.rule, self.settings.threshold)

    def facts(self, resolved: pa.Table) -> dict[str, Any]:
        """Clusters, similarities, who duplicates whom; the model, its digest, texts embedded and texts cut."""
        from curate.stages.duplicates import duplicate_facts

        said: dict[str, Any] = json.loads((resolved.schema.metadata or {}).get(FACTS, b"{}"))
        return duplicate_facts(resolved, key=self.settings.key, threshold=self.settings.threshold) | said


def _live(sketches: Sequence[pa.Table | Path], gone: Sequence[Ints] | None, folders: Sequence[str | None]) -> Live:
    """The records with a key text that are still there."""
    tables, owners = [SCHEMA.empty_table()], [np.empty(0, np.int64)]
    for number, item in enumerate(sketches):
        left_out = gone[number] if gone is not None and number < len(gone) else None
        table = item if isinstance(item, pa.Table) else surviving(item, left_out)
        table = table.filter(pc.not_equal(pc.utf8_trim_whitespace(table.column("text")), ""))
        tables.append(table)
        owners.append(np.full(table.num_rows, number, np.int64))
    return Live(pa.concat_tables(tables), np.concatenate(owners), folders)


def _distinct(digests: pa.ChunkedArray) -> tuple[Any, Ints]:
    """The distinct digests, and for each record which of them is its own."""
    encoded = digests.combine_chunks().dictionary_encode()
    return encoded.dictionary, np.asarray(encoded.indices.to_numpy(), dtype=np.int64)


def _resolved(
    live: Live, key: str, cut: NDArray[np.bool_], away: Ints, twins: Ints, similarity: NDArray[np.float64]
) -> pa.Table:
    """ROWS with evidence, in the order of source, file, row and part."""
    if not len(away):
        return ROWS.empty_table()
    here = live.table.select([*PLACE, "id", "position"]).take(pa.array(away))
    order = pc.sort_indices(here, [(name, "ascending") for name in PLACE]).to_numpy()
    here, away, twins, similarity = here.take(pa.array(order)), away[order], twins[order], similarity[order]
    there = live.table.select([*PLACE, "id"]).take(pa.array(twins))
    folders = [live.folders[owner] for owner in live.sketch[twins].tolist()]
    evidence = _evidence(live, key, away, twins, there, folders, cut[away] | cut[twins])
    columns = {
        "sketch": pa.array(live.sketch[away].astype(np.int32)),
        **{name: here.column(name) for name in ("position", *PLACE, "id")},
        "twin_id": there.column("id"),
        **{f"twin_{name}": there.column(name) for name in PLACE},
        "twin_folder": pa.array(folders, pa.string()),
        "similarity": pa.array(similarity),
        "evidence": pa.chunked_array(list(evidence), pa.large_string()),
    }
    return pa.table({name: columns[name] for name in ROWS.names}, schema=ROWS)


def _evidence(
    live: Live,
    key: str,
    away: Ints,
    twins: Ints,
    there: pa.Table,
    folders: Sequence[str | None],
    cut: NDArray[np.bool_],
) -> Iterator[Any]:
    """Canonical JSON for each removed record: key, twin, shared spans [from, to) in characters, whether it was cut."""
    texts = live.table.column("text")
    for start in range(0, len(away), SHOWN):
        part = slice(start, start + SHOWN)
        sides = [pa.concat_arrays(texts.take(pa.array(side[part])).chunks) for side in (away, twins)]
        spans = shared_spans(sides[0], sides[1], NGRAM)
        places = there.slice(start, SHOWN).select(list(PLACE)).to_pylist()
        rows = [
            orjson.dumps(
                {
                    "key": key,
                    "spans": [{"here": a, "twin": b} for a, b in found],
                    "twin": place if folder is None else place | {"folder": folder},
                }
                | ({"cut": True} if short else {}),
                option=orjson.OPT_SORT_KEYS,
            )
            for place, folder, found, short in zip(places, folders[part], spans, cut[part].tolist(), strict=True)
        ]
        yield pa.array(rows, pa.large_binary()).cast(pa.large_string())
