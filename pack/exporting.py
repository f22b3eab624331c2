"""`pack export`: the shards, or the records that lie in them, as another trainer reads them.

Rows (`hf`, `trl`, `axolotl`) come from the shards alone. Texts (`trl`, `llamafactory`, `verl`, `messages`,
`preferences`) come from the curated folder, which the shards know by its digest: each record once in each split that
holds it, in the order of the folder, with `drawn`, the number of epochs it is in. What a format cannot say is left out
by name: such records are listed in `unfit.jsonl`, and for every split

    records of the split = written + unfit

Cost: one read of the shards or of the records, one write; memory is the ids of the shards and one batch.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.cards import frontmatter
from curate.foundation.errors import DataError, GristmillError, UsageError
from curate.foundation.store import MANIFEST, UNITS, Store, digest_of
from curate.record import Record, from_row
from pack import exporting_tables
from pack.exporting_rows import ROWS
from pack.exporting_texts import TEXTS, Unfit
from pack.shards import ShardManifest

FORMATS: Final = ("hf", "trl", "axolotl", "llamafactory", "verl", "messages", "preferences")
UNFIT: Final = "unfit.jsonl"
STARTED: Final = "export"
BATCH: Final = 4_096
TABLES: Final = {"verl": exporting_tables.verl, "trl": exporting_tables.conversations}


@dataclass(slots=True)
class Export:
    """One export under way: what it reads and what it has written."""

    shards: ShardManifest
    store: Store
    to: str
    records: Path
    files: list[str] = field(default_factory=list)
    splits: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What the bytes of this export depend on."""
        return digest_of([self.to, self.shards.facts["digest"]])


