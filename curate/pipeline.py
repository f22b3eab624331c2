"""The order of things: plan -> ingest (per unit) -> resolve (global) -> apply (per unit) -> account -> manifest -> card.

Map stages run inside ingest, reduce stages between ingest and apply. Every step is redone only where its input, its
settings or its output changed; the manifest is removed before the first write and comes back last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from curate import account
from curate.curated import CuratedUnit
from curate.foundation.console import Console
from curate.foundation.errors import UsageError
from curate.foundation.events import EVENTS, Timed
from curate.foundation.executor import Executor
from curate.foundation.store import MANIFEST, UNITS, Store, digest_of, recover
from curate.ingest import Job, apply, apply_key, ingest, ingested
from curate.reading import Unit
from curate.settings import CurateConfig
from curate.stages.registry import resolve_all

SLICES = ".slices"  # what the jobs of a batch array agreed on, see slices.py
WORK = ".work"  # intermediates; a run that was killed before its first marker leaves nothing else
CARD_FILES = ("README.md", "card.json", "card.yaml")


@dataclass(frozen=True, slots=True)
class Work:
    """What a run needs: the units, the settings, and facts that are carried into the manifest as they are."""

    out: Path
    units: Sequence[Unit | CuratedUnit]
    config: CurateConfig
    recipe: dict[str, Any] = field(default_factory=dict)
    recipe_name: str = ""
    tokenizer: str | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # what is known of input files by now
    state: str = ""

    def jobs(self) -> list[Job]:
        """One job a unit."""
        return [Job(str(self.out), unit, self.config, self.tokenizer, self.state) for unit in self.units]


def check_target(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder that holds something else; with `overwrite`, one of ours is emptied first."""
    recover(out)
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"{out} is a file", hint="name another folder")
    ours = (out / MANIFEST).is_file() or any((out / name).exists() for name in (UNITS, WORK, SLICES, EVENTS))
    rest = [path for path in out.iterdir() if path.name not in CARD_FILES and not path.name.startswith(".lock")]
    if rest and not ours:
        raise UsageError(
            f"{out} is not empty and was not made by curate", hint="name another folder, or empty this one"
        )
    if ours and (out / MANIFEST).is_file():
        Store(out, "records").manifest()  # another kind, or an altered manifest, is an error here
    if ours and overwrite:
        store = Store(out, "records")
        for name in store.names(hidden=True):
            if name not in CARD_FILES and name != ".lock":
                store.remove(name)


def run(work: Work, executor: Executor, console: Console, command: str) -> dict[str, Any]:
    """Bring `work.out` to completion under its lock and return the manifest; safe to kill and rerun at any point."""
    store = Store(work.out, "records")
    with store.locked(command), console.events.recording(work.out, command):
        store.sweep()
        work = prepared(store, work)
        jobs = work.jobs()
        if (manifest := _up_to_date(store, work, jobs)) is not None:
            return _said(store, work, jobs, manifest, console)
        read = each(store, jobs, "ingest", [job.key for job in jobs], executor, console)
        decided = resolve_all(store, [job.unit.name for job in jobs], work.config, console, work.state)
        keys = [apply_key(job, store) for job in jobs]
        applied = each(store, jobs, "apply", keys, executor, console)
        return finish(store, work, jobs, read, applied, decided, console)


def _run_key(work: Work, jobs: Sequence[Job]) -> str:
    """Digest of all that decides the bytes of a run's folder, its manifest and its card among them."""
    from curate.previous import open_previous

    config = work.config.model_dump(mode="json")
    known = [work.recipe, work.recipe_name, dict(work.licences), dict(work.carried), dict(work.inputs)]
    earlier = [old.facts() for old in open_previous(work.config.previous)]
    return digest_of([[job.key for job in jobs], config, known, earlier, account.versions()])


def _up_to_date(store: Store, work: Work, jobs: Sequence[Job]) -> dict[str, Any] | None:
    """The manifest, when this very run is complete and every file is what it says; else None."""
    if not store.complete() or store.done("run", _run_key(work, jobs)) is None:
        return None
    return None if store.verify() else store.manifest()


def prepared(store: Store, work: Work) -> Work:
    """The work with the eval sets indexed, and the name of that index as its state."""
    if "decontaminate" not in work.config.stages:
        return work
    from curate.stages.decontaminate import prepare

    return replace(work, state=prepare(store, work.config.decontaminate))


