"""A recipe from its sources to its table: curate, pack, score, train, score again, compare.

The recipe, with its `smoke:` overlay where asked for and every `--set`, is written to `recipe.yaml` of the run's folder. Each
step is the command of that name with `steps.yaml`, the same without what is asked before and after: another floor or task
makes nothing again. What is complete is skipped, what was killed goes on. Costs what the steps cost; what a recipe
needs from the hub is looked for before the first of them, within a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.executor import Spread
from curate.foundation.store import MANIFEST, replacing
from train.needing import require
from train.resolving import River

STEPS: Final = "steps.yaml"
OWN: Final = ("recipe.yaml", STEPS, "raw", "out", "shards", "run", "before", "after", "cells", "runs")
Said = tuple[dict[str, Any], str]


def folder_of(river: River, given: Path | None) -> Path:
    """Where everything goes; raises `UsageError` for a folder that holds something else."""
    root = given or Path(river.name)
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file", hint="name a new folder")
    if root.is_dir() and (foreign := sorted(path.name for path in root.iterdir() if path.name not in OWN)):
        raise UsageError(f"{root} holds {foreign[0]}, which no recipe made", hint="name a new folder")
    return root


def plan(river: River, root: Path) -> Said:
    """What a run would do; nothing is written, nothing fetched."""
    train, pack, asked = river.train, river.pack, river.eval
    facts: dict[str, Any] = {
        "recipe": river.name,
        "folder": str(root),
        "sources": {name: (source or {}).get("path") for name, source in (river.recipe.get("sources") or {}).items()},
        "model": train.model,
        "complete": [name for name in ("out", "shards", "run") if (root / name / MANIFEST).is_file()],
        "tasks": list(asked.tasks),
        "expect": asked.expect if river.judged else {},
        **_counted(river, root),
    }
    stages = " -> ".join(river.stages)
    ctx = " then ".join(dict.fromkeys(f"{length:,}" for _, length, _ in pack.curriculum()))
    lines = [f"recipe {river.name} -> {root}"]
    lines += [f"  source {name}: {path or root / 'raw'}" for name, path in facts["sources"].items()]
    lines += [f"1 curate filter: {stages}", f"2 pack build: tokenizer {pack.tokenizer or 'embedded'}, ctx {ctx}"]
    lines += [f"3 train eval, before: {', '.join(asked.tasks) or 'no tasks'}"]
    lines += [
        f"4 train run: {train.model}" + (", LoRA" if train.lora else ""),
        *(f"  {line}" for line in facts["lines"]),
    ]
    lines += [
        "5 train eval, after: the same items and prompts",
        "6 the table, and the floors: " + _floors(facts["expect"]),
    ]
    lines += [f"complete already: {', '.join(facts['complete'])}"] if facts["complete"] else []
    return {key: value for key, value in facts.items() if key != "lines"}, "\n".join([*lines, "nothing was written"])


def _floors(expect: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {floor}" for name, floor in expect.items()) or "none"


def _counted(river: River, root: Path) -> dict[str, Any]:
    """Batch and steps: from the shards where they are built, else as far as the settings tell."""
    train, ctx = river.train, river.pack.curriculum()[0][1]
    if (root / "shards" / MANIFEST).is_file():
        from train.data import Shards
        from train.plan import make_plan

        found = make_plan(
            train, Shards(root / "shards", verify=False), chosen="batch" in (river.recipe.get("train") or {})
        )
        return {"tokens_a_step": found.tokens, "steps": found.steps, "tokens": found.all_tokens, "lines": found.lines()}
    steps = train.max_steps
    if train.batch_unit != "rows":
        unit = train.batch_unit.replace("-", " ")
        line = f"a step: {train.batch:,} {unit}; rows and steps follow from the shards"
        return {"tokens_a_step": None, "steps": steps, "tokens": None, "lines": [line]}
    tokens = train.batch * ctx
    line = f"a step: {train.batch:,} rows x {ctx:,} = {tokens:,} tokens"
    whole = tokens * steps if steps else None
    passes = f"{train.epochs:g} epochs; steps follow from the shards"
    more = f"the run: {steps:,} steps, {whole:,} tokens in all ({whole / 1e6:,.0f} M)" if steps and whole else passes
    return {"tokens_a_step": tokens, "steps": steps, "tokens": whole, "lines": [line, more]}


def run(river: River, root: Path, console: Console) -> Said:
    """Everything, in order; raises `DataError` when a floor is missed, after all is written and said."""
    require(river)
    file = prepared(river, root)
    shards, finished = curated_and_packed(file, root, console)
    before = _before(river, shards, root, console)
    from train.judging import change

    manifest = _trained(file, shards, finished, console)
    after = _after(river, finished, manifest, root, console)
    found = {name: {"before": before[name], "after": after[name]} for name in river.eval.tasks}
    for name, facts in found.items():
        facts["change"] = change(root, name) if "accuracy" in facts["after"] else {}
    missed = _record(river, finished, found)
    data, text = _said(river, root, manifest, found, missed)
    if missed:
        console.result(data, text)
        raise DataError("\n".join(missed), hint=f"everything is written: look at {finished / 'README.md'}")
    return data, text


def prepared(river: River, root: Path) -> Path:
    """The folder with the resolved recipe in it, and the part of it that the steps read."""
    (root / "raw").mkdir(parents=True, exist_ok=True)
    steps = {key: value for key, value in river.recipe.items() if key not in ("eval", "sweep")}
    for name, recipe in (("recipe.yaml", river.recipe), (STEPS, steps)):
        with replacing(root / name) as temp:
            temp.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100), "utf-8")
    return root / STEPS


def curated(file: Path, root: Path, console: Console) -> Path:
    """`curate filter`."""
    from curate import commands

    out, spread = root / "out", Spread(0, "auto", False, None)
    resolved, sources = commands.settings(str(file), [], {}, None)
    console.say(f"curate filter -> {out}")
    _, text = commands.filter_raw(str(root / "raw"), out, resolved, sources, None, spread, console)
    console.say(text)
    return out


def curated_and_packed(file: Path, root: Path, console: Console) -> tuple[Path, Path]:
    """`curate filter` and `pack build`: the shards, and where the run goes."""
    from pack import commands

    out, shards = curated(file, root, console), root / "shards"
    console.say(f"pack build -> {shards}")
    found = commands.settings(out, str(file), [], {})
    _, text = commands.build_shards(out, shards, found, Spread(0, "auto", False, None), console)
    console.say(text)  # the mixture and its epochs
    return shards, root / "run"


def _before(river: River, shards: Path, root: Path, console: Console) -> dict[str, Any]:
    from pack.shards import ShardManifest
    from train.judging import score_tasks

    config, fingerprint = river.train, ShardManifest.read(shards).facts["fingerprint"]

    def load() -> tuple[Any, Any]:
        import torch
        from transformers.utils import logging

        from train.asking import Asker
        from train.data import Shards
        from train.model import build_model, device_of, precision_of

        logging.disable_progress_bar()
        torch.manual_seed(config.seed)
        device = device_of(config)
        model = build_model(config, Shards(shards), precision_of(config, device), device).eval()
        return (model if config.load_in_4bit else model.to(device)), Asker.of_shards(shards)

    weights = [config.model, config.tiny.model_dump(), config.seed, fingerprint]
    return score_tasks(river.eval, "before", weights, load, root / "before", console)


def _trained(file: Path, shards: Path, run: Path, console: Console) -> dict[str, Any]:
    from train import commands

    console.say(f"train run -> {run}")
    resolved = commands.settings(shards, str(file), [], {})
    manifest, text = commands.run(shards, run, resolved, console, overwrite=False)
    console.say(text)
    return manifest


def _after(river: River, run: Path, manifest: Mapping[str, Any], root: Path, console: Console) -> dict[str, Any]:
    from train.evaluate import load_model
    from train.judging import score_tasks
    from train.model import device_of

    weights = {name: entry for name, entry in manifest["files"].items() if name.endswith(".safetensors")}

    def load() -> tuple[Any, Any]:
        return load_model(run, device_of(river.train))

    return score_tasks(river.eval, "after", weights, load, root / "after", console)


def _record(river: River, run: Path, found: Mapping[str, Any]) -> list[str]:
    """Put the scores into the run's card; the floors that were missed."""
    from train.judging import below
    from train.recording import record_evaluation

    rows = [{**facts[when]["row"], "model": when} for facts in found.values() for when in ("before", "after")]
    if rows:
        record_evaluation(run, rows)
    return below(river.eval, found) if river.judged else []


def _said(
    river: River, root: Path, manifest: Mapping[str, Any], found: Mapping[str, Any], missed: Sequence[str]
) -> Said:
    from train.judging import table

    results, plan = manifest["results"], manifest["plan"]
    lines = [f"{river.name}: {plan['steps']:,} steps, {plan['tokens']:,} tokens a step"]
    for name, first, last in (
        ("loss", "loss_first", "loss_last"),
        ("held-out loss", "eval_loss_first", "eval_loss_last"),
    ):
        if results[first] is not None and results[last] is not None:
            lines.append(f"{name} {results[first]:.4f} -> {results[last]:.4f}")
    lines += table(found)
    if not river.judged and river.eval.expect:
        lines.append("floors are those of the whole model, and are not judged in a smoke run")
    lines += [f"card: {root / folder / 'README.md'}" for folder in ("out", "shards", "run")]
    facts = {"recipe": river.name, "folder": str(root), "results": dict(results), "steps": plan["steps"]}
    return {**facts, "tasks": {name: dict(value) for name, value in found.items()}, "missed": list(missed)}, "\n".join(
        lines
    )
