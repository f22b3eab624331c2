"""Deciding again over a finished folder: `curate restore` and `curate rethreshold`.

Records and removals are read back in file order, every stage judges again under the changed settings in a new folder
beside the old one, and the two are exchanged: a kill in between leaves the old folder or the new one, complete.
Vectors of the embedding stage are taken along, so no model is needed for texts that were embedded before.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.cards.render import write_card
from curate.commands import SMALL, Said, curated_work, report, size_of
from curate.config import merge, validate
from curate.curated import open_folder
from curate.foundation.console import Console
from curate.foundation.errors import GristmillError, UsageError
from curate.foundation.executor import Spread
from curate.foundation.store import Store, exchange
from curate.ledger import find
from curate.pipeline import Work, run
from curate.places import known_sources
from curate.settings import CurateConfig

VECTORS = "sketches/embedding/vectors.arrow"


def restore(
    out: Path, rule: str | None, source: str | None, idents: Sequence[str], spread: Spread, console: Console
) -> Said:
    """Bring records back by rule, source or id; the later stages judge again what came back."""
    if rule is None and source is None and not idents:
        raise UsageError("nothing to restore", hint="name --rule STAGE.RULE (see the card), --source NAME or --id ID")
    _, manifest = open_folder(out)
    if source is not None:
        known_sources([source], set(manifest["sources"]), "--source")
    ids = []
    for ident in idents:
        hits = [row["id"] for row in find(out, manifest, ident) if row["in"].startswith("removed/")]
        if not hits:
            raise UsageError(f"{ident}: not among the removed records of {out}", hint=f"curate explain {ident} {out}")
        ids += hits
    _known_rule(manifest, rule)
    entry = {"rule": rule, "source": source, "ids": sorted(set(ids))}
    change = {"restore": [*manifest["config"]["restore"], entry]}
    work, fresh, _ = _redo(out, manifest, change, spread, console, "curate restore")
    before, after = manifest["totals"]["kept"], fresh["totals"]["kept"]
    data, text = report(work, fresh, spread, console, root=out)
    return {
        **data,
        "restored": after - before,
    }, f"{after - before:,} records came back ({before:,} -> {after:,})\n{text}"


def rethreshold(
    out: Path,
    thresholds: dict[str, float | None],
    spread: Spread,
    console: Console,
    *,
    allow_wipeout: bool = False,
) -> Said:
    """Decide again at other thresholds, by stage; later stages judge again what changed; no text is embedded again."""
    given = {stage: value for stage, value in thresholds.items() if value is not None}
    if not given:
        raise UsageError("no threshold is named", hint="name --embedding C, --minhash J, or both")
    _, manifest = open_folder(out)
    for stage in given:
        if stage not in manifest["config"]["stages"]:
            raise UsageError(
                f"--{stage}: {out} was made without that stage",
                hint=f"run it into a new folder: curate {stage} {out} OUT",
            )
    change: dict[str, Any] = {stage: {"threshold": value} for stage, value in given.items()}
    if allow_wipeout:
        change["allow_wipeout"] = True
    if "embedding" in given:
        _same_model(out, manifest)
    work, fresh, moved = _redo(out, manifest, change, spread, console, "curate rethreshold")
    if "minhash" in given:
        _say_chance(work.config, console)
    lines = [
        f"{stage}: threshold {manifest['config'][stage]['threshold']} -> {value}" for stage, value in given.items()
    ]
    before, after = manifest["totals"]["kept"], fresh["totals"]["kept"]
    lines.append(f"{moved[0]:,} records came back, {moved[1]:,} went ({before:,} -> {after:,} kept)")
    console.say("\n".join(lines))
    data, text = report(work, fresh, spread, console, root=out)
    return {**data, "thresholds": given, "came_back": moved[0], "went": moved[1]}, text


def _redo(
    out: Path, manifest: dict[str, Any], change: dict[str, Any], spread: Spread, console: Console, command: str
) -> tuple[Work, dict[str, Any], tuple[int, int]]:
    """Run every stage again under changed settings and exchange the folders.

    Returns the work, the new manifest, and how many records came back and went.
    """
    config = validate(CurateConfig, merge(manifest["config"], change), "curate")
    recipe = merge(manifest["recipe"], {"curate": change})
    target = out.with_name(f".{out.name}.next")
    work = curated_work(out, target, manifest, config, recipe, removed=True)
    with Store(out, "records").locked(command):
        store = Store(target, "records")
        if (out / "card.yaml").is_file():
            store.write_bytes("card.yaml", (out / "card.yaml").read_bytes())
        if (out / VECTORS).is_file():
            with store.writing(VECTORS) as temp:
                shutil.copyfile(out / VECTORS, temp)
        fresh = run(work, spread.over(sum(map(size_of, work.units)), SMALL), console, command)
        old, new = _kept(out, manifest), _kept(target, fresh)
        exchange(out, target)
        write_card(out, fresh)  # under the folder's own name
    return work, fresh, (_only(new, old), _only(old, new))


def _kept(root: Path, manifest: dict[str, Any]) -> pa.ChunkedArray:
    names = [name for name in manifest["files"] if name.startswith("records/")]
    return pa.chunked_array(
        [chunk for name in names for chunk in pq.read_table(root / name, columns=["id"]).column("id").chunks],
        pa.string(),
    )


def _only(one: pa.ChunkedArray, other: pa.ChunkedArray) -> int:
    """How many ids of `one` are not in `other`."""
    return len(one) - int(pc.sum(pc.is_in(one, other.combine_chunks())).as_py() or 0)


def _same_model(out: Path, manifest: dict[str, Any]) -> None:
    """Refuse to decide again when the model's name stands for another model by now; one that is gone is no matter."""
    from curate.embedding.embed import stored_in
    from curate.embedding.models import identity, locate

    stored, name = stored_in(out), manifest["config"]["embedding"]["model"]
    try:
        now = identity(locate(name))
    except (GristmillError, OSError):
        return
    if stored is not None and stored.identity != now:
        raise UsageError(
            f"{out} was embedded by {name} as it was ({stored.identity}); now that is another model ({now})",
            hint="put the old model back, or filter again",
        )


def _say_chance(config: CurateConfig, console: Console) -> None:
    from curate.stages.minhash_settings import chance

    bands, rows = config.minhash.shape
    hit = chance(config.minhash.threshold, bands, rows)
    console.say(
        f"minhash: {bands} bands x {rows} rows look at a pair of Jaccard {config.minhash.threshold} with chance {hit:.4f}"
    )


def _known_rule(manifest: dict[str, Any], rule: str | None) -> None:
    if rule is None:
        return
    known = {stage["name"]: list(stage["rules"]) for stage in manifest["stages"]}
    full = {
        f"{name}.{item}" if not item.startswith(f"{name}.") else item for name, items in known.items() for item in items
    }
    if rule not in full and rule not in known:
        shown = ", ".join(sorted(full)) or "none"
        raise UsageError(f"--rule {rule}: removed nothing in this folder", hint=f"rules that did: {shown}")
