"""The blocks of a shards card: fates, sources, stages, rows, loss, tokens; each from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from curate.cards import figures
from curate.cards.model import Example, Fence, Table
from curate.cards.text import code, percent

Manifest = Mapping[str, Any]
FATES: Final = ("packed", "eval", "overlong", "template_failed", "not_drawn")
SHOWN: Final = 3


def ordered(manifest: Manifest) -> dict[str, Any]:
    """The splits in the order they are trained, eval last."""
    splits = manifest.get("splits") or {}
    first = [str(stage.get("split")) for stage in manifest.get("stages") or []]
    names = [name for name in first if name in splits]
    rest = [name for name in splits if name not in names and name != "eval"]
    return {name: splits[name] for name in (*names, *rest, *(["eval"] if "eval" in splits else []))}


def stages(manifest: Manifest) -> list[dict[str, Any]]:
    """The stages of the build, in order; none for shards that list none."""
    return [dict(stage) for stage in manifest.get("stages") or []]


def lost(sources: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """By source, how many texts of each kind the template does not print."""
    found = {}
    for name, place in sources.items():
        if counts := {k.removeprefix("lost:"): n for k, n in (place.get("lost") or {}).items() if n}:
            found[name] = counts
    return found


def verdict(manifest: Manifest) -> str:
    """The engine, and on what evidence it was taken."""
    engine = manifest.get("engine")
    if not isinstance(engine, Mapping):
        return str(engine or "")
    name = str(engine.get("engine") or engine.get("name") or "unknown")
    text = f"{name} ({engine['reason']})" if engine.get("reason") else name
    if engine.get("torture"):
        text += (
            f"; {engine['torture']:,} nasty texts and {engine.get('sample', 0):,} texts of the records encoded by both "
            f"engines, {engine.get('differing', 0):,} differ"
        )
    return text


def template_digest(manifest: Manifest) -> str | None:
    """The digest of the chat template, None without one."""
    found = manifest.get("template_digest") or (manifest.get("template") or {}).get("digest")
    return None if found is None else str(found)


def _share(part: float, whole: float) -> str | None:
    return percent(part, whole) if whole else None


def facts(manifest: Manifest, splits: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The at-a-glance table."""
    totals, sources = manifest.get("totals") or {}, manifest.get("sources") or {}
    rows = sum(split.get("rows", 0) for split in splits.values())
    training = [split for name, split in splits.items() if name != "eval"]
    count, segments = (sum(split.get(key, 0) for split in training) for key in ("rows", "segments"))
    widths = list(dict.fromkeys(stage["ctx"] for stage in stages(manifest) if stage.get("ctx")))
    wide = ", ".join(f"{ctx:,}" for ctx in widths) if len(widths) > 1 else manifest.get("ctx")
    out: list[tuple[str, Any]] = [("Rows", rows), ("Tokens a row", wide)]
    out += [("Records in", totals.get("records")), ("Training tokens", totals.get("tokens"))]
    out += [("Tokens with loss", totals.get("trained"))]
    if totals.get("tokens"):
        out.append(("Share with loss", percent(totals.get("trained", 0), totals["tokens"])))
    if segments and count:
        out.append(("Segments a row", round(segments / count, 2)))
    out += [("Over-long records", totals.get("overlong", 0)), ("Template failures", totals.get("template_failed", 0))]
    out.append(("Texts the template drops", sum(sum(kinds.values()) for kinds in lost(sources).values())))
    out += [("Vocabulary", (manifest.get("tokenizer") or {}).get("vocab_size"))]
    return [*out, ("Algorithm", manifest.get("algorithm")), ("Seed", manifest.get("seed"))]


def law(manifest: Manifest, sources: Mapping[str, Any]) -> list[Any]:
    """The equation, then why records failed and which texts are lost, by name."""
    sums = {key: sum(place.get(key, 0) for place in sources.values()) for key in ("records", *FATES)}
    holds = "holds" if sums["records"] == sum(sums[key] for key in FATES) else "BROKEN"
    names = ("packed", "held for eval", "over-long", "template failed", "not drawn")
    parts = "\n            = ".join([f"{sums[FATES[0]]:>12,} {names[0]}"])
    parts += "".join(f"\n            + {sums[key]:>12,} {name}" for key, name in zip(FATES[1:], names[1:], strict=True))
    blocks: list[Any] = [Fence(f"records in    {sums['records']:>12,}   ({holds})\n            = {parts}")]
    named = [["template failed", code(reason), n] for reason, n in (manifest.get("template_failed") or {}).items()]
    for name, kinds in lost(sources).items():
        named += [[f"text not printed, source {name}", code(kind), count] for kind, count in kinds.items()]
    cut = sum(place.get("truncated", 0) for place in sources.values())
    if cut:
        named.append(["shortened to fit", code("truncated"), cut])
    return [*blocks, *([Table(("What", "Which", "Count"), named)] if named else [])]


