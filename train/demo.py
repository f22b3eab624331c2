"""The demo: sample -> filter -> build -> run -> exact match, by the same functions that the commands call.

Everything under one folder; what is complete is skipped, so a rerun only prints the table again. Costs about a minute of
curation and packing and three minutes of training a seed, on two quiet cores.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from curate.config import load_recipe
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.executor import Spread
from curate.foundation.store import MANIFEST, Store
from curate.sample import EVALS, LEAKED, TRUTH, truth_folder, write_sample
from curate.settings import CurateConfig
from train.planted import compare

if TYPE_CHECKING:
    from train.scoring import Score

RECIPE: Final = "demo"
QUICK_ROWS: Final = 400
QUICK_STEPS: Final = 8
QUICK_ITEMS: Final = 24
ANSWER_TOKENS: Final = 96  # the longest worked answer takes about 70

Said = tuple[dict[str, Any], str]


@dataclass(frozen=True, slots=True)
class Places:
    """Where the demo keeps what."""

    root: Path

    @property
    def raw(self) -> Path:
        """The sample corpus."""
        return self.root / "raw"

    @property
    def out(self) -> Path:
        """What was curated."""
        return self.root / "out"

    @property
    def shards(self) -> Path:
        """What was packed."""
        return self.root / "shards"

    def run(self, seed: int) -> Path:
        """One training run."""
        return self.root / "runs" / f"seed-{seed}"


def demo(root: Path, seeds: int, console: Console, *, quick: bool) -> Said:
    """Run the whole river under `root`; raises `DataError` when a law is broken or a floor missed."""
    _refuse_foreign(root)
    places = Places(root)
    truth = _sample(places, console, quick=quick)
    _curate(places, console, quick=quick)
    _pack(places, console, quick=quick)
    problems = _laws(places)
    scores = {seed: _train(places, seed, console, quick=quick) for seed in range(seeds)}
    facts = _facts(places, truth, scores)
    facts["problems"] = problems
    text = _table(places, facts)
    short = [] if quick else below(facts)
    if problems or short:
        raise DataError("\n".join([text, *problems, *short]), hint=f"look at the cards, or start again: rm -r {root}")
    return facts, text


def _refuse_foreign(root: Path) -> None:
    """A demo works in a folder of its own."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file", hint="name a new folder: gristmill demo DIR")
    own = {"raw", "raw-truth", "out", "shards", "runs"}
    if root.is_dir() and (foreign := sorted(path.name for path in root.iterdir() if path.name not in own)):
        raise UsageError(f"{root} holds {foreign[0]}, which no demo made", hint="name a new folder: gristmill demo DIR")


def _sample(places: Places, console: Console, *, quick: bool) -> dict[str, Any]:
    rows = QUICK_ROWS if quick else None
    file = truth_folder(places.raw) / TRUTH
    if not file.is_file():
        console.say(f"1/5 sample -> {places.raw}")
        write_sample(places.raw, rows=rows)
    truth: dict[str, Any] = json.loads(file.read_bytes())
    if (truth["rows"] < 10_000) != quick:
        raise UsageError(
            f"{places.root} holds a demo of another size ({truth['rows']:,} rows)", hint="name another folder"
        )
    return truth


def _curate(places: Places, console: Console, *, quick: bool) -> None:
    from curate import commands

    against = [str(truth_folder(places.raw) / name) for name in (*EVALS.values(), LEAKED)]
    resolved, sources = commands.settings(RECIPE, [], {"decontaminate.against": against}, None)
    if not (places.out / MANIFEST).is_file():
        _warm(resolved.config, console)
    console.say(f"2/5 filter -> {places.out}")
    spread = Spread(1 if quick else 0, "auto", False, None)
    commands.filter_raw(str(places.raw), places.out, resolved, sources, None, spread, console)


def _warm(config: CurateConfig, console: Console) -> None:
    """Compile the kernels here, before several workers would each do it; their cache serves every later run."""
    from curate.reading import warm
    from curate.record import Message, Record, to_table
    from curate.stages.registry import map_stages, sketchers

    console.say("compiling kernels: 15 to 20 s on a new machine, then they are cached")
    warm()
    table = to_table([Record("warm", "warm", 0, [Message("user", "One\nline."), Message("assistant", "Two.")])])
    for judge in map_stages(config):
        judge.judge(table)
    for reducer in sketchers(config).values():
        reducer.sketch(table)


def _pack(places: Places, console: Console, *, quick: bool) -> None:
    from pack import commands

    console.say(f"3/5 build -> {places.shards}")
    found = commands.settings(places.out, None, [], {})
    spread = Spread(1 if quick else 0, "auto", False, None)
    commands.build_shards(places.out, places.shards, found, spread, console)


def _laws(places: Places) -> list[str]:
    from curate.ledger import verify
    from pack.verify import problems

    return [*verify(places.out), *problems(places.shards)[0]]


