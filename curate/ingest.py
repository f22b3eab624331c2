"""One unit of input through the map stages, and later through the verdicts of the reduce stages.

`ingest` reads a unit, judges each batch (select, length, quality), writes what was removed, flagged and quarantined,
sketches what is left for the reduce stages, and keeps it in an intermediate file. `apply` takes the global verdicts
and writes the final records. Both are pure functions of (unit, config), write through the store and return counts.

Cost: each text is read once, judged once and compressed once; the intermediate is uncompressed Arrow, memory-mapped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curate import facts
from curate.curated import CuratedUnit
from curate.curated import read as read_curated
from curate.foundation.store import Store, digest_file, digest_of
from curate.reading import Batch, Unit
from curate.reading import read as read_raw
from curate.record import SCHEMA
from curate.settings import CurateConfig
from curate.stages.registry import map_stages, sketchers
from curate.stages.verdict import VERDICT_FIELDS, Judgement, Verdict
from curate.tables import batches, read_arrow, sink

FORMAT = 2  # raise when ingest or apply would write other bytes for the same input: markers then no longer match
WORKING = frozenset({"exact", "minhash", "embedding"})  # stages whose sketches would fill the output
LATER = {"select": "select/score"}  # folder of what a stage removes once all is read, if it removes rows before, too
TEXTS_NEEDED = frozenset({"minhash"})  # reduce stages that read the kept texts again when they decide


@dataclass(frozen=True, slots=True)
class Job:
    """One unit to ingest or apply into `out`; `state` digests outside input, such as evaluation sets."""

    out: str
    unit: Unit | CuratedUnit
    config: CurateConfig
    tokenizer: str | None = None
    state: str = ""

    @property
    def key(self) -> str:
        """Digest of what decides the ingested bytes: input, where it came from, settings."""
        # `previous` speaks when the reduce stages decide: their verdicts are part of `apply_key`.
        # `state` digests the settings of `decontaminate` with its eval sets.
        later = dict.fromkeys(("priority", "previous", "allow_wipeout", "selftest", "decontaminate"), True)
        resolving = {"minhash": {"memory"}, "embedding": {"threshold", "model"}}
        settings = self.config.model_dump(mode="json", exclude={**later, **resolving})
        return digest_of([FORMAT, self.unit.identity(), settings, self.tokenizer, self.state])


def evals_folder(out: Path, state: str) -> Path | None:
    """Where the index of the eval sets lies; None when there is nothing to decontaminate against."""
    return out / ".work" / "evals" / state if state else None


def _reducers(job: Job) -> dict[str, Any]:
    return dict(sketchers(job.config, evals=evals_folder(Path(job.out), job.state)))


def kept_name(unit: str) -> str:
    """The intermediate file of a unit: what the map stages kept."""
    return f".work/kept/{unit}.arrow"


def verdict_name(stage: str, unit: str) -> str:
    """The intermediate file with a reduce stage's verdicts on a unit."""
    return f".work/verdicts/{stage}/{unit}.arrow"


def sketch_name(stage: str, unit: str, config: CurateConfig) -> str:
    """The sketch of a unit for a reduce stage; one of WORKING is gone at the end unless its settings keep it."""
    working = stage in WORKING and not getattr(getattr(config, stage), "keep_sketches", False)
    return f"{'.work/' if working else ''}sketches/{stage}/{unit}.arrow"


def _batches(job: Job) -> Iterator[Batch]:
    """The unit's batches; an empty file gives one empty batch, so that every unit has its files."""
    found = read_curated(job.unit) if isinstance(job.unit, CuratedUnit) else read_raw(job.unit, job.config.read)
    first = next(found, None)
    yield Batch(SCHEMA.empty_table(), [], 0) if first is None else first
    yield from found


def ingest(job: Job) -> dict[str, Any]:
    """Read and judge one unit; returns its counts. Redone only when the input, the settings or an output changed."""
    store = Store(Path(job.out), "records")
    unit = job.unit.name
    stages = map_stages(job.config)
    reducers = _reducers(job)
    counts: dict[str, Any] = {"file": job.unit.file, "source": job.unit.source, "rows": 0, "quarantined": 0}
    counts |= {"rows_with_records": 0, "records": {}, "formats": {}, "notes": {}, "quarantine": {}}
    counts |= {"characters": {}, "stages": {}}
    last: tuple[str, int] | None = None
    with sink(store) as out:
        quarantined: list[str] = []
        kept = 0
        for batch in _batches(job):
            counts["rows"] += batch.rows
            _count_input(counts, batch)
            gave, last = _distinct_rows(batch.table, last)
            counts["rows_with_records"] += gave
            quarantined.extend(_quarantine_lines(batch))
            table = batch.table
            for stage in stages:
                judgement = stage.judge(table)
                table = _act(job, out, stage.name, judgement, counts)
            out.write(kept_name(unit), table, always=True)
            for name, sketcher in reducers.items():
                out.write(sketch_name(name, unit, job.config), sketcher.sketch(table, kept), always=True)
            kept += table.num_rows
        if quarantined:
            out_name = f"quarantine/{unit}.jsonl"
            store.write_bytes(out_name, ("\n".join(quarantined) + "\n").encode())
            counts["quarantine_file"] = out_name
    counts["quarantined"] = len(quarantined)
    if isinstance(job.unit, CuratedUnit):  # a curated part holds records; its rows are those that gave them
        counts["rows"] = counts["rows_with_records"] + len(quarantined)
    outputs = out.names() + ([counts["quarantine_file"]] if quarantined else [])
    work = store.path(kept_name(unit))
    counts["kept"] = digest_file(work) if work.exists() else ""
    counts["working"] = {name: digest_file(store.path(name)) for name in _working_sketches(job)}
    store.mark(f"ingest/{unit}", job.key, outputs, counts)
    return counts


