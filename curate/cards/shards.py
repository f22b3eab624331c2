"""The card of packed shards: manifest of kind "shards" -> Card."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from curate.cards import frontmatter, packing
from curate.cards.model import Card, Fence, Section, Table
from curate.cards.sidecar import Sidecar
from curate.cards.text import code, line

Manifest = Mapping[str, Any]
# What `pack build` takes as a flag of its own; everything else is a recipe's.
FLAGS: Final = (
    *("ctx", "template", "prompt_format", "loss_on", "algorithm", "overlong", "control_tokens"),
    *("tokenizer_engine", "eval_fraction", "seed"),
)
NUMBERS: Final = (
    *("ctx", "splits", "stages", "sources", "totals", "tokenizer", "template_digest", "template_failed", "engine"),
    *("algorithm", "seed", "fingerprint", "config_digest", "digest", "lengths"),
)


def build(manifest: Manifest, sidecar: Sidecar, title: str) -> Card:
    """The facts of a shards folder, without opening a shard."""
    sources, stages = manifest.get("sources") or {}, packing.stages(manifest)
    splits = packing.ordered(manifest)
    rows = sum(split.get("rows", 0) for split in splits.values())
    card = Card("shards", title, _headline(manifest, stages, splits))
    tokenizer = manifest.get("tokenizer") or {}
    own = " (embedded: no tokenizer was named)" if manifest.get("embedded_tokenizer") else ""
    card.status = [f"Tokenizer: {tokenizer.get('name', 'unknown')}{own}"]
    if verdict := packing.verdict(manifest):
        card.status.append(f"Engine: {verdict}")
    card.warnings = [str(text) for text in manifest.get("warnings") or []]
    for name, counts in packing.lost(sources).items():
        told = ", ".join(f"{key} {count:,}" for key, count in counts.items())
        card.warnings.append(f"The chat template does not show every text of source {name}: {told}")
    card.facts = packing.facts(manifest, splits)
    card.sections = [
        Section("Every record accounted for", packing.law(manifest, sources)),
        Section("Sources", packing.sources(sources)),
        *([Section("Stages", packing.by_stage(stages))] if len(stages) > 1 else []),
        Section("How the rows are packed", packing.rows(manifest, splits)),
        Section("What carries loss", packing.loss(manifest)),
        Section("How text became tokens", packing.tokens(manifest, sources)),
        Section("How to load", [_loading(manifest, list(splits))]),
        Section("How to reproduce", _reproduce(manifest)),
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
    card.numbers = {key: manifest.get(key) for key in NUMBERS}
    return card


def _headline(manifest: Manifest, stages: list[dict[str, Any]], splits: Mapping[str, Any]) -> str:
    """Rows and fill, of each stage where there are several."""
    if len(stages) > 1:
        told = "; ".join(
            f"{stage['name']}: {stage.get('rows', 0):,} rows of {stage.get('ctx', 0):,} tokens"
            + (f", {100 * stage['fill']:.2f} % filled" if stage.get("fill") is not None else "")
            for stage in stages
        )
        return f"{len(stages)} stages in order. {told}."
    rows, ctx = sum(split.get("rows", 0) for split in splits.values()), int(manifest.get("ctx") or 0)
    text = f"{rows:,} packed rows of exactly {ctx:,} tokens."
    if (fill := (splits.get("train") or {}).get("fill", manifest.get("fill"))) is not None:
        text += f" {100 * fill:.2f} % of the training tokens are text, the rest is padding."
    return text


def _loading(manifest: Manifest, names: list[str]) -> Fence:
    known = [re.sub(r"\W+", "_", line(name)) for name in names or ["train"]]
    lines = ["from datasets import load_dataset", "", 'shards = load_dataset("shards/")  # this folder']
    lines += [f'{name} = shards["{name}"]' for name in known if name.isidentifier()]
    if any(name.startswith("removed/") for name in manifest.get("files") or {}):
        lines.append(
            'removed = load_dataset("shards/", "removed", split="train")  # records not packed, with the reason'
        )
    return Fence("\n".join(lines), "python")


def _reproduce(manifest: Manifest) -> list[Any]:
    tokenizer = manifest.get("tokenizer") or {}
    chosen = (manifest.get("recipe") or {}).get("pack") or {"ctx": manifest.get("ctx")}
    words = ["pack build out/ shards/"]
    if manifest.get("recipe_name"):
        words.append(f"--recipe {shlex.quote(line(str(manifest['recipe_name'])))}")
    if not manifest.get("embedded_tokenizer"):
        words.append(f"--tokenizer {shlex.quote(line(str(tokenizer.get('name', 'T'))))}")
    words += [
        f"--{key.replace('_', '-')} {shlex.quote(line(str(chosen[key])))}"
        for key in FLAGS
        if chosen.get(key) is not None
    ]
    blocks: list[Any] = [Fence(f"{' '.join(words)}\npack verify shards/", "sh")]
    rest = sorted(key for key in set(chosen) - {*FLAGS, "tokenizer"} if chosen[key])
    if rest and not manifest.get("recipe_name"):
        blocks.append(f"And what manifest.json holds of the recipe's pack section: {', '.join(rest)}.")
    digests = [
        ("Fingerprint of the shards", manifest.get("fingerprint")),
        ("Input manifest digest", (manifest.get("input") or {}).get("digest")),
        ("Config digest", manifest.get("config_digest")),
        ("Tokenizer digest", tokenizer.get("digest")),
        ("Template digest", packing.template_digest(manifest)),
    ]
    return [*blocks, Table(("", "Value"), [[name, code(str(value))] for name, value in digests if value])]
