"""The card of packed shards: manifest of kind "shards" -> Card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curate.cards import figures, frontmatter
from curate.cards.model import Card, Example, Fence, Section, Table
from curate.cards.sidecar import Sidecar
from curate.cards.text import code, line, percent

Manifest = Mapping[str, Any]
FATES = ("packed", "eval", "overlong", "template_failed", "not_drawn")


def build(manifest: Manifest, sidecar: Sidecar, title: str) -> Card:
    """The facts of a shards folder, without opening a shard."""
    splits, sources = manifest.get("splits") or {}, manifest.get("sources") or {}
    train, ctx = splits.get("train") or {}, int(manifest.get("ctx") or 0)
    rows = sum(split.get("rows", 0) for split in splits.values())
    card = Card("shards", title, f"{rows:,} packed rows of exactly {ctx:,} tokens.")
    if (fill := train.get("fill", manifest.get("fill"))) is not None:
        card.headline += f" {100 * fill:.2f} % of the training tokens are text, the rest is padding."
    tokenizer = manifest.get("tokenizer") or {}
    own = " (embedded: no tokenizer was named)" if manifest.get("embedded_tokenizer") else ""
    card.status = [f"Tokenizer: {tokenizer.get('name', 'unknown')}{own}"]
    card.warnings = [str(text) for text in manifest.get("warnings") or []]
    for name, place in sources.items():
        lost = {key: count for key, count in (place.get("lost") or {}).items() if count}
        if lost:
            told = ", ".join(f"{key.removeprefix('lost:')} {count:,}" for key, count in lost.items())
            card.warnings.append(f"The chat template does not show every text of source {name}: {told}")
    card.facts = _facts(manifest, rows)
    card.sections = [
        Section("Every record accounted for", _law(sources)),
        Section("Sources", _sources(sources)),
        Section("How the rows are packed", _packing(manifest, splits, ctx)),
        Section("How to load", [_loading(splits)]),
        Section("How to reproduce", _reproduce(manifest, ctx)),
    ]
    card.front = {
        "pretty_name": line(title),
        **frontmatter.licence(sidecar, [place.get("licence") for place in sources.values()]),
        **({"language": sidecar.lists["language"]} if sidecar.lists.get("language") else {}),
        "size_categories": [frontmatter.size_category(rows)],
        "task_categories": sidecar.lists.get("task_categories", ["text-generation"]),
        "tags": list(dict.fromkeys(["gristmill", "packed", "tokenized", *sidecar.lists.get("tags", [])])),
        "configs": frontmatter.configs(
            manifest.get("files") or {}, {name: name for name in splits} or {"train": "train"}
        ),
    }
    keys = (
        "ctx",
        "splits",
        "sources",
        "totals",
        "tokenizer",
        "template_digest",
        "engine",
        "algorithm",
        "seed",
        "fingerprint",
    )
    card.numbers = {key: manifest.get(key) for key in (*keys, "config_digest", "digest", "lengths")}
    return card


def _facts(manifest: Manifest, rows: int) -> list[tuple[str, Any]]:
    totals, tokenizer = manifest.get("totals") or {}, manifest.get("tokenizer") or {}
    out: list[tuple[str, Any]] = [("Rows", rows), ("Tokens a row", manifest.get("ctx"))]
    out += [("Records in", totals.get("records")), ("Training tokens", totals.get("tokens"))]
    out += [("Tokens with loss", totals.get("trained")), ("Vocabulary", tokenizer.get("vocab_size"))]
    engine = manifest.get("engine")
    engine = engine.get("engine") or engine.get("name") if isinstance(engine, Mapping) else engine
    return [*out, ("Engine", engine), ("Algorithm", manifest.get("algorithm")), ("Seed", manifest.get("seed"))]


def _law(sources: Mapping[str, Any]) -> list[Any]:
    sums = {key: sum(place.get(key, 0) for place in sources.values()) for key in ("records", *FATES)}
    holds = "holds" if sums["records"] == sum(sums[key] for key in FATES) else "BROKEN"
    names = ("packed", "held for eval", "over-long", "template failed", "not drawn")
    parts = "\n         +  ".join(f"{sums[key]:>12,} {name}" for key, name in zip(FATES, names, strict=True))
    return [Fence(f"records in  {sums['records']:,}   ({holds})\n         =  {parts}")]


def _sources(sources: Mapping[str, Any]) -> list[Any]:
    fates = {
        name: {key.replace("_", " "): place.get(key, 0) for key in FATES if place.get(key)}
        for name, place in sources.items()
    }
    headers = (
        "Source",
        "Licence",
        "Records",
        "Packed",
        "Eval",
        "Over-long",
        "Template failed",
        "Not drawn",
        "Tokens",
        "With loss",
    )
    rows = [
        [
            code(name),
            place.get("licence") or "unknown",
            place.get("records", 0),
            *(place.get(key, 0) for key in FATES),
            place.get("tokens", 0),
            percent(place.get("trained", 0), place.get("tokens", 0)),
        ]
        for name, place in sources.items()
    ]
    return [figures.shares(fates), Table(headers, rows)]


def _packing(manifest: Manifest, splits: Mapping[str, Any], ctx: int) -> list[Any]:
    blocks: list[Any] = []
    ribbon = manifest.get("ribbon") or {}
    if isinstance(ribbon, list):
        ribbon = {"segments": ribbon}
    if ribbon.get("segments"):
        blocks.append(
            figures.ribbon(ribbon["segments"], int(ribbon.get("ctx") or ctx), ribbon.get("trained_spans") or [])
        )
    rows = [
        [
            code(name),
            split.get("rows"),
            split.get("lower_bound"),
            _share(split.get("fill")),
            split.get("segments_per_row"),
            split.get("tokens"),
            split.get("trained"),
        ]
        for name, split in splits.items()
    ]
    headers = ("Split", "Rows", "Least possible rows", "Fill", "Documents a row", "Tokens", "With loss")
    blocks.append(Table(headers, rows))
    lengths = dict(manifest.get("lengths") or {})
    if edges := lengths.pop("edges", []):
        blocks.append(figures.histogram("lengths", "Tokens per document", edges, lengths))
    added = manifest.get("added_tokens")
    if added:
        blocks.append(f"Tokens added to the tokenizer: {len(added) if hasattr(added, '__len__') else added}.")
    for sample in (manifest.get("samples") or [])[:3]:
        text = str(sample.get("text", "")) if isinstance(sample, Mapping) else str(sample)
        source = str(sample.get("source", "")) if isinstance(sample, Mapping) else ""
        blocks.append(Example(["What carries loss, decoded, from ", code(source)], text))
    return blocks


def _share(fill: float | None) -> str | None:
    return None if fill is None else f"{100 * fill:.2f} %"


def _loading(splits: Mapping[str, Any]) -> Fence:
    names = list(splits) or ["train"]
    lines = [f'{line(name)} = shards["{line(name)}"]' for name in names if name.isidentifier()]
    body = "\n".join(
        ["from datasets import load_dataset", "", 'shards = load_dataset("shards/")  # this folder', *lines]
    )
    return Fence(body, "python")


def _reproduce(manifest: Manifest, ctx: int) -> list[Any]:
    tokenizer = manifest.get("tokenizer") or {}
    digests = [
        ("Fingerprint of the shards", manifest.get("fingerprint")),
        ("Input manifest digest", (manifest.get("input") or {}).get("digest")),
        ("Config digest", manifest.get("config_digest")),
        ("Tokenizer digest", tokenizer.get("digest")),
        ("Template digest", manifest.get("template_digest") or (manifest.get("template") or {}).get("digest")),
    ]
    rows = [[name, code(str(value))] for name, value in digests if value]
    named = "" if manifest.get("embedded_tokenizer") else f" --tokenizer {line(str(tokenizer.get('name', 'T')))}"
    return [Fence(f"pack build out/ shards/ --ctx {ctx}{named}\npack verify shards/", "sh"), Table(("", "Value"), rows)]
