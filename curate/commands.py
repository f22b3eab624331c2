"""What the commands of `curate` do: settings in, (data, text) out. The command line only parses and prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curate.config import Resolved, merge, resolve, validate
from curate.curated import CuratedUnit, open_folder, units
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.executor import SMALL as SMALL
from curate.foundation.executor import Spread
from curate.pipeline import Work, check_target, run
from curate.places import is_raw, keeps_restored, known_sources, not_inside
from curate.settings import DEFAULT, STAGES, CurateConfig
from curate.sources import SourceSettings

Said = tuple[Any, str]


def size_of(unit: Any) -> int:
    """About how many bytes a unit reads."""
    paths = [Path(unit.root) / part for part in unit.parts] if isinstance(unit, CuratedUnit) else [Path(unit.path)]
    size = sum(path.stat().st_size for path in paths if path.is_file())
    return min(size, unit.stop - unit.start) if getattr(unit, "container", "") == "jsonl" and unit.stop > 0 else size


def chosen_stages(only: Sequence[str] | None, skip: Sequence[str] | None) -> list[str] | None:
    """The stages left by `--only` and `--skip`; None when neither is given."""
    for name in [*(only or ()), *(skip or ())]:
        if name not in STAGES:
            raise UsageError(f"{name}: not a stage", hint=f"stages are {', '.join(STAGES)}")
    if not only and not skip:
        return None
    if both := set(only or ()) & set(skip or ()):
        raise UsageError(f"--only and --skip both name {min(both)}", hint=f"leave out --skip {min(both)}")
    return [name for name in STAGES if name in (only or DEFAULT) and name not in (skip or ())]


def duplicate_flags(stage: str, key: str | None, previous: Sequence[str] | None) -> dict[str, Any]:
    """The options `--key` and `--previous` as settings; refused for stages that compare no records."""
    if stage != "exact":
        for name, value in (("--key", key), ("--previous", previous)):
            if value:
                raise UsageError(f"{name}: curate {stage} compares no records", hint=f"{name} belongs to curate exact")
        return {}
    return {"exact.key": key, "previous": previous or None}


def settings(
    recipe: str | None, sets: Sequence[str], flags: dict[str, Any], tokenizer: str | None
) -> tuple[Resolved[CurateConfig], dict[str, SourceSettings]]:
    """Resolve the `curate` and `sources` sections; a tokenizer named here is inherited by pack."""
    resolved = resolve("curate", CurateConfig, recipe=recipe, sets=sets, flags=flags)
    if flags.get("decontaminate.against") and "decontaminate" not in resolved.config.stages:
        raise UsageError(
            "--against: the stage decontaminate is not among the stages of this run",
            hint="leave out --skip decontaminate, or add it to the recipe's curate.stages",
        )
    sources = {
        name: validate(SourceSettings, values or {}, f"sources.{name}")
        for name, values in resolved.recipe.get("sources", {}).items()
    }
    if tokenizer is not None:
        merged = merge({"pack": {"tokenizer": tokenizer}}, resolved.recipe)
        merged["pack"]["tokenizer"] = tokenizer
        resolved = Resolved(resolved.config, resolved.origins, merged, resolved.name)
    return resolved, sources


def stage_settings(
    source: Path, recipe: str | None, sets: Sequence[str], flags: dict[str, Any]
) -> Resolved[CurateConfig]:
    """Settings of one stage on a curated folder: what that folder's recipe says is inherited."""
    _, manifest = open_folder(source)
    inherited = dict(manifest["recipe"])
    inherited["curate"] = {key: value for key, value in inherited.get("curate", {}).items() if key != "stages"}
    return resolve("curate", CurateConfig, recipe=recipe, sets=sets, flags=flags, inherited=inherited)


def s_curve(config: CurateConfig) -> str:
    """The bands and rows that a recall asked for, and the chance that a pair of each Jaccard is looked at."""
    from curate.stages.minhash_settings import curve

    bands, rows = config.minhash.shape
    points = "  ".join(f"{jaccard:.2f}: {hit:.4f}" for jaccard, hit in curve(bands, rows) if jaccard >= 0.5)
    return f"{bands} bands x {rows} rows; chance to be a candidate by Jaccard: {points}"


