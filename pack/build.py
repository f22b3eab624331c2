"""`pack build` on one page: records -> tokens -> lengths -> bins -> shards.

Pass 1 encodes runs of records into a token store under `.work/`; the plan decides over lengths alone; pass 2
gathers tokens into parts, bin by bin. Units leave markers, so a run that was killed goes on from the last finished
unit; the manifest comes last. Memory is one batch a worker plus about 200 bytes a segment.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from curate.config import Resolved
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.events import EVENTS, Timed
from curate.foundation.executor import Executor
from curate.foundation.store import MANIFEST, UNITS, Store, canonical, digest_file, digest_of
from pack import account, gather
from pack.config import PackConfig
from pack.plan import Plan, Split, plan
from pack.shards import ShardManifest
from pack.tokenstore import CHUNK, WORK, TokenStore, Unit, encode, renderer, sample

OWN: Final = ("train", "eval", "removed", "tokenizer")
CARD_FILES: Final = ("README.md", "card.json", "card.yaml", "figures")
RENDERING: Final = ("template", "prompt_format", "loss_on", "control_tokens", "thinking", "tokenizer_engine")


@dataclass(frozen=True, slots=True)
class Build:
    """What a build needs: the two folders, the records' manifest and the resolved settings."""

    out: Path
    shards: Path
    records: Mapping[str, Any]
    resolved: Resolved[PackConfig]

    @property
    def config(self) -> PackConfig:
        """The resolved settings."""
        return self.resolved.config

    @property
    def settings(self) -> str:
        """Canonical JSON of what shapes the token ids."""
        chosen = {name: getattr(self.config, name) for name in RENDERING}
        limit = self.config.longest if self.config.overlong == "truncate-turns" else 0
        return canonical({**chosen, "tokenizer": self.config.tokenizer, "turns_limit": limit})


def open_records(out: Path) -> dict[str, Any]:
    """The manifest of a complete curated folder without open alarms; raises UsageError or DataError with a hint."""
    if not out.is_dir():
        raise UsageError(f"{out}: no such folder", hint=f"make it with: curate filter RAW {out}")
    manifest = Store(out, "records").manifest()
    if manifest.get("alarms") and not manifest.get("allow_wipeout"):
        first = manifest["alarms"][0]
        named = (
            f"{first.get('stage')} emptied source {first.get('source')!r}" if isinstance(first, dict) else str(first)
        )
        raise DataError(
            f"{out} has {len(manifest['alarms'])} open alarms ({named})",
            hint=f"look at {out}/removed, then run: curate filter RAW {out} --allow-wipeout",
        )
    return manifest


def check_target(shards: Path, out: Path) -> None:
    """Refuse a folder that holds something else, and one inside the records: a rerun of curate would sweep it away."""
    if out.resolve() in shards.resolve().parents:
        raise UsageError(f"{shards} lies inside {out}", hint="give the shards a folder of their own")
    if not shards.exists():
        return
    if not shards.is_dir():
        raise UsageError(f"{shards} is a file", hint="name another folder")
    ours = any((shards / name).exists() for name in (MANIFEST, UNITS, WORK, EVENTS))
    rest = [path for path in shards.iterdir() if path.name not in CARD_FILES and not path.name.startswith(".lock")]
    if rest and not ours:
        raise UsageError(f"{shards} is not empty and was not made by pack", hint="name another folder, or empty it")
    if (shards / MANIFEST).is_file():
        Store(shards, "shards").manifest()  # another kind, or an altered manifest, is an error here


def _start_afresh(shards: Path) -> None:
    """Drop what an earlier build left; the human part of the card stays."""
    for name in (MANIFEST, UNITS, WORK, *OWN):
        path = shards / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in shards.glob("*/part-*.arrow"):  # stages of any name
        path.unlink()


