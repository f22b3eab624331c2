"""What the river found of what the sample planted, counted row by row against `truth.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Place = tuple[str, int]

# Which stage is meant to find a kind, and by which rule (a prefix; "" = any of its rules).
FINDS: Final = {
    "broken_json": ("quarantine", ""),
    "mojibake": ("quality", "encoding."),
    "unfinished": ("quality", "unfinished"),
    "exact_duplicate": ("exact", ""),
    "near_duplicate": ("minhash", ""),
    "leaked_pair": ("decontaminate", ""),
    "leaked_template": ("decontaminate", ""),
    "over_long": ("pack", "overlong"),
}


def compare(truth: Mapping[str, Any], out: Path, shards: Path) -> dict[str, Any]:
    """By kind: planted, found (None where no stage looks for it yet); and the rows that went without being planted.

    Of a planted pair either row may go, since the keep rule and not the planting decides which one stays.
    """
    gone = _gone(out, shards)
    kinds: dict[str, dict[str, Any]] = {}
    explained: set[Place] = set()
    for entry in truth["planted"]:
        stage, rule = FINDS[entry["kind"]]
        there = stage in gone
        kind = kinds.setdefault(entry["kind"], {"stage": stage, "planted": 0, "found": 0 if there else None})
        kind["planted"] += 1
        places = [(entry["file"], entry["row"])]
        if "twin" in entry:
            places.append((entry["twin"]["file"], entry["twin"]["row"]))
        taken = gone.get(stage, {})
        hits = [place for place in places if place in taken and taken[place].startswith(rule)]
        explained.update(hits)
        if there:
            kind["found"] += bool(hits)
    every = {place for rows in gone.values() for place in rows}
    return {"kinds": {name: kinds[name] for name in FINDS if name in kinds}, "not_planted": len(every - explained)}


def _gone(out: Path, shards: Path) -> dict[str, dict[Place, str]]:
    """By stage, the rows that went and the rule that took them; a stage that ran is there even when it took none."""
    manifest = json.loads((out / "manifest.json").read_bytes())
    gone: dict[str, dict[Place, str]] = {"quarantine": {}, "pack": {}}
    for stage in manifest["stages"]:
        files = [out / name for name in manifest["files"] if name.startswith(f"removed/{stage['name']}/")]
        gone[stage["name"]] = dict(_rows(files, "rule"))
    for name in manifest["files"]:
        if name.startswith("quarantine/"):
            for line in (out / name).read_text("utf-8").splitlines():
                row = json.loads(line)
                gone["quarantine"][row["file"], row["row"]] = row["reason"]
    packed = json.loads((shards / "manifest.json").read_bytes())
    for name in packed["files"]:
        if name.startswith("removed/"):
            rule = name.split("/")[1]
            gone["pack"] |= {place: rule for place, _ in _rows([shards / name], "reason")}
    return gone


def _rows(files: Iterable[Path], column: str) -> Iterable[tuple[Place, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        arrow = file.suffix == ".arrow"  # what pack removed
        table = pa.ipc.open_file(pa.memory_map(str(file))).read_all() if arrow else pq.read_table(file)
        for row in table.select(["origin", column]).to_pylist():
            yield (row["origin"]["file"], row["origin"]["row"]), row[column]
