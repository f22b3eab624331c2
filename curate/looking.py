"""What the commands do that only look: verify, card, status, doctor; and the sample, which needs no settings."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curate.curated import open_folder
from curate.foundation import events
from curate.foundation.console import oneline
from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import MANIFEST, UNITS, Store

Said = tuple[Any, str]


def verify(out: Path, *, deep: bool) -> Said:
    """Digests, then the law recounted from the data; raises `DataError` when something is wrong."""
    from curate.ledger import verify as check

    problems = check(out, deep=deep)
    if problems:
        shown = "\n  ".join(problems[:20])
        raise DataError(
            f"{out}: {len(problems)} problem(s)\n  {shown}", hint="restore the files, or run curate filter again"
        )
    total = open_folder(out)[1]["totals"]
    text = f"{out}: every digest matches and the law holds ({total['rows']:,} rows, {total['kept']:,} kept)"
    return {"problems": [], "totals": total}, text


def card(folder: Path, gallery: Path | None) -> Said:
    """Render a folder's card again, whatever it holds, and show it."""
    from curate.cards.render import render_terminal, write_card

    if not (folder / MANIFEST).is_file():
        raise UsageError(f"{folder} holds no {MANIFEST}", hint="name a folder made by curate, pack or train")
    try:
        kind = json.loads((folder / MANIFEST).read_bytes()).get("kind", "records")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{folder / MANIFEST}: not a manifest", hint="rebuild the folder") from error
    manifest = Store(folder, kind).manifest()
    names = write_card(folder, manifest, gallery=gallery)
    return {"written": names, "manifest": manifest["digest"]}, render_terminal(folder, manifest)


def status(out: Path) -> Said:
    """Progress of a run, read from its markers and its events: stages, units done of how many, rate, seconds left."""
    if not out.is_dir():
        raise UsageError(f"{out}: no such folder", hint=f"start with: curate filter RAW {out}")
    store = Store(out, "records")
    done = {step: len(list((out / UNITS / step).glob("*.json"))) for step in ("ingest", "apply")}
    holder = store.holder()
    slices = _slices(out)
    state = "complete" if store.complete() else "running" if holder else "stopped, not complete"
    if slices and not holder:
        state = "in slices" + ("" if slices["running"] else ", none running")
    run = events.last_run(out)
    stages = events.stages(run, datetime.now(UTC) if holder else None)
    data = {"state": state, "units_read": done["ingest"], "units_written": done["apply"], "holder": holder}
    data |= {"stages": stages, "last_event": run[-1] if run else None, "slices": slices}
    lines = [f"{out}: {state}; units read {done['ingest']:,}, written {done['apply']:,}"]
    if holder:
        lines[0] += f"; held by {holder['command']!r}, process {holder['pid']} on {holder['host']}"
    if slices:
        lines.append(f"  {slices['count']} slices, {slices['step']}; {slices['units']:,} units in all")
    for index, found in slices["running"].items() if slices else ():
        lines.append(f"  slice {index}: process {found['holder']['pid']} on {found['holder']['host']}")
        lines += [f"  {_stage_line(stage)}" for stage in found["stages"]]
    lines += [_stage_line(stage) for stage in stages]
    if run:
        lines.append(f"last event: {run[-1]['event']} at {run[-1]['time']}")
    if store.complete():
        try:
            decontamination = json.loads((out / MANIFEST).read_bytes()).get("decontamination")
        except (ValueError, AttributeError):
            lines.append(f"{MANIFEST} is damaged: run curate verify {out}")
            decontamination = None
        if decontamination is not None:
            from curate.cards.contamination import headline

            data["decontamination"] = decontamination
            lines.append(headline(decontamination))
    return data, "\n".join(lines)


def _slices(out: Path) -> dict[str, Any] | None:
    if not (out / ".slices").is_dir():  # pipeline.SLICES, which is heavy to import
        return None
    from curate.slices import progress

    return progress(out)


def _stage_line(stage: dict[str, Any]) -> str:
    rate = f", {stage['rate']:,.2f} a second" if stage["rate"] else ""
    left = "" if stage["left"] is None else f", about {stage['left']:,} s left"
    end = "" if stage["finished"] else " (not finished)"
    return f"  {oneline(stage['stage']):<24} {stage['done']:,} of {stage['of']:,} in {stage['seconds']:,.1f} s{rate}{left}{end}"


def sample(raw: Path, seed: int, rows: int | None) -> Said:
    """Write the embedded sample corpus."""
    from curate.sample import write_sample

    if raw.is_file():
        raise UsageError(f"{raw} is a file", hint="name a new folder")
    if raw.exists() and any(raw.iterdir()):
        raise UsageError(f"{raw} is not empty", hint="name a new folder")
    truth = write_sample(raw, seed=seed, rows=rows)
    return truth, f"sample corpus in {raw}; what was planted: {raw.with_name(raw.name + '-truth') / 'truth.json'}"


def doctor() -> Said:
    """What this machine offers, and what would get in the way."""
    import os
    import platform
    import shutil
    import tempfile

    from curate.account import versions
    from curate.foundation.executor import usable_cores

    disk = shutil.disk_usage(Path.cwd())
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    cache = os.environ.get("NUMBA_CACHE_DIR", "")
    data: dict[str, Any] = {
        "versions": versions(),
        "platform": platform.platform(),
        "cores": usable_cores(),
        "memory_bytes": pages,
        "free_disk_bytes": disk.free,
        "temporary_folder": tempfile.gettempdir(),
        "kernel_cache_writable": os.access(cache or Path(__file__).parent, os.W_OK),
        "hub": "offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else "as huggingface_hub is set up",
    }
    lines = [f"{name} {value}" for name, value in data["versions"].items()]
    lines += [
        f"cores {data['cores']}, memory {pages / 2**30:.1f} GiB, free disk {disk.free / 2**30:.1f} GiB",
        f"kernel cache {'writable' if data['kernel_cache_writable'] else 'not writable: kernels compile at each start'}",
        f"hub: {data['hub']}",
    ]
    return data, "\n".join(lines)