def units_of(job: Build, identity: str) -> list[Unit]:
    """Runs of rows of the records files, in name order: the same units whatever the number of workers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = []
    for name, entry in sorted(job.records["files"].items()):
        if not name.startswith("records/"):
            continue
        try:
            if (found := digest_file(job.out / name)) != entry["digest"]:
                raise DataError(
                    f"{job.out / name}: its digest is {found}, the manifest says {entry['digest']}",
                    hint=f"run: curate verify {job.out}",
                )
            rows = int(pq.read_metadata(job.out / name).num_rows)
        except (pa.ArrowInvalid, FileNotFoundError) as error:
            raise DataError(
                f"{job.out / name}: not readable ({error})", hint=f"run: curate verify {job.out}"
            ) from error
        stem = name.removeprefix("records/").removesuffix(".parquet")
        for number, first in enumerate(range(0, rows, CHUNK)):
            unit = stem if rows <= CHUNK else f"{stem}.{number:05d}"
            places = (str(job.out.resolve()), name, first, min(first + CHUNK, rows))
            out.append(Unit(unit, *places, entry["digest"], str(job.shards.resolve()), job.settings, identity))
    return out


def build(job: Build, executor: Executor, console: Console, *, overwrite: bool = False) -> dict[str, Any]:
    """Bring `job.shards` to completion under its lock and return the manifest; safe to kill and rerun at any point."""
    check_target(job.shards, job.out)
    store = Store(job.shards, "shards")
    render = renderer(job.settings)
    rendering = render.facts()
    identity = digest_of([rendering[name] for name in ("tokenizer_digest", "template_digest", "prompt_format")])
    key = digest_of([job.records["digest"], identity, _shaping(job.config), job.resolved.recipe])
    with store.locked("pack build"), console.events.recording(job.shards, "pack build"):
        store.sweep()
        if overwrite:
            _start_afresh(job.shards)
        if store.complete() and store.manifest().get("build_key") == key and not store.verify():
            console.say(f"{job.shards} is up to date")
            return _finished(store)
        store.remove(MANIFEST)
        units = guarded(units_of(job, identity), render)
        encoded = encode_all(units, executor, console)
        tokens = TokenStore(job.shards, units)
        decided = plan(tokens, job.config, units)
        pad_id = _pad_id(render.tokenizer)
        splits = {
            split.name: _gather(store, job, split, units, pad_id, executor, console)
            for split in (*decided.stages, decided.held)
        }
        removed = account.removals(decided, tokens, units, job.config.longest)
        files = list(executor.map(gather.remove, removed, name=lambda removal: str(removal.name)))
        files += [name for facts in splits.values() for name in facts["parts"]]
        files += _save_tokenizer(store, render)
        facts = {
            **_facts(job, render, pad_id),
            **_counts(job, decided, encoded, splits),
            "template_failed": account.template_reasons(removed),
            "build_key": key,
        }
        facts |= _shown(store, facts, render)
        facts["warnings"] = account.warnings(facts)
        del tokens, decided
        store.commit(facts, files)
        return _finished(store)


def guarded(units: list[Unit], render: Any) -> list[Unit]:
    """Let the engine prove itself on the user's own records; one that fails is switched off for all workers."""
    verdict = canonical(render.guard(sample(units)).facts())
    return [replace(unit, verdict=verdict) for unit in units]


def encode_all(units: list[Unit], executor: Executor, console: Console) -> list[dict[str, Any]]:
    """Pass 1 over all units; their summaries in order."""
    out = []
    with console.progress("tokenising", len(units)) as advance:
        results = executor.map(Timed(encode), units, name=lambda unit: f"{unit.file} from row {unit.first}")
        for unit, (seconds, summary) in zip(units, results, strict=True):
            out.append(summary)
            advance(1)
            console.events.unit("tokenising", unit.unit, len(out), len(units), seconds, summary)
    return out


def _gather(
    store: Store, job: Build, split: Split, units: list[Unit], pad_id: int, executor: Executor, console: Console
) -> dict[str, Any]:
    """Write the plan of a split, then its parts; returns the split's facts."""
    ctx = split.ctx
    for field in gather.FIELDS:
        with store.writing(gather.plan_file(split.name, field)) as temp, temp.open("wb") as file:
            np.save(file, getattr(split, field), allow_pickle=False)
    digest, shards = split.digest(), str(job.shards.resolve())
    parts = [
        gather.Part(shards, tuple(units), split.name, number, first, last, ctx, pad_id, digest)
        for number, (first, last) in enumerate(gather.part_edges(len(split.rows) - 1, ctx))
    ]
    totals = []
    label = f"packing {split.name}"
    with console.progress(label, len(parts), "parts") as advance:
        results = executor.map(Timed(gather.gather), parts, name=lambda part: str(part.name))
        for part, (seconds, wrote) in zip(parts, results, strict=True):
            totals.append(wrote)
            advance(1)
            console.events.unit(label, part.name, len(totals), len(parts), seconds, wrote)
    return account.split_facts(split, totals, [part.name for part in parts])


