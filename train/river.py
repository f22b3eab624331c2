"""A recipe from its sources to its table: curate, pack, score, train, score again, compare.

The recipe, with its `smoke:` overlay where asked for and every `--set`, is written to `recipe.yaml` of the run's folder, and
each step is the command of that name with it: what is complete is skipped, what was killed goes on. Costs what the
steps cost; what a recipe needs from the hub is looked for before the first of them, within a second.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from curate.config import SECTIONS, load_recipe, merge, parse_sets, recipe_names, validate
from curate.foundation.console import Console
from curate.foundation.errors import DataError, Offline, UsageError
from curate.foundation.executor import Spread
from curate.foundation.store import MANIFEST, replacing

if TYPE_CHECKING:
    from pack.config import PackConfig
    from train.config import TrainConfig
    from train.judging import EvalConfig

DEMO: Final = "demo"
OWN: Final = ("recipe.yaml", "raw", "out", "shards", "run", "before", "after", "cells", "runs")
Said = tuple[dict[str, Any], str]


@dataclass(frozen=True, slots=True)
class River:
    """A resolved recipe: its name, its sections, and whether its floors are judged."""

    name: str
    recipe: dict[str, Any]
    judged: bool = True

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of curation."""
        from curate.settings import CurateConfig

        return validate(CurateConfig, self.recipe.get("curate") or {}, "curate").stages

    @property
    def train(self) -> TrainConfig:
        """The settings of `train run`."""
        from train.config import TrainConfig

        return validate(TrainConfig, self.recipe.get("train") or {}, "train")

    @property
    def pack(self) -> PackConfig:
        """The settings of `pack build`."""
        from pack.config import PackConfig

        return validate(PackConfig, self.recipe.get("pack") or {}, "pack")

    @property
    def eval(self) -> EvalConfig:
        """What is asked before and after; raises `UsageError` for a floor of a task that is not asked."""
        from train.judging import EvalConfig

        config = validate(EvalConfig, self.recipe.get("eval") or {}, "eval")
        if missing := config.missing():
            asked = ", ".join(config.tasks) or "nothing"
            raise UsageError(f"eval.expect.{missing[0]}: no task of that name", hint=f"asked: {asked}")
        return config

    def check(self) -> None:
        """Raise `UsageError` for a section that cannot be read, before anything is done."""
        from curate.sources import SourceSettings

        for name, values in (self.recipe.get("sources") or {}).items():
            validate(SourceSettings, values or {}, f"sources.{name}")
        _ = self.stages, self.pack, self.train, self.eval


def resolve(name: str, sets: Sequence[str] = (), *, smoke: bool = False) -> River:
    """The recipe `name` (shipped, or a file) with its overlay and `sets`, every section checked.

    Where `eval.data` has a local copy of an eval set, decontamination compares with that copy too. A smoke run has the
    floors of the whole model only where `--set` repeats them.
    """
    if name == DEMO:
        raise UsageError("the demo makes its own data", hint="run it with: gristmill demo")
    title, recipe = load_recipe(name)
    overlay = recipe.pop("smoke", {})
    if smoke and not overlay:
        raise UsageError(f"recipe {title} has no smoke: section", hint="run it without --smoke")
    given: dict[str, Any] = {}
    for item in sets:
        head = item.partition("=")[0].partition(".")[0].strip()
        if head not in (*SECTIONS, "sweep"):
            raise UsageError(f"--set {item}: must begin with a section", hint=f"sections: {', '.join(SECTIONS)}")
        part = parse_sets([item.removeprefix("sweep.") if head == "sweep" else item], SECTIONS[0])
        given = merge(given, {"sweep": part[SECTIONS[0]]} if head == "sweep" else part)
    recipe = merge(merge(recipe, overlay if smoke else {}), given)
    local = (recipe.get("eval") or {}).get("data") or {}
    cleaning = (recipe.get("curate") or {}).get("decontaminate") or {}
    if local and cleaning.get("against"):
        against = [copy for one in cleaning["against"] for copy in (_asked(local[one]) if one in local else [one])]
        recipe = merge(recipe, {"curate": {"decontaminate": {"against": against}}})
    judged = not smoke or bool((given.get("eval") or {}).get("expect"))
    river = River(title + ("-smoke" if smoke else ""), recipe | {"name": title}, judged)
    river.check()
    return river


