"""What the commands of `pack` do: settings in, (data, text) out. The command line only parses and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.config import Resolved, resolve
from curate.foundation.console import Console
from curate.foundation.executor import Spread
from pack.build import Build, build, open_records
from pack.config import PackConfig

Said = tuple[Any, str]
SMALL = 2 << 20  # bytes of compressed records that one process encodes in the time that workers take to start


def settings(
    out: Path, recipe: str | None, sets: Sequence[str], flags: Mapping[str, Any]
) -> tuple[Resolved[PackConfig], dict[str, Any]]:
    """The `pack` section, inherited from the recipe recorded in `out`, and the manifest of `out`."""
    records = open_records(out)
    inherited = dict(records.get("recipe") or {})
    if records.get("recipe_name"):
        inherited.setdefault("name", records["recipe_name"])
    resolved = resolve("pack", PackConfig, recipe=recipe, sets=sets, flags=flags, inherited=inherited)
    return resolved, records


def headline(config: PackConfig) -> str:
    """The first line a build says: what it packs with."""
    if config.tokenizer is None:
        return (
            "EMBEDDED TOKENIZER: no tokenizer was named, so these shards fit no published model; "
            "for one, add --tokenizer NAME|FOLDER"
        )
    ctx = " then ".join(f"{ctx:,}" for _, ctx, _ in config.curriculum())
    return f"tokenizer {config.tokenizer}, ctx {ctx}, loss on {config.loss_on}"


def build_shards(
    out: Path, shards: Path, found: tuple[Resolved[PackConfig], dict[str, Any]], spread: Spread, console: Console
) -> Said:
    """`pack build`: the shards, the closing table and the card."""
    from pack.show import report

    resolved, records = found
    console.say(headline(resolved.config))
    job = Build(out, shards, records, resolved)
    manifest = build(job, spread.over(records_bytes(records), SMALL), console, overwrite=spread.overwrite)
    if spread.cards is not None:
        from curate.cards.render import write_card

        write_card(shards, manifest, gallery=spread.cards)
    for warning in manifest["warnings"]:
        console.warn(warning)
    keys = (
        "ctx",
        "warnings",
        "sources",
        "totals",
        "stages",
        "splits",
        "fingerprint",
        "digest",
        "embedded_tokenizer",
        "template_failed",
    )
    first = [headline(resolved.config)] if manifest["embedded_tokenizer"] else []
    text = "\n".join([*first, report(manifest), f"card: {shards / 'README.md'}"])
    return {"shards": str(shards), **{key: manifest[key] for key in keys}}, text


def plan_build(
    out: Path, shards: Path, found: tuple[Resolved[PackConfig], dict[str, Any]], spread: Spread, console: Console
) -> Said:
    """`--dry-run`: the mixture by source and stage, from real lengths; nothing is written."""
    from pack.preview import preview, said

    resolved, records = found
    job = Build(out, shards, records, resolved)
    facts = preview(job, spread.over(records_bytes(records), SMALL), console)
    return facts, f"{headline(resolved.config)}\n{said(facts, shards)}"


def records_bytes(records: Mapping[str, Any]) -> int:
    """The size of the curated records, from their manifest."""
    return sum(int(entry["bytes"]) for name, entry in records["files"].items() if name.startswith("records/"))