def _pad_id(tokenizer: Any) -> int:
    """The tokenizer's pad, else its end of sequence, else 0; pad carries no loss whatever it is."""
    return next(int(token) for token in (tokenizer.pad_id, tokenizer.eos_id, 0) if token is not None)


def _save_tokenizer(store: Store, render: Any) -> list[str]:
    folder = store.path("tokenizer")
    shutil.rmtree(folder, ignore_errors=True)
    render.tokenizer.save(folder, render.template)
    return [name for name in store.names() if name.startswith("tokenizer/")]


def _shaping(config: PackConfig) -> dict[str, Any]:
    """The settings without the tokenizer's path: its digest says which it is."""
    return {key: value for key, value in config.model_dump(mode="json").items() if key != "tokenizer"}


def _facts(job: Build, render: Any, pad_id: int) -> dict[str, Any]:
    """What was asked and with which tokenizer."""
    tokenizer, rendering = render.tokenizer, render.facts()
    rendering.pop("counts")  # of this process alone; the sources below count everything
    return {
        "format_version": 1,
        "ctx": job.config.longest,
        "pad_id": pad_id,
        "tokenizer": {"name": tokenizer.name, "digest": tokenizer.digest, "vocab_size": tokenizer.vocab_size},
        "embedded_tokenizer": tokenizer.name == "embedded",
        "rendering": rendering,
        "template_digest": rendering["template_digest"],
        "terminators": rendering["terminators"],
        "added_tokens": rendering["added_tokens"],
        "engine": rendering["engine"],
        "algorithm": job.config.algorithm,
        "window": job.config.window,
        "seed": job.config.seed,
        "config": job.config.model_dump(mode="json"),
        "config_digest": digest_of(_shaping(job.config)),
        "input": {"digest": job.records["digest"], "config_digest": job.records.get("config_digest")},
        "decontamination": account.decontaminated(job.records),
        "recipe": job.resolved.recipe,
        "recipe_name": job.resolved.name,
    }


def _counts(
    job: Build, decided: Plan, encoded: list[dict[str, Any]], splits: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    sources = account.by_source(decided, encoded)
    for name, entry in sources.items():
        known = job.records.get("sources", {}).get(name, {})
        entry["licence"] = known.get("licence", "unknown")
        if not account.law(entry):
            raise DataError(f"source {name}: the records do not add up: {entry}")
    summed = (*account.LAW, "truncated", "documents", "tokens", "trained")
    return {
        "sources": sources,
        "totals": {key: sum(entry[key] for entry in sources.values()) for key in summed},
        "splits": {name: dict(facts) for name, facts in splits.items() if facts["rows"]},
        "stages": account.stages(decided, splits, job.config),
        "lengths": account.histogram(decided),
    }


def _shown(store: Store, facts: Mapping[str, Any], render: Any) -> dict[str, Any]:
    """The fingerprint, and what the card draws from the shards themselves."""
    shards = ShardManifest(store.root, facts)
    reader = shards.open(next(stage["split"] for stage in shards.stages if stage["rows"]))
    parts = [name for split in facts["splits"].values() for name in split["parts"]]
    entries = {name: store.entry(name)["digest"] for name in parts}
    identity = [facts[key] for key in ("config_digest", "tokenizer", "template_digest", "pad_id", "terminators")]
    return {
        "fingerprint": digest_of([entries, identity]),
        "ribbon": account.ribbon(reader),
        "samples": account.samples(reader, render.tokenizer),
        "bytes": sum(store.path(name).stat().st_size for name in parts),
    }


def _finished(store: Store) -> dict[str, Any]:
    """Tidy up and render the card: also what a build that died after its manifest still owes."""
    from curate.cards.render import write_card

    _tidy(store)
    manifest = store.manifest()
    write_card(store.root, manifest)
    return manifest


def _tidy(store: Store) -> None:
    """Remove work files and what an earlier build left that the manifest does not name."""
    for name in (WORK, UNITS):
        shutil.rmtree(store.path(name), ignore_errors=True)
    kept = store.manifest()["files"]
    for name in store.names():
        ours = name.split("/")[0] in OWN or re.fullmatch(r"[^/]+/part-\d+\.arrow", name)  # a stage of an earlier build
        if ours and name not in kept:
            store.remove(name)
    store.sweep()