def export(shards: ShardManifest, dest: Path, to: str, records: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write `dest` and return its manifest; raises UsageError for an unknown format or a folder that is not ours,
    and for records that are not those of the shards.
    """
    if to not in FORMATS:
        raise UsageError(f"no format named {to}", hint="--to " + "|".join(FORMATS))
    job = Export(shards, Store(dest, "export"), to, records)
    _check_target(job, dest, overwrite)
    if to in TEXTS:
        _check_records(job)
    if job.store.complete() and not overwrite and job.store.manifest().get("key") == job.key:
        return job.store.manifest()
    with job.store.locked("pack export"):
        job.store.remove(MANIFEST)
        job.store.mark(STARTED, job.key, [], {})  # what a killed export leaves is known as ours
        try:
            _write(job)
        except GristmillError:
            job.store.sweep(keep=[])
            shutil.rmtree(job.store.path(UNITS))
            raise
        shutil.rmtree(job.store.path(UNITS))
    return job.store.manifest()


def _write(job: Export) -> None:
    if job.to in ROWS:
        for split in _filled(job.shards):
            ROWS[job.to](job, split)
    if job.to in TEXTS:
        _texts(job)
    _readme(job)
    job.store.sweep(keep=job.files)
    job.store.commit(_facts(job), job.files)


def _filled(shards: ShardManifest) -> list[str]:
    return [split for split in shards.splits if shards.rows(split)]


def _check_target(job: Export, dest: Path, overwrite: bool) -> None:
    if dest.exists() and not dest.is_dir():
        raise UsageError(f"{dest} is a file", hint="name another folder")
    inside = {job.shards.root.resolve(), job.records.resolve()}
    if inside & {dest.resolve(), *dest.resolve().parents}:
        raise UsageError(f"{dest} lies inside what is exported", hint="give the export a folder of its own")
    if not dest.is_dir() or not any(path for path in dest.iterdir() if not path.name.startswith(".")):
        return
    if job.store.path(f"{UNITS}/{STARTED}.json").is_file():
        return
    if not job.store.complete():
        raise UsageError(
            f"{dest} is not empty and was not made by pack export", hint="name another folder, or empty it"
        )
    if job.store.manifest().get("key") != job.key and not overwrite:
        raise UsageError(f"{dest} holds another export", hint="name another folder, or add --overwrite")


def _check_records(job: Export) -> None:
    """The curated folder must be the one that the shards were made from."""
    wanted = (job.shards.facts.get("input") or {}).get("digest")
    rows = " (--to hf writes the packed rows without it)" if job.to == "trl" else ""
    if not job.records.is_dir():
        raise UsageError(
            f"--to {job.to} needs the texts, and {job.records} is no folder",
            hint=f"name the curated folder: --records OUT{rows}",
        )
    if Store(job.records, "records").manifest()["digest"] != wanted:
        raise UsageError(
            f"{job.records} is not the curated folder that {job.shards.root} was made from",
            hint=f"name that one with --records, or build the shards again: pack build {job.records}",
        )


# -- texts --------------------------------------------------------------------------------------------------------


def drawn(shards: ShardManifest, split: str) -> pa.Table:
    """The records of a split: `id` and `drawn`, the number of its epochs that hold it."""
    found = [
        pa.table({"id": segments.field("id"), "epoch": segments.field("epoch")})
        for _, _, batch in shards.open(split).batches()
        for segments in [batch.column("segments").values]
    ]
    table = pa.concat_tables(found).group_by("id", use_threads=False).aggregate([("epoch", "count_distinct")])
    return pa.table({"id": table.column("id"), "drawn": table.column("epoch_count_distinct").cast(pa.int32())})


def stored(root: Path) -> Iterator[pa.RecordBatch]:
    """The records of a curated folder in batches, in the order of its files."""
    for name in sorted(name for name in Store(root, "records").manifest()["files"] if name.startswith("records/")):
        try:
            with pq.ParquetFile(root / name) as file:
                yield from file.iter_batches(batch_size=BATCH)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{root / name}: not readable ({error})", hint=f"run: curate verify {root}") from error


def _texts(job: Export) -> None:
    splits = {split: drawn(job.shards, split) for split in _filled(job.shards)}
    with ExitStack() as stack:
        sinks = {split: _Sink(job, split, stack) for split in splits}
        unfit = _Lines(job, UNFIT, stack)
        for batch in stored(job.records):
            for split, table in splits.items():
                times = table.column("drawn").take(
                    pc.index_in(batch.column("id"), value_set=table.column("id").combine_chunks())
                )
                for row in pc.indices_nonzero(pc.fill_null(times, 0)).to_pylist():
                    sinks[split].add(from_row(batch.slice(row, 1).to_pylist()[0]), times[row].as_py(), unfit)
    for split, table in splits.items():
        sink = sinks[split]
        if sink.count + sink.unfit.total() != table.num_rows:
            raise DataError(
                f"{split} holds {table.num_rows:,} records, {job.records} gave {sink.count + sink.unfit.total():,}",
                hint=f"run: curate verify {job.records}",
            )
        facts = {"records": table.num_rows, "written": sink.count, "unfit": dict(sorted(sink.unfit.items()))}
        job.splits.setdefault(split, {}).update(facts, notes=dict(sorted(sink.notes.items())))
    if not any(sink.count for sink in sinks.values()):
        reasons = sorted({reason for sink in sinks.values() for reason in sink.unfit})
        raise DataError(f"no record fits --to {job.to}: {', '.join(reasons)}", hint=TEXTS[job.to].hint)
    if job.to == "llamafactory":
        _dataset_info(job)


class _Lines:
    """A JSON Lines file of the export."""

    def __init__(self, job: Export, name: str, stack: ExitStack) -> None:
        self._file = stack.enter_context(stack.enter_context(job.store.writing(name)).open("wb"))
        job.files.append(name)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self._file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")


class _Table:
    """A Parquet file of the export."""

    def __init__(self, job: Export, name: str, stack: ExitStack) -> None:
        self._rows: list[Mapping[str, Any]] = []
        self._tabled = TABLES[job.to]
        temp = stack.enter_context(job.store.writing(name))
        self._writer = stack.enter_context(pq.ParquetWriter(temp, self._tabled([]).schema, compression="zstd"))
        stack.callback(self._flush)
        job.files.append(name)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row."""
        self._rows.append(row)
        if len(self._rows) == BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(self._tabled(self._rows))
            self._rows = []


class _Sink:
    """Where the texts of one split go, and what happened to them."""

    def __init__(self, job: Export, split: str, stack: ExitStack) -> None:
        self._format = TEXTS[job.to]
        name = self._format.name(split)
        self._file: _Lines | _Table = (_Table if name.endswith(".parquet") else _Lines)(job, name, stack)
        self._split = split
        self.count, self.unfit, self.notes = 0, Counter[str](), Counter[str]()
        job.configs.setdefault(self._format.config, {})[split] = [name]

    def add(self, record: Record, times: int, unfit: _Lines) -> None:
        """Write one record, or say in `unfit` why it cannot be written."""
        notes = Counter[str]()
        try:
            row = self._format.convert(record, notes)
        except Unfit as reason:
            self.unfit[str(reason)] += 1
            entry = {"id": record.id, "source": record.source, "split": self._split, "reason": str(reason)}
            unfit.write(entry)
            return
        self.count += 1
        self.notes.update(notes)
        self._file.write({**row, "id": record.id, "source": record.source, "drawn": times})


def _dataset_info(job: Export) -> None:
    """What LLaMA-Factory looks its datasets up in (data/README of its repository)."""
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    tags |= {"observation_tag": "observation", "function_tag": "function_call", "system_tag": "system"}
    columns = {"messages": "conversations", "tools": "tools"}
    info = {
        f"gristmill_{split}": {"file_name": names[0], "formatting": "sharegpt", "columns": columns, "tags": tags}
        for split, names in job.configs["default"].items()
    }
    job.store.write_json("dataset_info.json", info)
    job.files.append("dataset_info.json")


# -- what every export has --------------------------------------------------------------------------------------------


def _readme(job: Export) -> None:
    """README.md whose front matter tells `datasets` and the Hub what to load: files of one kind, as it can."""
    kind = next(iter(job.configs["default"].values()))[0].rsplit(".", 1)[1]
    configs = [
        {
            "config_name": name,
            **({"default": True} if name == "default" else {}),
            "data_files": [{"split": split.replace("-", "_"), "path": names} for split, names in splits.items()],
        }
        for name, splits in sorted(job.configs.items())
        if all(path.endswith(kind) for names in splits.values() for path in names)
    ]
    text = (
        f"Exported from packed shards {job.shards.fingerprint} (`pack export --to {job.to}`). Every row names its "
        "record and source; `manifest.json` holds the counts and the digest of every file.\n"
    )
    job.store.write_bytes("README.md", (frontmatter.dump({"configs": configs}) + "\n" + text).encode())
    job.files.append("README.md")


def _facts(job: Export) -> dict[str, Any]:
    facts = job.shards.facts
    return {
        "key": job.key,
        "to": job.to,
        "shards": {"fingerprint": job.shards.fingerprint, "digest": facts["digest"]},
        "input": facts.get("input"),
        "tokenizer": facts.get("tokenizer"),
        "template_digest": facts.get("template_digest"),
        "sources": {name: {"licence": entry.get("licence", "unknown")} for name, entry in facts["sources"].items()},
        "splits": job.splits,
        "lossless": not any(split.get("unfit") or split.get("notes") for split in job.splits.values()),
    }


def said(manifest: Mapping[str, Any], dest: Path) -> str:
    """The closing lines of an export."""
    lines = []
    for split, facts in manifest["splits"].items():
        parts = [f"{facts[key]:,} {key}" for key in ("rows", "documents", "tokens", "trained") if key in facts]
        if "records" in facts:
            parts.append(f"{facts['written']:,} of {facts['records']:,} records")
        parts += [f"{count:,} left out: {reason}" for reason, count in facts.get("unfit", {}).items()]
        parts += [f"{count:,} {note}" for note, count in facts.get("notes", {}).items()]
        lines.append(f"{split}: {', '.join(parts)}")
    if any(facts.get("unfit") for facts in manifest["splits"].values()):
        lines.append(f"left out by id: {dest / UNFIT}")
    return "\n".join([*lines, f"wrote {dest} for {manifest['to']}"])