def plan(
    raw: str, out: Path, resolved: Resolved[CurateConfig], sources: dict[str, SourceSettings], *, overwrite: bool
) -> Said:
    """What a run would do: files, formats, rows, stages; refuses what the run would refuse."""
    from curate.previous import check_previous
    from curate.reading import survey

    is_raw(raw)
    not_inside(raw, out)
    check_previous(out, resolved.config.previous)
    if not overwrite:
        check_target(out, overwrite=False)
        keeps_restored(out, resolved.config)
    found = survey(raw, resolved.config.read, sources)
    data = {"files": found, "stages": list(resolved.config.stages)}
    rows = sum(entry.get("rows") or 0 for entry in found)
    text = (
        f"{_survey_text(found)}\n\nstages: {' -> '.join(resolved.config.stages)}\nrows: {rows:,}; nothing was written"
    )
    return data, text


def formats(raw: str, config: CurateConfig, sources: dict[str, SourceSettings]) -> Said:
    """What would be read, per file."""
    from curate.reading import survey

    is_raw(raw)
    found = survey(raw, config.read, sources)
    return found, _survey_text(found)


def _name(file: str) -> str:
    """A file name on one line, control characters shown as such."""
    from curate.foundation.console import printable

    return printable(file.replace("\n", "\\n"))


def _survey_text(found: Sequence[dict[str, Any]]) -> str:
    lines = [f"{'rows':>10} {'bad':>7}  {'container':<12} {'file':<56} formats"]
    for entry in found:
        if reason := entry.get("skipped"):
            lines.append(f"{'-':>10} {'-':>7}  {'skipped':<12} {_name(entry['file']):<56} {reason}")
            continue
        names = ", ".join(f"{name} {count:,}" for name, count in entry.get("formats", {}).items()) or "none"
        about = "~" if entry.get("sampled") else ""
        lines.append(
            f"{about + format(entry['rows'], ','):>10} {entry.get('quarantined', 0):>7,}  {entry['container']:<12} "
            f"{_name(entry['file']):<56} {names}"
        )
    return "\n".join(lines)


def filter_raw(
    raw: str,
    out: Path,
    resolved: Resolved[CurateConfig],
    sources: dict[str, SourceSettings],
    tokenizer: str | None,
    spread: Spread,
    console: Console,
) -> Said:
    """`curate filter`: read raw data through every stage into `out`."""
    check_target(out, overwrite=spread.overwrite)
    keeps_restored(out, resolved.config)
    work = raw_work(raw, out, resolved, sources, tokenizer, console)
    manifest = run(work, spread.over(sum(map(size_of, work.units)), SMALL), console, "curate filter")
    if resolved.config.select.decisions:
        _say_unmatched(Path(resolved.config.select.decisions), out, manifest, console)
    return report(work, manifest, spread, console)


def raw_work(
    raw: str,
    out: Path,
    resolved: Resolved[CurateConfig],
    sources: dict[str, SourceSettings],
    tokenizer: str | None,
    console: Console,
) -> Work:
    """What `curate filter` has to do: the units of `raw`, planned."""
    from curate.previous import check_previous
    from curate.reading import plan as plan_units

    if tokenizer is not None:
        from curate.tokens import load

        load(tokenizer)
    is_raw(raw)
    not_inside(raw, out)
    check_previous(out, resolved.config.previous)
    found = plan_units(raw, resolved.config.read, sources)
    known_sources(resolved.config.priority, {unit.source for unit in found.units}, "priority")
    console.say(f"{len(found.units)} units of {len({unit.file for unit in found.units})} files from {raw}")
    return Work(
        out=out,
        units=found.units,
        config=resolved.config,
        recipe=resolved.recipe,
        recipe_name=resolved.name,
        tokenizer=tokenizer,
        licences=found.licences,
        carried={"skipped": [{"file": file, "reason": reason} for file, reason in found.skipped]},
    )


