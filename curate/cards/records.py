"""The card of a curated folder: manifest of kind "records" -> Card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.cards import contamination, figures, frontmatter
from curate.cards.duplicates import duplicate_blocks, near_state
from curate.cards.model import Card, Example, Fence, Section, Table
from curate.cards.sidecar import Sidecar
from curate.cards.text import Markdown, code, line, percent, show

Manifest = Mapping[str, Any]
SHOWN = 2


def build(manifest: Manifest, sidecar: Sidecar, title: str) -> Card:
    """The facts of a curated folder, without reading its data."""
    totals = manifest.get("totals") or {}
    kept, records = totals.get("kept", 0), totals.get("records", 0)
    sources = manifest.get("sources") or {}
    card = Card("records", title, "")
    card.headline = (
        f"{kept:,} of {records:,} records kept ({percent(kept, records)}), from {totals.get('rows', 0):,} rows."
    )
    compared = contamination.stage_facts(manifest.get("stages") or [])
    card.status = [
        contamination.headline(manifest.get("decontamination")).replace("d", "D", 1),
        state("Near duplicates", near_state(manifest)),
    ]
    card.warnings = [
        f"Alarm: {a['stage']} removed {a['removed']:,} of {a['in']:,} records of source {a['source']}"
        for a in manifest.get("alarms") or []
    ] + [str(text) for text in [*contamination.warnings(compared), *(manifest.get("warnings") or [])]]
    if manifest.get("allow_wipeout"):
        card.warnings.append("Rerun with --allow-wipeout: alarms were overruled by hand")
    card.facts = facts(manifest)
    blocks = [law(totals), *stage_blocks(manifest)]
    card.sections = [
        Section("Every row accounted for", blocks),
        Section("Sources and licences", source_blocks(manifest)),
    ]
    card.sections += [Section("What was removed, and why", removed_blocks(manifest))]
    if duplicates := duplicate_blocks(manifest):
        card.sections.append(Section("Duplicates", duplicates))
    if found := contamination.contamination_blocks(manifest):
        card.sections.append(Section("Contamination", found))
    if manifest.get("quarantine"):
        card.sections.append(Section("Quarantine", quarantine_blocks(manifest)))
    card.sections.append(Section("Shape of what was kept", shape_blocks(manifest)))
    card.sections.append(Section("How to load", load_blocks(manifest)))
    card.sections.append(Section("How to reproduce", reproduce_blocks(manifest)))
    card.front = {
        "pretty_name": line(title),
        **frontmatter.licence(sidecar, [place.get("licence") for place in sources.values()]),
        **({"language": sidecar.lists["language"]} if sidecar.lists.get("language") else {}),
        "size_categories": [frontmatter.size_category(kept)],
        "task_categories": sidecar.lists.get("task_categories", ["text-generation"]),
        "tags": list(dict.fromkeys(["gristmill", "instruction-tuning", "chat", *sidecar.lists.get("tags", [])])),
        "configs": frontmatter.configs(manifest.get("files") or {}, {"train": "records"}),
    }
    card.numbers = {
        key: manifest.get(key)
        for key in (
            "totals",
            "sources",
            "stages",
            "formats",
            "notes",
            "quarantine",
            "lengths",
            "turns",
            "roles",
            "alarms",
        )
    }
    card.numbers["decontamination"] = manifest.get("decontamination", "OFF")
    if compared:
        card.numbers["undetectable"] = contamination.unseen(compared)
    card.numbers["config_digest"] = manifest.get("config_digest")
    card.numbers["digest"] = manifest.get("digest")
    return card


def state(label: str, value: Any) -> str:
    """A status line: OFF said plainly, or ON with what the manifest tells of it."""
    if not value or value == "OFF":
        return f"{label}: OFF"
    if isinstance(value, Mapping):
        told = ", ".join(f"{key} {show(item)}" for key, item in value.items() if isinstance(item, (str, int, float)))
        return f"{label}: ON" + (f" ({told})" if told else "")
    return f"{label}: {value}"


def facts(manifest: Manifest) -> list[tuple[str, Any]]:
    """The at-a-glance table."""
    totals = manifest.get("totals") or {}
    out: list[tuple[str, Any]] = [
        (f"{key.capitalize()}", totals.get(key, 0)) for key in ("rows", "quarantined", "records", "removed", "kept")
    ]
    out[0] = ("Rows read", out[0][1])
    out += [("Characters in", totals.get("characters_in")), ("Characters kept", totals.get("characters_kept"))]
    if "tokens_kept" in totals:
        out.append(("Tokens kept", totals["tokens_kept"]))
    out += [("Sources", len(manifest.get("sources") or {})), ("Input files", len(manifest.get("inputs") or []))]
    if manifest.get("skipped"):
        out.append(("Files skipped", len(manifest["skipped"])))
    if manifest.get("recipe_name"):
        out.append(("Recipe", code(str(manifest["recipe_name"]))))
    return out


def law(totals: Mapping[str, int]) -> Fence:
    """The two equations with their numbers, and whether they hold."""
    rows, bad = totals.get("rows", 0), totals.get("quarantined", 0)
    records, kept, removed = (totals.get(key, 0) for key in ("records", "kept", "removed"))
    holds = "holds" if records == kept + removed else "BROKEN"
    return Fence(
        f"rows read  {rows:>14,}  =  {rows - bad:,} that gave records  +  {bad:,} quarantined\n"
        f"records    {records:>14,}  =  {kept:,} kept  +  {removed:,} removed   ({holds})"
    )


def stage_blocks(manifest: Manifest) -> list[Any]:
    """The funnel and its table."""
    totals, stages = manifest.get("totals") or {}, manifest.get("stages") or []
    rows, bad, records = (totals.get(key, 0) for key in ("rows", "quarantined", "records"))
    steps = [("rows read", rows, 0, -1), ("records", records, bad, totals.get("characters_in", -1))]
    table = []
    for stage in stages:
        left = stage["records_in"] - stage["removed"]
        size = stage.get("characters_in", 0) - stage.get("characters_removed", 0)
        steps.append((f"after {stage['name']}", left, stage["removed"], size))
        flagged = sum(rule.get("flagged", 0) for rule in (stage.get("rules") or {}).values())
        table.append(
            [
                code(stage["name"]),
                stage["records_in"],
                stage["removed"],
                percent(stage["removed"], stage["records_in"]),
                left,
                stage.get("characters_removed"),
                flagged,
            ]
        )
    steps.append(("kept", totals.get("kept", 0), 0, totals.get("characters_kept", -1)))
    headers = ("Stage", "Records in", "Removed", "Share", "Left", "Characters removed", "Flagged")
    return [figures.funnel(steps), Table(headers, table)]


def source_blocks(manifest: Manifest) -> list[Any]:
    """What became of each source, its licence, and its formats."""
    sources = manifest.get("sources") or {}
    tokens = any("tokens_kept" in place for place in sources.values())
    fates = {
        name: {"kept": place.get("kept", 0), **(place.get("removed") or {}), "quarantined": place.get("quarantined", 0)}
        for name, place in sources.items()
    }
    headers = [
        "Source",
        "Licence",
        "Rows",
        "Quarantined",
        "Records",
        "Removed",
        "Kept",
        "Share kept",
        "Characters kept",
    ]
    rows = []
    for name, place in sources.items():
        removed = sum((place.get("removed") or {}).values())
        row = [code(name), place.get("licence") or "unknown", place.get("rows", 0), place.get("quarantined", 0)]
        row += [
            place.get("records", 0),
            removed,
            place.get("kept", 0),
            percent(place.get("kept", 0), place.get("records", 0)),
        ]
        row += [place.get("characters_kept", 0)] + ([place.get("tokens_kept", 0)] if tokens else [])
        rows.append(row)
    blocks: list[Any] = [figures.shares(fates), Table([*headers, "Tokens kept"] if tokens else headers, rows)]
    if skipped := manifest.get("skipped"):
        blocks.append("Files that were not read:")
        blocks.append(Table(("File", "Why"), [[code(item["file"]), str(item["reason"])] for item in skipped[:20]]))
    return blocks


def removed_blocks(manifest: Manifest) -> list[Any]:
    """Rules with their counts, and redacted examples of each."""
    rules = [
        [code(stage["name"]), code(rule), counts.get("removed", 0), counts.get("flagged", 0), counts.get("fixed", 0)]
        for stage in manifest.get("stages") or []
        for rule, counts in (stage.get("rules") or {}).items()
        if any(counts.values())
    ]
    if not rules:
        return ["Nothing was removed."]
    blocks: list[Any] = [
        Table(("Stage", "Rule", "Removed", "Flagged", "Fixed"), rules),
        Markdown(
            "Removed records lie whole, with their verdicts, in `removed/`; `curate explain ID` shows the evidence and "
            "`curate restore` brings a rule's records back. Examples are shortened, and secrets in them masked."
        ),
    ]
    own = {rule: shown for rule, shown in (manifest.get("examples") or {}).items() if not contamination.of_stage(rule)}
    for rule, shown in sorted(own.items()):
        blocks += [_example(rule, item) for item in shown[:SHOWN]]
    return blocks


def _example(rule: str, item: Mapping[str, Any]) -> Example:
    caption: list[Any] = [code(rule), " in ", code(f"{item.get('file', '?')}, row {item.get('row', '?')}")]
    if item.get("value") is not None:
        caption += [f": {show(item['value'])}"]
        caption += [f", threshold {show(item['threshold'])}"] if item.get("threshold") is not None else []
    if twin := item.get("twin"):
        caption += ["; twin ", code(f"{twin.get('file', '?')}, row {twin.get('row', '?')}")]
    elif item.get("twin_id"):
        caption += ["; twin ", code(item["twin_id"])]
    return Example(caption, str(item.get("text", "")))


def quarantine_blocks(manifest: Manifest) -> list[Any]:
    """Reasons why rows gave no record."""
    rows = [[code(reason), count] for reason, count in manifest["quarantine"].items()]
    told = Markdown(
        "Rows that could not be read, kept byte for byte in `quarantine/` with file, row, offset and reason."
    )
    return [told, Table(("Reason", "Rows"), rows)]


def shape_blocks(manifest: Manifest) -> list[Any]:
    """Length histogram, turns, formats, notes."""
    blocks: list[Any] = []
    lengths = dict(manifest.get("lengths") or {})
    edges = lengths.pop("edges", [])
    if edges and lengths:
        blocks.append(figures.histogram("lengths", "Characters per record", edges, lengths))
    if turns := manifest.get("turns"):
        told = ", ".join(
            f"{turn} {'turn' if turn == '1' else 'turns'}: {count:,}" for turn, count in list(turns.items())[:12]
        )
        blocks.append(f"User turns per conversation. {told}.")
    if formats := manifest.get("formats"):
        blocks.append(Table(("Format found", "Rows"), [[code(name), count] for name, count in formats.items()]))
    if notes := manifest.get("notes"):
        blocks.append(Table(("Note", "Count"), [[code(name), count] for name, count in notes.items()]))
    return blocks or ["No histogram was recorded."]


def load_blocks(manifest: Manifest) -> list[Any]:
    """The load_dataset snippet, with removed/ only where it exists."""
    text = 'from datasets import load_dataset\n\nkept = load_dataset("out/", split="train")  # this folder: kept records only'
    if any(name.startswith("removed/") for name in manifest.get("files") or {}):
        text += '\nremoved = load_dataset("out/", "removed", split="train")  # with the verdict of each'
    return [Fence(text, "python")]


def reproduce_blocks(manifest: Manifest) -> list[Any]:
    """The command, digests and versions."""
    recipe = manifest.get("recipe_name")
    flag = f" --recipe {line(str(recipe))}" if recipe else ""
    rows: list[list[Any]] = [["Config digest", code(str(manifest.get("config_digest") or "unknown"))]]
    rows += [["Manifest digest", code(str(manifest.get("digest") or "unknown"))]]
    rows += [["Input files, each with a digest in the manifest", len(manifest.get("inputs") or [])]]
    rows += [[name, code(str(version))] for name, version in sorted((manifest.get("versions") or {}).items())]
    told = (
        "The whole resolved configuration and the digest of every file are in manifest.json; "
        "same input and configuration give the same bytes."
    )
    return [Fence(f"curate filter raw/ out/{flag}\ncurate verify out/", "sh"), Table(("", "Value"), rows), told]
