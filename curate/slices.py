"""`curate filter RAW OUT --slice i/n`: a run spread over the jobs of a batch array (Slurm, Kubernetes) on one file system.

    every slice    reads, judges and sketches its share of the units        curate filter RAW OUT --slice i/n
    once           lets the reduce stages decide over all sketches          curate merge OUT
    every slice    writes the records of its share                          curate filter RAW OUT --slice i/n
    once           accounts, writes the manifest and the card               curate merge OUT

The same commands in the same array: what a slice does follows from whether the merge has decided. Units are dealt by
position in the plan; the bytes are those of one process. Every job may be killed and run again. A slice that has not
finished is refused by its number. What the slices agreed on lies in OUT/.slices until the end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from curate import pipeline
from curate.commands import SMALL, Said, raw_work, report, size_of
from curate.config import Resolved, validate
from curate.foundation import events
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.executor import Executor, Spread, slice_of
from curate.foundation.remote import Mirror, Session, is_remote, url_of
from curate.foundation.store import MANIFEST, Store, digest_of
from curate.ingest import Job, apply_key, ingested
from curate.pipeline import Work
from curate.settings import CurateConfig
from curate.sources import SourceSettings
from curate.stages.registry import resolve_all

FOLDER: Final = pipeline.SLICES
PLAN: Final = f"{FOLDER}/plan.json"
DECIDED: Final = f"{FOLDER}/decided.json"


@dataclass(frozen=True, slots=True)
class Slice:
    """Slice `index` of `count`."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """From `i/n`, counted from 0; raises UsageError."""
        first, _, second = text.partition("/")
        if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
            raise UsageError(f"--slice {text}: not i/n with 0 <= i < n", hint="the first of four is --slice 0/4")
        return cls(int(first), int(second))


def filter_slice(
    raw: str,
    out: Path,
    resolved: Resolved[CurateConfig],
    sources: dict[str, SourceSettings],
    tokenizer: str | None,
    slice_text: str,
    spread: Spread,
    console: Console,
) -> Said:
    """`curate filter RAW OUT --slice i/n`: what is due for one slice."""
    part = Slice.parse(slice_text)
    if is_remote(out):
        raise UsageError(
            f"--slice: {url_of(out)} is no shared folder: slices meet in a folder that every one of them sees",
            hint="name one on a shared file system, and copy it to s3:// at the end; RAW may be s3://",
        )
    if (out / MANIFEST).is_file():
        raise UsageError(f"{out} is complete", hint="name another folder, or remove this one, before a run in slices")
    pipeline.check_target(out, overwrite=False)
    work = raw_work(raw, out, resolved, sources, tokenizer, console)
    mirror = None if raw.startswith("hf://") else Mirror.beside(Path(raw))  # each machine has its own copy
    asked = {
        "raw": mirror.url if mirror else raw if raw.startswith("hf://") else str(Path(raw).resolve()),
        "config": resolved.config.model_dump(mode="json"),
        "recipe": resolved.recipe,
        "recipe_name": resolved.name,
        "sources": {name: value.model_dump(mode="json") for name, value in sources.items()},
        "tokenizer": tokenizer,
    }
    mine = slice_of(work.units, part.index, part.count)
    data = run_slice(work, part, asked, spread.over(sum(map(size_of, mine)), SMALL), console)
    did = "read and sketched" if data["step"] == "ingest" else "written"
    then = f"when every slice has: curate merge {out}"
    return data, f"slice {part.index} of {part.count}: {data['units']} of {data['all_units']} units {did}; {then}"


def merge_slices(out: Path, cards: Path | None, console: Console) -> Said:
    """`curate merge OUT`: decide over all sketches, or finish."""
    asked = asked_of(out)
    config = validate(CurateConfig, asked["config"], "curate")
    sources = {name: validate(SourceSettings, value, f"sources.{name}") for name, value in asked["sources"].items()}
    resolved = Resolved(config, {}, asked["recipe"], asked["recipe_name"])
    raw = str(Session().read(asked["raw"]))
    work = raw_work(raw, out, resolved, sources, asked["tokenizer"], console)
    found = merge(work, console)
    if found.get("step") == "decided":
        text = f"decided over {found['units']} units; run each of the {found['slices']} slices again, then: curate merge {out}"
        return found, text
    return report(work, found, Spread(1, "inline", False, cards), console)


def run_slice(work: Work, part: Slice, asked: dict[str, Any], executor: Executor, console: Console) -> dict[str, Any]:
    """Do what is due for one slice; `asked` (JSON) is what `merge` needs to plan the same work again.

    Raises UsageError when other slices were started with other input or settings.
    """
    store = Store(work.out, "records")
    jobs = pipeline.prepared(store, work).jobs()
    keys = [job.key for job in jobs]
    plan = {"keys": digest_of(keys), "count": part.count, "units": len(jobs), "asked": asked}
    _agree(store, plan)
    decided = _read(store, DECIDED)
    step = "ingest" if decided is None else "apply"
    mine = slice_of(range(len(jobs)), part.index, part.count)
    folder, command = work.out / FOLDER / str(part.index), f"curate filter --slice {part.index}/{part.count}"
    folder.mkdir(parents=True, exist_ok=True)
    with Store(folder, "slice").locked(command), console.events.recording(folder, command):
        chosen = [jobs[index] for index in mine]
        wanted = [keys[index] if decided is None else apply_key(jobs[index], store) for index in mine]
        done = pipeline.each(store, chosen, step, wanted, executor, console)
    return {"slice": part.index, "of": part.count, "step": step, "units": len(done), "all_units": len(jobs)}


def merge(work: Work, console: Console) -> dict[str, Any]:
    """Decide, or finish, for all slices; raises DataError naming the slices whose units are missing."""
    store = Store(work.out, "records")
    with store.locked("curate merge"), console.events.recording(work.out, "curate merge"):
        plan = _read(store, PLAN) or {}
        work = pipeline.prepared(store, work)
        jobs = work.jobs()
        keys = [job.key for job in jobs]
        if plan.get("keys") != digest_of(keys):
            raise UsageError(
                f"{work.out}: the input or the settings changed since the slices ran",
                hint=f"remove {work.out / FOLDER} and run every slice again",
            )
        read = _complete(store, jobs, "ingest", keys, plan["count"])
        names = [job.unit.name for job in jobs]
        decided = _read(store, DECIDED)
        if decided is None:
            found = resolve_all(store, names, work.config, console, work.state)
            store.write_json(DECIDED, found)
            return {"step": "decided", "slices": plan["count"], "units": len(jobs)}
        wanted = [apply_key(job, store) for job in jobs]
        applied = _complete(store, jobs, "apply", wanted, plan["count"])
        return pipeline.finish(store, work, jobs, read, applied, decided, console)


def progress(out: Path) -> dict[str, Any] | None:
    """How far the slices of a folder are: how many, units in all, the step that is due, which run now and their stages.

    None where there are no slices (any more).
    """
    store = Store(out, "records")
    plan = _read(store, PLAN)
    if plan is None:
        return None
    running = {}
    for index in range(plan["count"]):
        folder = out / FOLDER / str(index)
        if holder := Store(folder, "slice").holder():
            stages = events.stages(events.last_run(folder), datetime.now(UTC))
            running[str(index)] = {"holder": holder, "stages": stages}
    step = "reading" if _read(store, DECIDED) is None else "writing"
    return {"count": plan["count"], "units": plan["units"], "step": step, "running": running}


def asked_of(out: Path) -> dict[str, Any]:
    """What the slices of a folder were asked to do; raises UsageError when there are none."""
    plan = _read(Store(out, "records"), PLAN)
    if plan is None:
        if (out / MANIFEST).is_file():
            raise UsageError(f"{out} is complete: there is nothing to merge", hint=f"look with: curate card {out}")
        raise UsageError(f"{out} holds no slices", hint=f"run each: curate filter RAW {out} --slice 0/4")
    asked: dict[str, Any] = plan["asked"]
    return asked


def _agree(store: Store, plan: dict[str, Any]) -> None:
    """The first slice writes the plan down; every other one must have made the same."""
    found = _read(store, PLAN)
    if found is None:
        store.write_json(PLAN, plan)
        found = _read(store, PLAN)
    assert found is not None
    if found["count"] != plan["count"]:
        raise UsageError(
            f"--slice: other slices of {store.root} are {found['count']} in all, this one says {plan['count']}",
            hint=f"use the same count, or remove {store.root / FOLDER}",
        )
    if found["keys"] != plan["keys"]:
        raise UsageError(
            f"--slice: other slices of {store.root} read other input or have other settings",
            hint=f"use the same command for every slice, or remove {store.root / FOLDER}",
        )


def _complete(store: Store, jobs: Sequence[Job], step: str, keys: Sequence[str], count: int) -> list[dict[str, Any]]:
    """The counts of all units; raises DataError with the numbers of the slices that have not finished a step."""
    found = [
        ingested(store, job, key) if step == "ingest" else store.done(f"apply/{job.unit.name}", key)
        for job, key in zip(jobs, keys, strict=True)
    ]
    missing = sorted({index % count for index, counts in enumerate(found) if counts is None})
    if missing:
        said = "been read" if step == "ingest" else "written its records"
        shown = ", ".join(str(number) for number in missing[:20])
        raise DataError(
            f"{store.root}: slice {shown} of {count} has not {said}",
            hint=f"run it (again): curate filter RAW {store.root} --slice {missing[0]}/{count}",
        )
    return [counts for counts in found if counts is not None]


def _read(store: Store, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(store.path(name).read_bytes())
    except FileNotFoundError:
        return None
    return found