def _say_unmatched(file: Path, out: Path, manifest: dict[str, Any], console: Console) -> None:
    """A decision about no record is a typo or another version of the data: say so."""
    from curate.ledger import unmatched
    from curate.stages.decisions import load_decisions

    decisions = load_decisions(file)
    wanted = {*decisions.ids, *decisions.contents}
    if missed := unmatched(out, manifest, wanted):
        shown = ", ".join(missed[:3])
        console.warn(f"{file}: {len(missed):,} of {len(wanted):,} decisions match no record, such as {shown}")
    if not wanted:
        console.warn(f"{file}: holds no decision")


def one_stage(
    source: Path, out: Path, resolved: Resolved[CurateConfig], spread: Spread, console: Console, command: str
) -> Said:
    """One stage on a curated folder, into another one."""
    from curate.previous import check_previous

    _, manifest = open_folder(source)
    not_inside(str(source), out)
    check_previous(out, resolved.config.previous)
    check_target(out, overwrite=spread.overwrite)
    work = curated_work(source, out, manifest, resolved.config, resolved.recipe, removed=False)
    return report(work, run(work, spread.over(sum(map(size_of, work.units)), SMALL), console, command), spread, console)


def curated_work(
    source: Path, out: Path, manifest: dict[str, Any], config: CurateConfig, recipe: dict[str, Any], *, removed: bool
) -> Work:
    """One stage, or with `removed` every stage again, on the units of a curated folder."""
    licences = {name: place["licence"] for name, place in manifest["sources"].items()}
    carried: dict[str, Any] = {"input_digest": manifest["digest"], "skipped": []}
    if removed:
        carried = {key: manifest[key] for key in ("formats", "notes", "skipped")}
    read = ("container", "digests", "formats")  # how the input was read then is not how it is read back now
    inputs = {entry["file"]: {key: entry[key] for key in read} for entry in manifest["inputs"]} if removed else {}
    return Work(
        out=out,
        units=units(source, manifest, removed=removed),
        config=config,
        recipe=recipe,
        recipe_name=manifest.get("recipe_name", ""),
        licences=licences,
        carried=carried,
        inputs=inputs,
    )


def report(work: Work, manifest: dict[str, Any], spread: Spread, console: Console, *, root: Path | None = None) -> Said:
    """The closing table; an alarm that was not allowed is a `DataError` after everything is written and said."""
    from curate.cards.contamination import headline

    root = root or work.out
    if spread.cards is not None:
        from curate.cards.render import write_card

        write_card(root, manifest, gallery=spread.cards)
    total = manifest["totals"]
    lines = [
        f"rows read {total['rows']:,} = gave records {total['rows'] - total['quarantined']:,} "
        f"+ quarantined {total['quarantined']:,}",
        f"records {total['records']:,} = kept {total['kept']:,} + removed {total['removed']:,}",
    ]
    width = max((len(stage["name"]) for stage in manifest["stages"]), default=0)
    for stage in manifest["stages"]:
        rules = ", ".join(
            f"{rule} {counts['removed']:,}" for rule, counts in stage["rules"].items() if counts["removed"]
        )
        lines.append(f"  {stage['name']:<{width}} {stage['removed']:>9,} removed" + (f"  ({rules})" if rules else ""))
    lines += [headline(manifest["decontamination"]), f"card: {root / 'README.md'}"]
    keys = ("totals", "stages", "sources", "alarms", "decontamination", "digest", "config_digest")
    data = {key: manifest[key] for key in keys}
    text = "\n".join(lines)
    if manifest["alarms"] and not manifest["allow_wipeout"]:
        first = manifest["alarms"][0]
        console.result(data, text)
        raise DataError(
            f"wipe-out alarm: {first['stage']} removed {first['removed']:,} of {first['in']:,} records of source "
            f"{first['source']!r} ({len(manifest['alarms'])} alarm(s)); everything was written to {root}",
            hint=f"look with: curate card {root}; if this is right, run the same command again with --allow-wipeout",
        )
    return data, text
