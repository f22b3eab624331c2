"""The accounts: unit counts summed into the manifest, the law, the wipe-out alarm.

    rows read = rows that gave records + rows quarantined        records = kept + removed

Both are checked for every file and every source before a manifest is written; a run that breaks one writes none.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

from curate import facts
from curate.foundation.errors import DataError


def combine(
    units: Sequence[Any],
    ingested: Sequence[Mapping[str, Any]],
    applied: Sequence[Mapping[str, Any]],
    order: Sequence[str],
) -> dict[str, Any]:
    """Sum the counts of every unit into the facts of a manifest; units come in plan order."""
    total: dict[str, Any] = {"formats": {}, "notes": {}, "quarantine": {}}
    inputs: dict[str, dict[str, Any]] = {}
    sources: dict[str, dict[str, Any]] = {}
    stages: dict[str, dict[str, Any]] = {name: {} for name in order}
    kept: dict[str, Any] = {}
    for unit, first, second in zip(units, ingested, applied, strict=True):
        for key in ("formats", "notes", "quarantine"):
            facts.add(total[key], first[key])
        entry = inputs.setdefault(
            unit.file,
            {
                "file": unit.file,
                "source": unit.source,
                "rows": 0,
                "records": 0,
                "quarantined": 0,
                "kept": 0,
                "removed": 0,
            }
            | {"formats": {}, "container": getattr(unit, "container", "curated"), "digests": []},
        )
        entry["rows"] += first["rows"]
        entry["quarantined"] += first["quarantined"]
        entry["records"] += sum(first["records"].values())
        entry["kept"] += sum(part["records"] for part in second["kept"].values())
        entry["digests"].append(unit.digest)
        facts.add(entry["formats"], first["formats"])
        place = sources.setdefault(unit.source, _source())
        place["rows"] += first["rows"]
        place["quarantined"] += first["quarantined"]
        for name, count in first["records"].items():
            sources.setdefault(name, _source())["records"] += count
        for name, count in first["characters"].items():
            sources.setdefault(name, _source())["characters_in"] += count
        for part in (first, second):
            for stage, found in part["stages"].items():
                facts.add(stages[stage], found)
                entry["removed"] += sum(found["removed"].values())
        facts.add(kept, second["kept"])
    for name, part in kept.items():
        place = sources.setdefault(name, _source())
        place["kept"] = part["records"]
        place["characters_kept"] = part["characters"]
        place["assistant_characters_kept"] = part["assistant_characters"]
        if "tokens" in part:
            place["tokens_kept"] = part["tokens"]
    return total | {
        "inputs": list(inputs.values()),
        "sources": dict(sorted(sources.items())),
        "stages": _stages(stages, sources, order),
        "examples": {
            f"{stage}.{rule}" if not rule.startswith(stage) else rule: shown
            for stage, found in stages.items()
            for rule, shown in sorted(found.get("examples", {}).items())
        },
        **_shape(kept),
    }


def _source() -> dict[str, Any]:
    zero = ("rows", "records", "quarantined", "kept", "characters_in", "characters_kept", "assistant_characters_kept")
    return {**dict.fromkeys(zero, 0), "removed": {}, "flagged": {}}


def _stages(
    stages: Mapping[str, Mapping[str, Any]], sources: dict[str, dict[str, Any]], order: Sequence[str]
) -> list[dict[str, Any]]:
    entering = {name: place["records"] for name, place in sources.items()}
    characters = sum(place["characters_in"] for place in sources.values())
    out = []
    for stage in order:
        found = stages[stage]
        removed = found.get("removed", {})
        own = found.get("own", removed)
        lost = sum(found.get("characters", {}).values())
        split = {
            name: {"in": entering[name], "removed": removed.get(name, 0), "own": own.get(name, 0)}
            for name in sorted(entering)
        }
        for name, flagged in found.get("flagged_by_source", {}).items():
            facts.add(sources[name]["flagged"], flagged)
        for name, count in sorted(removed.items()):
            sources[name]["removed"][stage] = count
            entering[name] -= count
        rules = {
            rule: {"removed": 0, "flagged": 0, "fixed": 0} | counts
            for rule, counts in sorted(found.get("rules", {}).items())
        }
        out.append(
            {"name": stage, "records_in": sum(part["in"] for part in split.values()), "removed": sum(removed.values())}
            | {"characters_in": characters, "characters_removed": lost, "rules": rules, "by_source": split}
        )
        characters -= lost
    return out


def _shape(kept: Mapping[str, Any]) -> dict[str, Any]:
    lengths: dict[str, Any] = {}
    turns: dict[str, int] = {}
    roles: dict[str, int] = {}
    for part in kept.values():
        facts.add(lengths, part["lengths"])
        facts.add(turns, part["turns"])
        facts.add(roles, part["roles"])
    ordered = dict(sorted(turns.items(), key=lambda item: int(item[0])))
    return {"lengths": {"edges": facts.EDGES, **lengths}, "turns": ordered, "roles": roles}


def totals(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Sums over all sources."""
    keys = ["rows", "records", "quarantined", "kept", "characters_in", "characters_kept"]
    if any("tokens_kept" in place for place in sources.values()):
        keys.append("tokens_kept")
    out = {key: sum(place.get(key, 0) for place in sources.values()) for key in keys}
    out["removed"] = sum(sum(place["removed"].values()) for place in sources.values())
    return out


def law(account: Mapping[str, Any], rows_with_records: Mapping[str, int]) -> list[str]:
    """Check both equations for each file and source; returns one line for each that does not hold."""
    broken = []
    for entry in account["inputs"]:
        gave = rows_with_records[entry["file"]]
        if entry["rows"] != gave + entry["quarantined"]:
            broken.append(
                f"{entry['file']}: {entry['rows']:,} rows read, but {gave:,} gave records and "
                f"{entry['quarantined']:,} were quarantined"
            )
        if entry["records"] != entry["kept"] + entry["removed"]:
            broken.append(
                f"{entry['file']}: {entry['records']:,} records, but {entry['kept']:,} kept and {entry['removed']:,} removed"
            )
    for name, place in account["sources"].items():
        removed = sum(place["removed"].values())
        if place["records"] != place["kept"] + removed:
            broken.append(f"{name}: {place['records']:,} records, but {place['kept']:,} kept and {removed:,} removed")
    return broken


def enforce(broken: Iterable[str]) -> None:
    """Refuse to go on when the law is broken."""
    lines = list(broken)
    if lines:
        raise DataError(
            "the accounts do not add up: " + "; ".join(lines[:3]), hint="this is a defect of ours: please report it"
        )


def alarms(stages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Sources that lost more than half of their records in one stage, twins in other sources not counted."""
    return [
        {"stage": stage["name"], "source": name, "in": part["in"], "removed": part["own"]}
        for stage in stages
        for name, part in stage["by_source"].items()
        if 2 * part["own"] > part["in"]
    ]


def versions() -> dict[str, str]:
    """The versions that decide the bytes of a curated folder."""
    names = ("gristmill", "pyarrow", "polars", "numpy", "numba", "orjson", "xxhash", "pydantic")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