def sources(found: Mapping[str, Any]) -> list[Any]:
    """What became of each source, then what it gives: tokens, their share, the share with loss, epochs."""
    named = {"overlong": "over-long"}
    fates = {
        name: {named.get(key, key.replace("_", " ")): place.get(key, 0) for key in FATES if place.get(key)}
        for name, place in found.items()
    }
    heads = ("Source", "Licence", "Records", "Packed", "Eval", "Over-long", "Template failed", "Not drawn")
    rows = [
        [
            code(name),
            place.get("licence") or "unknown",
            place.get("records", 0),
            *(place.get(key, 0) for key in FATES),
        ]
        for name, place in found.items()
    ]
    whole = sum(place.get("tokens", 0) for place in found.values())
    gives = [
        [
            code(name),
            place.get("documents"),
            place.get("tokens", 0),
            _share(place.get("tokens", 0), whole),
            place.get("trained", 0),
            _share(place.get("trained", 0), place.get("tokens", 0)),
            place.get("epochs"),
        ]
        for name, place in found.items()
    ]
    more = ("Source", "Documents", "Training tokens", "Share of tokens", "With loss", "Share with loss", "Epochs")
    return [figures.shares(fates), Table(heads, rows), Table(more, gives)]


def by_stage(found: list[dict[str, Any]]) -> list[Any]:
    """What each stage draws from each source."""
    rows = []
    for stage in found:
        for name, place in (stage.get("sources") or {}).items():
            drawn = [place.get(key, 0) for key in ("available", "records", "documents", "tokens")]
            if not place.get("documents"):
                continue
            share = _share(place.get("tokens", 0), stage.get("tokens", 0))
            loss = _share(place.get("trained", 0), place.get("tokens", 0))
            rows.append([code(str(stage["name"])), code(name), *drawn, share, loss, place.get("epochs")])
    heads = (
        "Stage",
        "Source",
        "May draw",
        "Draws",
        "Documents",
        "Tokens",
        "Share of tokens",
        "Share with loss",
        "Epochs",
    )
    return ["Stages are trained in this order; each is a folder and a split of its own.", Table(heads, rows)]


def rows(manifest: Manifest, splits: Mapping[str, Any]) -> list[Any]:
    """The drawing of one row, the table of splits, the histogram of lengths."""
    blocks: list[Any] = []
    ctx = int(manifest.get("ctx") or 0)
    ribbon = manifest.get("ribbon") or {}
    if isinstance(ribbon, list):
        ribbon = {"segments": ribbon}
    if ribbon.get("segments"):
        wide = int(ribbon.get("ctx") or ctx)
        blocks.append(figures.ribbon(ribbon["segments"], wide, ribbon.get("trained_spans") or []))
    table = [
        [
            code(name),
            split.get("ctx", ctx),
            split.get("rows"),
            split.get("lower_bound"),
            None if split.get("fill") is None else f"{100 * split['fill']:.2f} %",
            split.get("segments_per_row"),
            split.get("tokens"),
            split.get("trained"),
        ]
        for name, split in splits.items()
    ]
    heads = ("Split", "Tokens a row", "Rows", "Least possible rows", "Fill", "Segments a row", "Tokens", "With loss")
    blocks.append(Table(heads, table))
    lengths = dict(manifest.get("lengths") or {})
    if edges := lengths.pop("edges", []):
        blocks.append(figures.histogram("lengths", "Tokens per document", edges, lengths))
    return blocks


def loss(manifest: Manifest) -> list[Any]:
    """What is trained, in words and in decoded examples."""
    rendering = manifest.get("rendering") or {}
    told = [f"Loss on: {rendering['loss_on']}."] if rendering.get("loss_on") else []
    if manifest.get("terminators"):
        told.append(
            "Trained too are the tokens that end a turn, ids " + ", ".join(map(str, manifest["terminators"])) + "."
        )
    blocks: list[Any] = [" ".join(told)] if told else []
    for sample in (manifest.get("samples") or [])[:SHOWN]:
        text = str(sample.get("text", "")) if isinstance(sample, Mapping) else str(sample)
        source = str(sample.get("source", "")) if isinstance(sample, Mapping) else ""
        blocks.append(Example(["Trained tokens of one document, decoded, from ", code(source)], text))
    return blocks or ["No sample was recorded."]


def tokens(manifest: Manifest, sources: Mapping[str, Any]) -> list[Any]:
    """Template, engine and its verdict, added tokens, and literal control tokens by source."""
    rendering, added = manifest.get("rendering") or {}, manifest.get("added_tokens")
    pairs: list[tuple[str, Any]] = [("Template digest", code(template_digest(manifest) or "none: no chat template"))]
    if rendering.get("prompt_format"):
        pairs.append(("Prompt format", code(str(rendering["prompt_format"]))))
    pairs += [("Engine", verdict(manifest))]
    if added:
        pairs.append(("Tokens added to the tokenizer", len(added) if hasattr(added, "__len__") else added))
    policy = {"text": "encoded as plain text", "strip": "taken out", "reject": "refused, the record with them"}
    if rule := rendering.get("control_tokens"):
        pairs.append(("Literal control tokens in texts", policy.get(rule, rule)))
    rows = [
        [
            code(name),
            place["control"],
            place.get("control_records", 0),
            percent(place.get("control_records", 0), place.get("records", 0)),
        ]
        for name, place in sources.items()
        if place.get("control")
    ]
    heads = ("Source", "Literal control tokens", "Records holding them", "Share of records")
    none = "No text of these records holds a literal control token."
    return [Table(("", "Value"), [list(pair) for pair in pairs]), Table(heads, rows) if rows else none]