def _asked(copy: str) -> list[str]:
    """The files of a local copy that hold what is asked: those of the test split, where a folder has other splits too."""
    folder = Path(copy).expanduser()
    files = sorted(str(path) for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    return [file for file in files if Path(file).name.partition(".")[0].endswith("test")] or [copy]


def catalogue() -> Said:
    """The shipped recipes: name, one line, model, what each needs."""
    rows = []
    for name in recipe_names():
        _, recipe = load_recipe(name)
        river = River(name, recipe)
        model = str((recipe.get("train") or {}).get("model", "tiny"))
        rows.append({"name": name, "about": recipe.get("about", ""), "model": model, "needs": _listed(river)})
    lines = []
    for row in rows:
        lines += [
            row["name"],
            f"    {row['about']}",
            f"    model {row['model']}; needs {', '.join(row['needs']) or 'nothing'}",
        ]
    return {"recipes": rows}, "\n".join(lines)


def _listed(river: River) -> list[str]:
    train = river.recipe.get("train") or {}
    extras = [
        name for name, wanted in (("the extra lora", train.get("lora")), ("the extra gpu", _eight(train))) if wanted
    ]
    return [*dict.fromkeys(address for _, address in needs(river)), *extras]


def _eight(train: Mapping[str, Any]) -> bool:
    return bool(train.get("load_in_4bit")) or train.get("optimizer", "adamw") != "adamw"


def needs(river: River) -> list[tuple[str, str]]:
    """What comes from the hub, as (recipe key that names a local copy, address)."""
    found = []
    for name, source in (river.recipe.get("sources") or {}).items():
        if str((source or {}).get("path") or "").startswith("hf://"):
            found.append((f"sources.{name}.path", str(source["path"])))
    for section, key in (("pack", "tokenizer"), ("train", "model")):
        name = (river.recipe.get(section) or {}).get(key)
        if name and name not in ("tiny", "embedded") and not Path(str(name)).expanduser().exists():
            found.append((f"{section}.{key}", str(name)))
    tasks = (river.recipe.get("eval") or {}).get("tasks") or {}
    local = (river.recipe.get("eval") or {}).get("data") or {}
    curate = river.recipe.get("curate") or {}
    cleaned = (curate.get("decontaminate") or {}).get("against") or () if "decontaminate" in river.stages else ()
    for name in dict.fromkeys([*(str(task.get("task")) for task in tasks.values()), *cleaned]):
        if name not in local and not Path(name).expanduser().exists():
            found.append((f"eval.data.{name}", f"eval set {name}"))
    return found


def require(river: River) -> None:
    """Raise `Offline` when something is not on this machine and the hub does not answer; within a second."""
    from curate.sources import reachable

    lost = [(key, address) for key, address in needs(river) if not _here(key, address)]
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if lost and (offline or not reachable()):
        names = ", ".join(address for _, address in lost)
        flags = " ".join(f"--set {key}=PATH" for key, _ in lost)
        raise Offline(
            f"not on this machine, and the hub cannot be reached: {names}", hint=f"name local copies: {flags}"
        )


def _here(key: str, address: str) -> bool:
    """Whether the hub's caches hold it."""
    if key.startswith("sources."):
        from curate.sources import cached

        return cached(address.removeprefix("hf://").partition("@")[0])
    if key.startswith("eval."):
        from curate.evals import cached as indexed
        from curate.evals import hub, registry

        name = key.removeprefix("eval.data.")
        return name in indexed() or hub.kept(registry.entry(name)) is not None
    from huggingface_hub import try_to_load_from_cache

    file = "tokenizer.json" if key == "pack.tokenizer" else "config.json"
    return isinstance(try_to_load_from_cache(address, file), str)


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
    """The folder with the resolved recipe in it, which every step reads."""
    (root / "raw").mkdir(parents=True, exist_ok=True)
    file = root / "recipe.yaml"
    with replacing(file) as temp:
        temp.write_text(yaml.safe_dump(river.recipe, sort_keys=False, allow_unicode=True, width=100), "utf-8")
    return file


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
    from train.judging import score_tasks

    config, fingerprint = river.train, (shards / MANIFEST).read_bytes()

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

    from curate.foundation.store import digest_bytes

    weights = [config.model, config.tiny.model_dump(), config.seed, digest_bytes(fingerprint)]
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
