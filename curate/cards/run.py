"""The card of a training run: manifest of kind "run" -> Card; the curve comes from metrics.jsonl when it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate.cards import figures, frontmatter
from curate.cards.model import Card, Fence, Section, Table
from curate.cards.sidecar import Sidecar
from curate.cards.text import code, line, show

Manifest = Mapping[str, Any]


def curve(root: Path) -> list[dict[str, Any]]:
    """The points of metrics.jsonl; lines that do not parse are passed over (a running writer's last one)."""
    path = root / "metrics.jsonl"
    points: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            point = json.loads(text)
        except ValueError:
            continue
        if isinstance(point, dict) and isinstance(point.get("step"), int):
            points.append(point)
    return points


def build(manifest: Manifest, sidecar: Sidecar, title: str) -> Card:
    """The facts of a run."""
    config, results = manifest.get("config") or {}, manifest.get("results") or {}
    shards, smoke = manifest.get("shards") or {}, manifest.get("smoke") or {}
    steps = manifest.get("steps") or (manifest.get("progress") or {}).get("step") or 0
    model = str(manifest.get("model", "unknown"))
    card = Card("run", title, f"{steps:,} steps of training on packed conversations.")
    first, last = results.get("eval_loss_first"), results.get("eval_loss_last")
    if first is not None and last is not None:
        card.headline += f" Held-out loss {show(first)} before, {show(last)} after."
    card.status = [f"Model: {model}" + (" (random start: no model was named)" if model == "tiny" else "")]
    if smoke:
        card.status.append("Smoke generation: " + ("stops by itself" if smoke.get("stopped") else "DID NOT STOP"))
    card.facts = [
        ("Steps", steps),
        ("Parameters", manifest.get("parameters")),
        ("Device", manifest.get("device")),
        ("Precision", manifest.get("precision")),
        *([("Trained parameters", manifest["trained_parameters"])] if config.get("lora") else []),
        *([("Best step", results["best_step"])] if results.get("best_step") else []),
        *[(name, results.get(key)) for name, key in (("First loss", "loss_first"), ("Last loss", "loss_last"))],
    ]
    blocks: list[Any] = [figures.curves(_series(manifest))]
    for key, title in (("loss_by_source", "Loss by source"), ("eval_loss_by_source", "Held-out loss by source")):
        if len(series := _by_source(manifest, key)) > 1:
            blocks.append(figures.curves(series, key.replace("_", "-"), title))
    if by_source := results.get("eval_loss_by_source"):
        blocks.append(Table(("Source", "Held-out loss"), [[code(name), loss] for name, loss in by_source.items()]))
    card.sections = [Section("Loss", blocks)]
    if table := manifest.get("evaluation") or manifest.get("table"):
        first = [key for key in ("task", "model", "items", "exact match", "low", "high") if key in table[0]]
        columns = [*first, *(key for key in table[0] if key not in first)]
        rows = [[row.get(key) for key in columns] for row in table]
        card.sections.append(Section("Before and after", [Table(columns, rows)]))
    if plan := manifest.get("plan"):
        rows = [[key.replace("_", " "), value] for key, value in plan.items() if not isinstance(value, (dict, list))]
        card.sections.append(Section("Batch and schedule", [Table(("Setting", "Value"), rows)]))
    peft = smoke.get("with") == "peft"
    names = ("AutoPeftModelForCausalLM", "from peft import {}\nfrom transformers import AutoTokenizer")
    name, imports = names if peft else ("AutoModelForCausalLM", "from transformers import {}, AutoTokenizer")
    snippet = imports.format(name) + "\n\n"
    snippet += f'model = {name}.from_pretrained("final/")\ntokenizer = AutoTokenizer.from_pretrained("final/")'
    card.sections.append(Section("How to load", [Fence(snippet, "python")]))
    rows = [["Shards fingerprint", code(str(shards.get("fingerprint") or "unknown"))]]
    rows += [[name, code(str(value))] for name, value in sorted((manifest.get("environment") or {}).items())]
    rows += [[key.replace("_", " "), _setting(value)] for key, value in sorted(config.items()) if value is not None]
    reproduce = [Fence(f"train run shards/ --model {line(model)}", "sh"), Table(("", "Value"), rows)]
    card.sections.append(Section("How to reproduce", reproduce))
    sources = shards.get("sources")
    places = sources.values() if isinstance(sources, Mapping) else []
    licences = [place.get("licence") for place in places if isinstance(place, Mapping)]
    card.front = {
        **frontmatter.licence(sidecar, licences),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"language": sidecar.lists["language"]} if sidecar.lists.get("language") else {}),
        "tags": list(dict.fromkeys(["gristmill", "sft", *sidecar.lists.get("tags", [])])),
    }
    keys = ("model", "parameters", "results", "evaluation", "smoke", "plan", "config", "environment", "digest")
    card.numbers = {key: manifest.get(key) for key in keys} | {"steps": steps, "fingerprint": shards.get("fingerprint")}
    return card


def _setting(value: Any) -> Any:
    return code(json.dumps(value)) if isinstance(value, (dict, list)) else value


def _by_source(manifest: Manifest, key: str) -> dict[str, list[tuple[float, float]]]:
    """A curve for each of the eight sources seen most often."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in manifest.get("curve") or manifest.get("losses") or []:
        for name, loss in (point.get(key) or {}).items():
            found.setdefault(name, []).append((point["step"], loss))
    most = sorted(found, key=lambda name: (-len(found[name]), name))[:8]
    return {name: found[name] for name in sorted(most)}


def _series(manifest: Manifest) -> dict[str, list[tuple[float, float]]]:
    points = manifest.get("curve") or manifest.get("losses") or []
    pairs = {"train": "loss", "held out": "eval_loss"}
    return {
        name: [(p["step"], p[key]) for p in points if isinstance(p.get(key), (int, float))]
        for name, key in pairs.items()
    }