def ingested(store: Store, job: Job, key: str) -> dict[str, Any] | None:
    """The counts of a unit that is ingested under `key`, with all that the reduce stages need of it; else None."""
    summary = store.done(f"ingest/{job.unit.name}", key)
    if summary is None:
        return None
    wanted: dict[str, str] = summary.get("working", {})
    paths = {name: store.path(name) for name in _working_sketches(job)}
    intact = all(path.is_file() and digest_file(path) == wanted.get(name) for name, path in paths.items())
    return summary if intact and _texts_there(store, job, summary) else None


def _texts_there(store: Store, job: Job, summary: dict[str, Any]) -> bool:
    """Whether a stage that looks at texts while it decides finds those of this unit.

    They lie in the intermediate file, or, where a finished run tidied that away, in the unit's final files. A run that
    was killed in between and goes on without its intermediates (on another machine) finds them in neither.
    """
    if not TEXTS_NEEDED & set(job.config.stages):
        return True
    work = store.path(kept_name(job.unit.name))
    if work.is_file():
        return bool(digest_file(work) == summary["kept"])
    applied = store.intact(f"apply/{job.unit.name}")
    return applied is not None and applied.get("ingest") == job.key


def _working_sketches(job: Job) -> list[str]:
    names = [sketch_name(stage, job.unit.name, job.config) for stage in job.config.stages if stage in WORKING]
    return [name for name in names if name.startswith(".work/")]


def _count_input(counts: dict[str, Any], batch: Batch) -> None:
    facts.add(counts["formats"], batch.formats)
    facts.add(counts["notes"], batch.notes)
    facts.add(counts["quarantine"], Counter(item.reason.split(":")[0] for item in batch.quarantined))
    if batch.table.num_rows:
        sources = batch.table.column("source")
        facts.add(counts["records"], facts.spread(sources))
        facts.add(counts["characters"], facts.spread(sources, facts.characters(batch.table)))


def _distinct_rows(table: pa.Table, last: tuple[str, int] | None) -> tuple[int, tuple[str, int] | None]:
    """How many rows gave the records of a batch; `last` is the row that ended the batch before."""
    if table.num_rows == 0:
        return 0, last
    origin = table.column("origin").combine_chunks()
    rows = origin.field("row").to_numpy()
    files = origin.field("file").dictionary_encode().indices.to_numpy()
    changes = int(((rows[1:] != rows[:-1]) | (files[1:] != files[:-1])).sum())
    first = (origin.field("file")[0].as_py(), int(rows[0]))
    end = (origin.field("file")[-1].as_py(), int(rows[-1]))
    return changes + (first != last), end


def _quarantine_lines(batch: Batch) -> list[str]:
    return [
        json.dumps(
            {"file": q.file, "row": q.row, "offset": q.offset, "reason": q.reason, "raw": q.raw}, ensure_ascii=True
        )
        for q in batch.quarantined
    ]


def _act(job: Job, out: Any, stage: str, judgement: Judgement, counts: dict[str, Any]) -> pa.Table:
    """Write a map stage's removals and flags, count them, and return what is left."""
    table = judgement.table
    place = counts["stages"].setdefault(stage, {"removed": {}, "characters": {}, "rules": {}, "examples": {}})
    for rule, number in sorted(judgement.fixed.items()):
        facts.add(place["rules"], {rule: {"fixed": number}})
    if judgement.flags:
        flagged = with_verdicts(table.select(["id", "source"]), stage, judgement.flags)
        out.write(f"flags/{job.unit.name}.parquet", flagged)
        count_flagged(place, stage, flagged)
    if not judgement.removals:
        return table
    removed = with_verdicts(table, stage, judgement.removals)
    out.write(f"removed/{stage}/{job.unit.name}.parquet", removed)
    count_removed(place, removed, job.config.examples)
    mask = np.ones(table.num_rows, dtype=bool)
    mask[[verdict.index for verdict in judgement.removals]] = False
    return table.filter(pa.array(mask))