def _train(places: Places, seed: int, console: Console, *, quick: bool) -> dict[str, Any]:
    """Train one seed and score it before and after; a scored run is not scored again."""
    import torch
    from transformers.utils import logging

    from train import commands
    from train.asking import Asker
    from train.data import Shards
    from train.evaluate import load_model
    from train.model import build_model
    from train.recording import record_evaluation
    from train.scoring import row_of

    run = places.run(seed)
    kept = run.with_name(f"{run.name}-scores.json")
    console.say(f"4/5 run -> {run}")
    steps = {"max_steps": QUICK_STEPS, "eval_steps": QUICK_STEPS, "save_steps": QUICK_STEPS} if quick else {}
    resolved = commands.settings(places.shards, None, [], {"seed": seed, **steps})
    manifest, _ = commands.run(places.shards, run, resolved, console, overwrite=False)
    weights = manifest["files"]["final/model.safetensors"]["digest"]
    if kept.is_file() and (known := json.loads(kept.read_bytes()))["run"] == weights:
        return dict(known)
    console.say("5/5 exact match on held-out pairs and templates, before and after")
    logging.disable_progress_bar()
    torch.manual_seed(resolved.config.seed)
    before = build_model(resolved.config, Shards(places.shards)).eval()
    trained, own = load_model(run, "cpu")
    found = {
        "before": _score(before, Asker.of_shards(places.shards), places, quick=quick),
        "after": _score(trained, own, places, quick=quick),
    }
    record_evaluation(run, [row_of(f"held-out {name}", when, found[when][name]) for name in EVALS for when in found])
    scores: dict[str, Any] = {"run": weights}
    for when, by_name in found.items():
        scores[when] = {
            name: {"correct": score.correct, "total": score.total, "accuracy": score.accuracy}
            for name, score in by_name.items()
        }
    Store(kept.parent, "scores").write_json(kept.name, scores)
    return scores


def _score(model: Any, asker: Any, places: Places, *, quick: bool) -> dict[str, Score]:
    from train.evaluate import exact_match
    from train.tasks.items import read_items

    found: dict[str, Score] = {}
    for name, file in EVALS.items():
        items = read_items(truth_folder(places.raw) / file, QUICK_ITEMS if quick else None)
        found[name], _ = exact_match(model, asker, items, max_new_tokens=ANSWER_TOKENS)
    return found


def _facts(places: Places, truth: Mapping[str, Any], scores: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    shards = json.loads((places.shards / "manifest.json").read_bytes())
    accuracy = {}
    for name in EVALS:
        after = [score["after"][name]["accuracy"] for score in scores.values()]
        accuracy[name] = {
            "items": scores[0]["after"][name]["total"],
            "before": statistics.median(score["before"][name]["accuracy"] for score in scores.values()),
            "after": statistics.median(after),
            "worst": min(after),
            "by_seed": after,
            "majority": majority(places, EVALS[name]),
        }
    return {
        "planted": compare(truth, places.out, places.shards),
        "fill": shards["splits"]["train"]["fill"],
        "exact_match": accuracy,
        "seeds": len(scores),
    }


def majority(places: Places, file: str) -> float:
    """The share of held-out items that the most frequent answer among the curated records gets right."""
    import polars as pl

    from train.scoring import extract
    from train.tasks.items import read_items

    frame = pl.scan_parquet(str(places.out / "records" / "*.parquet"))
    last = pl.col("messages").list.last().struct.field("content")
    answers = frame.select(last.str.extract(r"#### (-?\d+)$").alias("answer")).drop_nulls()
    counts = answers.group_by("answer").len().sort(["len", "answer"], descending=[True, False]).head(1).collect()
    best = str(counts["answer"][0])
    items = read_items(truth_folder(places.raw) / file)
    return sum(extract(item.answer) == best for item in items) / len(items)


def below(facts: Mapping[str, Any]) -> list[str]:
    """Floors of the demo recipe (`eval.expect`) that the worst seed missed, one line each."""
    floors = load_recipe(RECIPE)[1]["eval"]["expect"]
    return [
        f"exact match on held-out {name}: {facts['exact_match'][name]['worst']:.1%} is under the floor of {floor:.0%}"
        for name, floor in floors.items()
        if facts["exact_match"][name]["worst"] < floor
    ]


def _table(places: Places, facts: Mapping[str, Any]) -> str:
    lines = [f"{'planted':<18}{'rows':>7}{'found':>7}  by"]
    for name, kind in facts["planted"]["kinds"].items():
        found = "0" if kind["found"] is None else f"{kind['found']:,}"
        stage = "no stage yet" if kind["found"] is None else kind["stage"]
        lines.append(f"{name:<18}{kind['planted']:>7,}{found:>7}  {stage}")
    lines.append(f"{'not planted':<18}{'':>7}{facts['planted']['not_planted']:>7,}  taken all the same")
    lines += ["", f"fill of the packed rows: {facts['fill']:.2%}", ""]
    many = facts["seeds"] > 1
    title = f"median and worst of {facts['seeds']} seeds" if many else "one seed"
    lines.append(f"exact match ({title})  items  majority  before  after" + ("  worst" if many else ""))
    for name, row in facts["exact_match"].items():
        label = f"held-out {name}".ljust(len(title) + 14)
        lines.append(
            f"{label} {row['items']:>6} {row['majority']:>9.1%} {row['before']:>7.1%} {row['after']:>6.1%}"
            + (f" {row['worst']:>6.1%}" if many else "")
        )
    lines += ["", *(f"card: {folder / 'README.md'}" for folder in (places.out, places.shards, places.run(0)))]
    return "\n".join(lines)