def each(
    store: Store, jobs: Sequence[Job], step: str, keys: Sequence[str], executor: Executor, console: Console
) -> list[dict[str, Any]]:
    """Run a step for the units that need it; the counts of all units, in plan order."""
    if step == "ingest":
        found = [ingested(store, job, key) for job, key in zip(jobs, keys, strict=True)]
    else:
        found = [store.done(f"{step}/{job.unit.name}", key) for job, key in zip(jobs, keys, strict=True)]
    todo = [index for index, summary in enumerate(found) if summary is None]
    if todo:
        store.remove(MANIFEST)
    task = ingest if step == "ingest" else apply
    label = "reading and judging" if step == "ingest" else "writing records"
    with console.progress(label, len(todo)) as advance:
        results = executor.map(Timed(task), [jobs[index] for index in todo], name=lambda job: str(job.unit.file))
        for number, (index, (seconds, summary)) in enumerate(zip(todo, results, strict=True), 1):
            found[index] = summary
            advance(1)
            console.events.unit(label, jobs[index].unit.name, number, len(todo), seconds, summary)
    return [summary for summary in found if summary is not None]


def finish(
    store: Store,
    work: Work,
    jobs: Sequence[Job],
    ingested: Sequence[dict[str, Any]],
    applied: Sequence[dict[str, Any]],
    decided: Mapping[str, dict[str, Any]],
    console: Console,
) -> dict[str, Any]:
    """Account, check the law, write the manifest; then tidy up and render the card."""
    from curate.cards import contamination
    from curate.previous import open_previous

    found = account.combine(work.units, ingested, applied, work.config.stages)
    for entry in found["inputs"]:
        entry.update(work.inputs.get(entry["file"], {}))
    gave: dict[str, int] = {}
    for unit, counts in zip(work.units, ingested, strict=True):
        gave[unit.file] = gave.get(unit.file, 0) + counts["rows_with_records"]
    account.enforce(account.law(found, gave))
    for stage in found["stages"]:
        stage["facts"] = decided.get(stage["name"], {})
    alarms = account.alarms(found["stages"])
    for name, place in found["sources"].items():
        place["licence"] = work.licences.get(name, "unknown")
    config = work.config.model_dump(mode="json")
    facts = {
        **found,
        **work.carried,
        "totals": account.totals(found["sources"]),
        "alarms": alarms,
        "allow_wipeout": work.config.allow_wipeout,
        "config": config,
        "config_digest": digest_of(config),
        "recipe": work.recipe,
        "recipe_name": work.recipe_name,
        "decontamination": contamination.summary(found["stages"]),
        "near_duplicates": config["minhash"] if "minhash" in config["stages"] else "OFF",
        "restored": config["restore"],
        "previous": [old.facts() for old in open_previous(work.config.previous)],
        "versions": account.versions(),
        "units": [{"unit": job.unit.name, "file": job.unit.file, "source": job.unit.source} for job in jobs],
    }
    files = [name for job in jobs for step in ("ingest", "apply") for name in store.outputs(f"{step}/{job.unit.name}")]
    files += [name for unit in _deciders(store, work.config) for name in store.outputs(unit)]
    manifest = store.commit(facts, files)
    store.mark("run", _run_key(work, jobs), [MANIFEST], {})
    return _said(store, work, jobs, manifest, console)


def _said(store: Store, work: Work, jobs: Sequence[Job], manifest: dict[str, Any], console: Console) -> dict[str, Any]:
    """Tidy up, render the card and say the warnings: also what a run that died after its manifest still owes."""
    from curate.cards import contamination
    from curate.cards.render import write_card

    _tidy(store, work, jobs, manifest)
    write_card(work.out, manifest)
    for warning in contamination.warnings(contamination.stage_facts(manifest["stages"])):
        console.warn(warning)
    for alarm in manifest["alarms"]:
        console.events.emit("alarm", **alarm)
        console.warn(
            f"{alarm['stage']} removed {alarm['removed']:,} of {alarm['in']:,} records of source {alarm['source']!r}"
        )
    return manifest


def _deciders(store: Store, config: CurateConfig) -> list[str]:
    """The markers of reduce stages that wrote files of their own while deciding."""
    names = [f"resolve/{stage}" for stage in config.stages]
    return [name for name in names if store.path(f"{UNITS}/{name}.json").is_file()]


def _tidy(store: Store, work: Work, jobs: Sequence[Job], manifest: Mapping[str, Any]) -> None:
    """Drop intermediates, markers of units that are no longer there, and files the manifest does not name."""
    live = {f"{UNITS}/{step}/{job.unit.name}.json" for job in jobs for step in ("ingest", "apply")}
    live |= {f"{UNITS}/{unit}.json" for unit in ("run", *_deciders(store, work.config))}
    for name in store.names(hidden=True):
        if name.startswith((f"{WORK}/", f"{SLICES}/")) or (name.startswith(f"{UNITS}/") and name not in live):
            store.remove(name)
    card = [name for name in store.names() if name in CARD_FILES or name.startswith("figures/")]
    store.sweep([*manifest["files"], *card, MANIFEST])
