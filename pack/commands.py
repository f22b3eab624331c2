"""What the commands of `pack` do: settings in, (data, text) out. The command line only parses and prints."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.config import Resolved, resolve
from curate.foundation.console import Console
from curate.foundation.executor import Executor, Inline, Spread, usable_cores
from pack.build import Build, build, open_records
from pack.config import PackConfig

Said = tuple[Any, str]
SMALL = 128 << 20  # bytes of compressed records times workers, below which one process ends before workers would


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
    manifest = build(job, executor_for(spread, records), console, overwrite=spread.overwrite)
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
    facts = preview(job, executor_for(spread, records), console)
    return facts, f"{headline(resolved.config)}\n{said(facts, shards)}"


def executor_for(spread: Spread, records: Mapping[str, Any]) -> Executor:
    """What `--workers` and `--executor` ask for; little input stays in this process, its engine on so many threads.

    A worker costs 2.5 s of CPU before its first record (imports, tokenizer, engine, kernels) and has a cache of words
    of its own to fill: two of them pay from about 250,000 records of 150 tokens on.
    """
    workers = spread.workers or usable_cores()
    if spread.executor == "auto" and records_bytes(records) * workers < SMALL:
        os.environ.setdefault("RAYON_NUM_THREADS", str(workers))  # read when an engine makes its pool
        return Inline()
    return spread.over(0, 0)


def records_bytes(records: Mapping[str, Any]) -> int:
    """The size of the curated records, from their manifest."""
    return sum(int(entry["bytes"]) for name, entry in records["files"].items() if name.startswith("records/"))
