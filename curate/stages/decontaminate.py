"""Evaluation items in the data: sketch (per batch) -> resolve (global) -> verdict rows with evidence.

The index of the eval sets is built once, before anything is read (`prepare`), and memory-mapped by every worker. A
sketch keeps only what matched (`contamination/sketching.py`); resolving sees all records, so that it can tell
boilerplate from leaks (`contamination/decide.py`). Every match goes to `out/contamination.parquet`; a record's verdict
names its strongest one.

Cost: reading each message in scope once, a few nanoseconds a byte, whatever the number of eval sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.contamination import semantic
from curate.contamination.decide import Columns, decide
from curate.contamination.rules import Rules, rules_for
from curate.foundation.store import Store, canonical, digest_of
from curate.stages.decontaminate_settings import RULES, DecontaminateSettings
from curate.stages.verdict import VERDICT_FIELDS

if TYPE_CHECKING:
    from curate.contamination.index import EvalIndex

NAME: Final = "decontaminate"
FOLDER: Final = ".work/evals"
MATCHES: Final = "contamination.parquet"
MARKER: Final = f"resolve/{NAME}"
HITS: Final = ("message", "kind", "key", "value", "start", "stop")
SAMPLES: Final = 12
MATCH_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("eval", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("flag", pa.bool_(), nullable=False),
    ]
)
RESOLVED: Final = pa.schema(
    [
        pa.field("sketch", pa.int32(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("twin_id", pa.string(), nullable=False),
        pa.field("evidence", pa.large_string(), nullable=False),
        pa.field("flag", pa.bool_(), nullable=False),
    ]
)


def prepare(store: Store, settings: DecontaminateSettings) -> str:
    """Index the eval sets below `store` unless that is done; returns the index's name, "" with nothing to compare with.

    A model that comparing by meaning needs and that is not there raises here (`models.locate`), before any work.
    """
    from curate.contamination.building import build_index
    from curate.contamination.index import FORMAT, is_written, write
    from curate.evals import cached, load

    overrides = {name: each.fields for name, each in settings.evals.items() if each.fields is not None}
    sets = load(settings.against or cached(), overrides=overrides)
    if not sets.table.num_rows:
        return ""
    rules = rules_for(settings, list(sets.sets))
    semantic.ready(rules)
    name = digest_of([FORMAT, sets.digest, settings.model_dump(mode="json")])
    if not is_written(store.path(f"{FOLDER}/{name}")):
        index = build_index(sets.table, rules, settings.boilerplate.items)
        store.write_json(f"{FOLDER}/{name}/sets.json", {key: facts.as_json() for key, facts in sets.sets.items()})
        write(index, store, f"{FOLDER}/{name}")
    return name


class DecontaminateStage:
    """Records that hold items of evaluation sets."""

    name = NAME

    def __init__(self, settings: DecontaminateSettings, folder: Path, out: Path | None = None) -> None:
        self.settings = settings
        self.folder = folder
        self.out = out
        self._facts: dict[str, Any] = {}

    @cached_property
    def index(self) -> EvalIndex:
        """The eval sets, memory-mapped."""
        from curate.contamination.index import open_index

        return open_index(self.folder)

    @cached_property
    def rules(self) -> dict[str, Rules]:
        """The rules for each eval set."""
        return rules_for(self.settings, self.index.evals)

    def sketch(self, table: pa.Table, start: int = 0) -> pa.Table:
        """One row a record under `contamination.sketching.SCHEMA`; `position` counts from `start`."""
        from curate.contamination.sketching import sketch

        return sketch(self.index, table, self.settings.scope, start, every=semantic.wanted(self.rules))

    def resolve(
        self,
        sketches: Sequence[pa.Table | Path],
        priority: Mapping[str, int],
        gone: Sequence[NDArray[np.int64]] | None = None,
    ) -> pa.Table:
        """The records that match, under RESOLVED, each with its strongest match."""
        from curate.contamination.report import detectable, facts

        records, hits, total = gather(sketches, gone)
        close = semantic.close(self.index, self.rules, records) if semantic.wanted(self.rules) else None
        decision = decide(self.index, self.rules, hits, total, self.settings.boilerplate, close)
        found = decision.matches
        if self.settings.report_only:
            found.values["flag"] = np.ones(len(found), np.bool_)
        first = np.ones(len(found), np.bool_)
        first[1:] = found["record"][1:] != found["record"][:-1]
        seen = detectable(self.index, self.rules, decision)
        sources = records.column("source").take(pa.array(found["record"])).to_pylist()
        about = _read_json(self.folder / "sets.json")
        self._facts = facts(self.index, about, decision, seen, first, sources)
        self._facts |= {"scope": self.settings.scope, "report_only": self.settings.report_only, "records": total}
        if self.out is not None:
            self._write(records, found)
        return self._resolved(records, found, np.flatnonzero(first))

    def _resolved(self, records: pa.Table, found: Columns, first: NDArray[np.int64]) -> pa.Table:
        """The strongest match of each record with its evidence; samples for the card on the way."""
        from curate.cards.contamination import pieces
        from curate.contamination.evidence import evidence, spans_of

        counts = np.diff(np.append(first, len(found)))
        chosen = found.take(first)
        items = self.index.items.take(pa.array(chosen["item"])).to_pylist()
        places = records.take(pa.array(chosen["record"])).to_pylist()
        rows: list[dict[str, Any]] = []
        samples: dict[str, list[dict[str, Any]]] = {}
        for k, (item, place) in enumerate(zip(items, places, strict=True)):
            rule = RULES[int(chosen["rule"][k])]
            message = int(chosen["message"][k])
            text = next(entry for entry in place["texts"] if entry["message"] == message)
            match = {**item, "rule": rule, "message": message}
            spans = spans_of(rule, text["content"], item["question"], int(chosen["start"][k]), int(chosen["stop"][k]))
            told = evidence(match, spans, text["offset"], self.settings.scope, int(counts[k]) - 1)
            score = float(chosen["score"][k])
            rows.append(
                {name: place[name] for name in ("sketch", "position", "source")}
                | {"rule": rule, "value": score, "threshold": float(chosen["threshold"][k]), "evidence": told}
                | {"twin_id": f"{item['eval']}#{item['item']}", "flag": bool(chosen["flag"][k])}
            )
            shown = samples.setdefault(rule, [])
            if len(shown) < SAMPLES // 3:
                sample = {name: place[name] for name in ("id", "source", "file", "row")}
                sample |= {"eval": item["eval"], "item": item["item"], "rule": rule, "score": score}
                secret = {"hide": item["answer"], "asked": item["question"]}
                sample["record"] = pieces(text["content"], [a for a, _ in spans], **secret)
                sample["question"] = pieces(item["question"], [b for _, b in spans], whole=True, hide=item["answer"])
                shown.append(sample)
        self._facts["samples"] = [sample for rule in RULES for sample in samples.get(rule, ())][:SAMPLES]
        return pa.Table.from_pylist(rows, schema=RESOLVED)

    def _write(self, records: pa.Table, found: Columns) -> None:
        """Every match, for machines."""
        import pyarrow.parquet as pq

        assert self.out is not None
        store = Store(self.out, "records")
        who = records.select(["id", "source"]).take(pa.array(found["record"]))
        what = self.index.items.select(["eval", "item"]).take(pa.array(found["item"]))
        columns = [
            *who.columns,
            *what.columns,
            pa.array([RULES[rule] for rule in found["rule"].tolist()], pa.string()),
            pa.array(found["score"]),
            pa.array(found["flag"]),
        ]
        table = pa.Table.from_arrays(columns, schema=MATCH_SCHEMA)
        keys = [(name, "ascending") for name in ("source", "id", "eval", "item", "rule")]
        with store.writing(MATCHES) as temp:
            pq.write_table(table.sort_by(keys), temp, compression="zstd")
        store.mark(MARKER, digest_of([self.folder.name, canonical(self._facts)]), [MATCHES], {})

    def verdicts(self, resolved: pa.Table) -> pa.Table:
        """The same rows as verdicts."""
        size = resolved.num_rows
        columns = {name: resolved.column(name) for name in ("sketch", "position", "flag")}
        columns["twin_source"] = resolved.column("source")  # no source but its own leaks it: the alarm counts it
        made = {"stage": pa.array([NAME] * size, pa.string()), "similarity": resolved.column("value")}
        for field in VERDICT_FIELDS:
            columns[field.name] = made[field.name] if field.name in made else resolved.column(field.name)
        return pa.table(columns)

    def facts(self, resolved: pa.Table) -> dict[str, Any]:
        """What `report.facts` says, with samples."""
        return self._facts


def gather(
    sketches: Sequence[pa.Table | Path], gone: Sequence[NDArray[np.int64]] | None
) -> tuple[pa.Table, Columns, int]:
    """The records with hits (with the number of their sketch), the hits, and how many records there are in all."""
    from curate.stages.registry import surviving

    total = 0
    tables, parts = [], []
    for number, item in enumerate(sketches):
        table = item if isinstance(item, pa.Table) else surviving(item, gone[number] if gone else None)
        total += table.num_rows
        some = table.filter(pc.is_valid(table.column("id")))
        tables.append(some.append_column("sketch", pa.array(np.full(some.num_rows, number, np.int32))))
    records = pa.concat_tables(tables).combine_chunks()
    lists = records.column("hits").combine_chunks()
    lists = lists if isinstance(lists, pa.LargeListArray) else pa.concat_arrays(lists.chunks)
    values = lists.flatten()
    columns = {name: values.field(name).to_numpy().astype(np.int64) for name in HITS}
    parts = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    columns["record"] = np.repeat(np.arange(records.num_rows), parts)
    return records.drop_columns("hits"), Columns(columns), total


def _read_json(path: Path) -> Any:
    import json

    return json.loads(path.read_bytes())
