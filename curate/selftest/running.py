"""The configured stages on planted records, in a temporary folder, and what they made of them.

The sample is drawn from the kept records of a curated folder, which is only read. Cost: for 2,000 records of 1 kB about
ten seconds, most of it the plain-Python measuring; memory for the sample and its copies.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from curate.config import validate
from curate.curated import open_folder
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.record import Record, from_row
from curate.selftest.leaking import NAME as LEAKS
from curate.selftest.leaking import measure_leaks
from curate.selftest.measuring import Alike, Promise, promises
from curate.selftest.planting import KINDS, Group, plant
from curate.selftest.staged import run_on
from curate.selftest.tally import Tally
from curate.settings import CurateConfig

STAGES: Final = ("exact", "minhash", "embedding")
OWN: Final = "your records"
LISTED: Final = 20
FEWEST: Final = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the stages did: of each removed record the stage, the twin and the similarity it was removed for."""

    records: dict[str, Record]
    removed: dict[str, tuple[str, str]]


def measure(out: Path, rows: int, seed: int, console: Console) -> dict[str, Any]:
    """Plant, run, count; raises UsageError where nothing can be tested, DataError where there are too few records."""
    _, manifest = open_folder(out)
    config = validate(CurateConfig, manifest["config"], "curate")
    stages = [stage for stage in STAGES if stage in config.stages]
    if not stages and LEAKS not in config.stages:
        raise UsageError(
            f"{out}: no stage that removes duplicates or evaluation items ran here",
            hint=f"for example: curate minhash {out} out2/",
        )
    config = _alone(config, stages)
    sample = draw_sample(out, manifest, rows, seed)
    if len(sample) < FEWEST:
        raise DataError(
            f"{out} keeps too few records for a selftest ({len(sample)}, at least {FEWEST})",
            hint=f"see what was removed: curate card {out}",
        )
    console.say(f"planting into {len(sample):,} of {manifest['totals']['kept']:,} kept records")
    found = _duplicates(sample, config, seed, console) if stages else {"kinds": {}, "missed": [], "wrong": []}
    floors = config.selftest
    facts = {
        "stages": {stage: getattr(config, stage).model_dump(mode="json") for stage in stages},
        "sample": len(sample),
        "seed": seed,
        **found,
        "floors": floors.model_dump(mode="json"),
    }
    if LEAKS in manifest["config"]["stages"]:
        console.say(f"running {LEAKS} on planted evaluation items")
        facts["leaks"] = measure_leaks(sample, config, seed)
    judged = [facts["kinds"], facts.get("leaks", {}).get("kinds", {})]
    facts["below"] = [line for kinds in judged for line in below(kinds, floors.recall, floors.precision)]
    return facts


def _duplicates(sample: list[Record], config: CurateConfig, seed: int, console: Console) -> dict[str, Any]:
    """The stages that remove duplicates: counts by kind, and what went wrong."""
    promised = promises(config.model_dump(mode="json"))
    alike = next((promise for promise in promised if isinstance(promise, Alike)), None)
    groups = plant(sample, alike, seed)
    console.say(f"running {', '.join(config.stages)} on {len(groups):,} planted groups")
    return judge(sample, groups, _run(sample, groups, config), promised)


def _alone(config: CurateConfig, stages: Sequence[str]) -> CurateConfig:
    """The recorded settings with only these stages, and nothing from earlier outputs or of single records."""
    update: dict[str, Any] = {"stages": tuple(stages), "restore": (), "examples": 0}
    if "previous" in CurateConfig.model_fields:
        update["previous"] = ()
    return config.model_copy(update=update)


def draw_sample(out: Path, manifest: dict[str, Any], rows: int, seed: int) -> list[Record]:
    """At most `rows` of the kept records, drawn evenly over the folder and shuffled; the same for the same folder."""
    names = [name for name in manifest["files"] if name.startswith("records/")]
    sizes = {name: pq.read_metadata(out / name).num_rows for name in names}
    draw = random.Random(seed)
    total = sum(sizes.values())
    places = sorted(draw.sample(range(total), min(rows, total)))
    found: list[Record] = []
    start = 0
    for name in names:
        mine = [place - start for place in places if start <= place < start + sizes[name]]
        start += sizes[name]
        if mine:
            found += _rows(out / name, mine)
    draw.shuffle(found)
    return found


def _rows(path: Path, wanted: Sequence[int]) -> list[Record]:
    """Records of a Parquet file by position, a batch at a time."""
    found: list[Record] = []
    start = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=4_096):
            mine = [place - start for place in wanted if start <= place < start + batch.num_rows]
            found += map(from_row, batch.take(pa.array(mine, pa.int64())).to_pylist() if mine else [])
            start += batch.num_rows
    return found


def _run(sample: Sequence[Record], groups: Sequence[Group], config: CurateConfig) -> Outcome:
    """Run the stages on the sample and what was planted."""
    replaced = {ident for group in groups for ident in group.made_of}
    used = {record.id: record for record in sample if record.id not in replaced}
    for group in groups:
        used |= {record.id: record for record in group.records}
    return Outcome(used, run_on(used.values(), config).removed)


def judge(
    sample: Sequence[Record], groups: Sequence[Group], outcome: Outcome, promised: Sequence[Promise]
) -> dict[str, Any]:
    """Count by kind: pairs that had to part, and removals that no promise covers."""
    by_stage = {promise.stage: promise for promise in promised}
    alike = next((promise for promise in promised if isinstance(promise, Alike)), None)
    tallies = {kind: Tally() for kind in (*KINDS, OWN)}
    missed: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    kind_of = {record.id: OWN for record in sample}
    for group in groups:
        tally = tallies[group.kind]
        kind_of |= {record.id: group.kind for record in group.records}
        for one, two in combinations(group.records, 2):
            tally.pairs += 1
            similarity = alike.similarity(one, two) if alike else None
            tally.similarities += [] if similarity is None else [similarity]
            if not any(promise.holds(one, two) for promise in promised):
                continue
            tally.due += 1
            if {one.id, two.id} & outcome.removed.keys():
                tally.parted += 1
            else:
                missed.append({"kind": group.kind, "id": one.id, "jaccard": similarity})
    for ident, (stage, twin) in sorted(outcome.removed.items()):
        tally = tallies[kind_of[ident]]
        tally.removed += 1
        verdict = by_stage[stage].holds(outcome.records[ident], outcome.records[twin])
        kept = outcome.removed.get(twin, ("", ""))[0] != stage
        if verdict is None and kept:
            tally.by_meaning += 1
        elif not verdict or not kept:
            tally.wrong += 1
            wrong.append({"kind": kind_of[ident], "id": ident, "twin": twin, "stage": stage, "twin_kept": kept})
    kinds = {kind: tally.facts() for kind, tally in tallies.items()}
    return {"kinds": kinds, "missed": missed[:LISTED], "wrong": wrong[:LISTED]}


def below(kinds: dict[str, dict[str, Any]], recall: float, precision: float) -> list[str]:
    """What misses its floor, in words; empty when everything passes."""
    out = []
    for kind, facts in kinds.items():
        for name, floor in (("recall", recall), ("precision", precision)):
            if facts[name] is not None and facts[name] < floor:
                out.append(f"{kind}: {name} {facts[name]:.4f}, floor {floor:g}")
    return out