def count_removed(place: dict[str, Any], removed: pa.Table, examples: int) -> None:
    """Count a stage's removals by source and rule, with the first `examples` of each rule as samples."""
    sources = removed.column("source").to_pylist()
    rules = removed.column("rule").to_pylist()
    facts.add(place["removed"], facts.by_source(sources))
    facts.add(place["characters"], facts.by_source(sources, facts.characters(removed).tolist()))
    for position, rule in enumerate(rules):
        facts.add(place["rules"], {rule: {"removed": 1}})
        shown = place["examples"].setdefault(rule, [])
        if len(shown) < examples:
            row = removed.slice(position, 1).to_pylist()[0]
            shown.append(facts.example(row, row))


def with_verdicts(table: pa.Table, stage: str, verdicts: list[Verdict]) -> pa.Table:
    """The judged rows, in the order of the verdicts, with the verdict columns appended."""
    taken = table.take(pa.array([verdict.index for verdict in verdicts], pa.int64()))
    columns: dict[str, list[Any]] = {"stage": [stage] * len(verdicts)}
    for name in ("rule", "value", "threshold", "twin_id", "evidence", "similarity"):
        columns[name] = [getattr(verdict, name) for verdict in verdicts]
    for column in VERDICT_FIELDS:
        taken = taken.append_column(column, pa.array(columns[column.name], column.type))
    return taken


def apply(job: Job) -> dict[str, Any]:
    """Write a unit's final records and what the reduce stages removed from it; returns the counts of both."""
    store = Store(Path(job.out), "records")
    unit = job.unit.name
    marker = store.done(f"ingest/{unit}", job.key)
    work = store.path(kept_name(unit))
    if marker is None or not work.exists() or digest_file(work) != marker["kept"]:
        ingest(job)  # the intermediate was cleaned away after an earlier run, or is damaged: make the same bytes again
    counts: dict[str, Any] = {"ingest": job.key, "kept": {}, "stages": {}}
    verdicts = {name: read_arrow(store.path(verdict_name(name, unit))) for name in _reducers(job)}
    tokens = _token_counter(job.tokenizer)
    start = 0
    with sink(store) as out:
        for table in batches(work):
            stop = start + table.num_rows
            gone = np.zeros(table.num_rows, dtype=bool)
            for stage, found in verdicts.items():
                place = counts["stages"].setdefault(
                    stage, {"removed": {}, "own": {}, "characters": {}, "rules": {}, "examples": {}}
                )
                here = found.filter(
                    pc.and_(pc.greater_equal(found["position"], start), pc.less(found["position"], stop))
                )
                if here.num_rows:
                    marked = here.filter(here.column("flag"))
                    if marked.num_rows:
                        flagged = _judged(table.select(["id", "source"]), marked, start)
                        out.write(f"flags/{stage}/{unit}.parquet", flagged)
                        count_flagged(place, stage, flagged)
                    here = here.filter(pc.invert(here.column("flag")))
                    removed = _judged(table, here, start)
                    out.write(f"removed/{LATER.get(stage, stage)}/{unit}.parquet", removed)
                    count_removed(place, removed, job.config.examples)
                    own = pc.equal(here.column("twin_source"), removed.column("source"))
                    facts.add(place["own"], facts.by_source(removed.column("source").filter(own).to_pylist()))
                    gone[here.column("position").to_numpy() - start] = True
            left = table.filter(pa.array(~gone)) if gone.any() else table
            out.write(f"records/{unit}.parquet", left, always=True)
            measured = facts.measure(left)
            if tokens is not None:
                for source, number in tokens(left).items():
                    measured[source]["tokens"] = number
            facts.add(counts["kept"], measured)
            start = stop
    store.mark(f"apply/{unit}", apply_key(job, store), out.names(), counts)
    return counts


def _judged(table: pa.Table, verdicts: pa.Table, start: int) -> pa.Table:
    """The rows of a batch that verdicts of a reduce stage are about, with the verdict columns appended."""
    rows = table.take(pa.array(verdicts.column("position").to_numpy() - start))
    for column in VERDICT_FIELDS:
        rows = rows.append_column(column, verdicts.column(column.name).cast(column.type))
    return rows


def count_flagged(place: dict[str, Any], stage: str, flagged: pa.Table) -> None:
    """Count the flags of a stage by rule, and by source and rule."""
    for rule, source in zip(flagged.column("rule").to_pylist(), flagged.column("source").to_pylist(), strict=True):
        facts.add(place["rules"], {rule: {"flagged": 1}})
        facts.add(place, {"flagged_by_source": {source: {f"{stage}.{rule}": 1}}})


def apply_key(job: Job, store: Store) -> str:
    """Digest of what decides the final bytes of a unit: its ingest key and the verdicts on it."""
    found = [digest_file(store.path(verdict_name(name, job.unit.name))) for name in _reducers(job)]
    return digest_of([job.key, found])


def _token_counter(tokenizer: str | None) -> Any:
    if tokenizer is None:
        return None
    from curate.tokens import counter

    return counter(tokenizer)
