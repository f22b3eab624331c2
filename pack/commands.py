"""What the commands of `pack` do: settings in, (data, text) out. The command line only parses and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curate.config import Resolved, resolve
from curate.foundation.console import Console
from curate.foundation.executor import Spread
from pack.build import Build, build, check_target, open_records
from pack.config import PackConfig

Said = tuple[Any, str]
PROBE = 400  # records measured by --dry-run
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
    return f"tokenizer {config.tokenizer}, ctx {config.ctx:,}, loss on {config.loss_on}"


def build_shards(
    out: Path, shards: Path, found: tuple[Resolved[PackConfig], dict[str, Any]], spread: Spread, console: Console
) -> Said:
    """`pack build`: the shards, the closing table and the card."""
    from pack.show import report

    resolved, records = found
    console.say(headline(resolved.config))
    job = Build(out, shards, records, resolved)
    size = sum(entry["bytes"] for name, entry in records["files"].items() if name.startswith("records/"))
    manifest = build(job, spread.over(size, SMALL), console, overwrite=spread.overwrite)
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
        "splits",
        "fingerprint",
        "digest",
        "embedded_tokenizer",
        "template_failed",
    )
    first = [headline(resolved.config)] if manifest["embedded_tokenizer"] else []
    text = "\n".join([*first, report(manifest), f"card: {shards / 'README.md'}"])
    return {"shards": str(shards), **{key: manifest[key] for key in keys}}, text


def plan_build(out: Path, shards: Path, found: tuple[Resolved[PackConfig], dict[str, Any]]) -> Said:
    """`--dry-run`: files, records by source, and an estimate from a measured sample; nothing is written."""
    from pack.build import units_of
    from pack.tokenstore import renderer, sample

    resolved, records = found
    job = Build(out, shards, records, resolved)
    units = units_of(job, "")
    check_target(shards, out)
    rows: dict[str, int] = {}
    for unit in units:
        rows[unit.file] = rows.get(unit.file, 0) + unit.last - unit.first
    results = renderer(job.settings).encode_batch(sample(units, PROBE))
    fits = [sum(len(part.ids) for part in result) for result in results if isinstance(result, list)]
    total, mean = sum(rows.values()), sum(fits) / max(1, len(fits))
    tokens = round(total * mean * len(fits) / max(1, len(results)))
    size = round(tokens * 12.2)  # three int32 and a bit a token, and the segments
    data: dict[str, Any] = {
        "files": rows,
        "records": total,
        "measured": len(results),
        "template_failed_in_sample": len(results) - len(fits),
        "tokens_a_record": round(mean, 1),
        "rows_estimate": -(-tokens // resolved.config.ctx),
        "bytes_estimate": size,
        "config": resolved.config.model_dump(mode="json"),
    }
    text = "\n".join(
        [
            headline(resolved.config),
            *(f"{count:>10,}  {name}" for name, count in rows.items()),
            f"{total:>10,}  records, {mean:,.1f} tokens each in {len(results):,} measured "
            f"({len(results) - len(fits)} failed the template)",
            f"about {data['rows_estimate']:,} rows of {resolved.config.ctx:,} tokens, "
            f"{size / 1e6:,.1f} MB in {shards}; nothing was written",
        ]
    )
    return data, text
