"""The `eval` section of a recipe: what a model is asked before and after its training, and the floors of its answers.

A floor is a number to be reached (`0.22`) or passed (`"> 0.8"`), of the share answered right or of a named figure:
`accuracy`, `generation_rate` (an answer holds a block of code), `syntax_rate` (it parses), `relative_gain` (of accuracy, over
before). Cost: one greedy answer an item; a task that was scored for the same weights is read back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curate.foundation.console import Console
from curate.foundation.store import Store, digest_of, replacing

if TYPE_CHECKING:
    from train.asking import Asker
    from train.tasks.items import Item

FIGURES: Final = ("accuracy", "generation_rate", "syntax_rate", "relative_gain")
Floor = float | str
Facts = dict[str, Any]


class TaskSettings(BaseModel):
    """One row of the table: which task, how many of its items, and what stands around a question."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(min_length=1, description="an evaluation set, or a file of prompt and answer")
    n: int | None = Field(default=None, ge=1, description="so many items, drawn by the seed")
    shots: int = Field(default=0, ge=0, le=64)
    instruct: bool = Field(default=False, description="the task's own instruction before the question")
    max_new_tokens: int = Field(default=256, ge=1)
    execute: bool = Field(default=False, description="run the code of answers, confined")


class EvalConfig(BaseModel):
    """Settings of the scores before and after; `data` maps an evaluation set to a local file or folder of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: dict[str, TaskSettings] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    expect: dict[str, Floor | dict[str, Floor]] = Field(default_factory=dict)

    @field_validator("expect")
    @classmethod
    def _floors(cls, value: dict[str, Floor | dict[str, Floor]]) -> dict[str, Floor | dict[str, Floor]]:
        for task, floors in value.items():
            for figure, floor in figures_of(floors).items():
                if figure not in FIGURES:
                    raise ValueError(f"{task}: unknown figure {figure!r}; figures are {', '.join(FIGURES)}")
                _, least = limit(floor)
                if not math.isfinite(least):
                    raise ValueError(f"{task}.{figure}: a floor is a number")
        return value

    def missing(self) -> list[str]:
        """Tasks that have a floor and are not asked."""
        return sorted(set(self.expect) - set(self.tasks))


def figures_of(floors: Floor | Mapping[str, Floor]) -> dict[str, Floor]:
    """Floors by figure; a bare one is of the accuracy."""
    return dict(floors) if isinstance(floors, Mapping) else {"accuracy": floors}


def limit(floor: Floor) -> tuple[bool, float]:
    """Whether a floor must be passed rather than reached, and its number; raises ValueError for other words."""
    text = str(floor).strip()
    return text.startswith(">"), float(text.removeprefix(">"))


def items_of(config: EvalConfig, task: TaskSettings) -> tuple[list[Item], list[Item]]:
    """The items of a task and its worked examples; raises what reading them gives."""
    from train.tasks.items import Task, examples, subset

    local = config.data.get(task.task)
    found = Task.of(task.task, Path(local).expanduser() if local else None)
    asked = subset(found.items(), task.n, config.seed)
    return asked, examples(found, task.shots, config.seed, asked)


def score_tasks(
    config: EvalConfig, when: Literal["before", "after"], weights: Any, load: Any, folder: Path, console: Console
) -> dict[str, Facts]:
    """Score every task, and keep facts and responses under `folder`.

    `weights` tells which weights are asked; `load()` gives (model, asker) and is called only when something is not
    scored yet.
    """
    store, found, made = Store(folder, "scores"), {}, None
    for name, task in config.tasks.items():
        asked, shots = items_of(config, task)
        key = digest_of([weights, task.model_dump(mode="json"), [item.ident for item in (*asked, *shots)]])
        file = folder / f"{name}.json"
        known = json.loads(file.read_bytes()) if file.is_file() else {}
        if known.get("key") != key:
            made = made or load()
            console.say(f"{when}: {name}, {len(asked):,} items")
            known = {"key": key, **_score(name, when, task, made, asked, shots, folder)}
            store.write_json(file.name, known)
        found[name] = known
    return found


def _score(
    name: str,
    when: str,
    task: TaskSettings,
    made: tuple[Any, Asker],
    asked: Sequence[Item],
    shots: Sequence[Item],
    folder: Path,
) -> Facts:
    from train.evaluate import Prompting, ask_all, responses_jsonl
    from train.scoring import executed, judge, row_of, score

    model, asker = made
    prompting = Prompting(tuple(shots), asked[0].instruction if task.instruct else "")
    said = ask_all(model, asker, asked, prompting, max_new_tokens=task.max_new_tokens)
    responses = [judge(item, answer) for item, answer in zip(asked, said, strict=True)]
    layers = ""
    if task.execute and any(item.code for item in asked):
        responses, layers = executed(asked, responses)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.responses.jsonl") as temp:
        temp.write_bytes(responses_jsonl(responses))
    told = score(responses)
    row = row_of(name, when, told, {"prompt": prompting.described})
    return {"task": task.task, "asked": asker.described, "confined": layers, "row": row, **told.facts()}


def change(root: Path, name: str) -> Facts:
    """The paired difference of a task between `before/` and `after/` of a folder, with its 95 % interval."""
    from train.comparing import paired, read_responses

    return paired(*(read_responses(root / when / f"{name}.responses.jsonl") for when in ("before", "after"))).facts()


def figure(facts: Mapping[str, Mapping[str, Any]], name: str) -> float | None:
    """A figure of one task from its facts `before` and `after`; None where nothing was judged."""
    before, after = facts["before"], facts["after"]
    if name in ("generation_rate", "syntax_rate"):
        count = after.get("fenced" if name == "generation_rate" else "parses")
        return None if count is None else count / max(1, after["total"])
    if "accuracy" not in after:
        return None
    if name == "accuracy":
        return float(after["accuracy"])
    gained = after["accuracy"] - before["accuracy"]
    return gained / before["accuracy"] if before["accuracy"] else math.inf * gained if gained else 0.0


def below(config: EvalConfig, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """One line for every floor that was missed; `found` is by task, then `before` and `after`."""
    lines = []
    for task, floors in config.expect.items():
        for name, floor in figures_of(floors).items():
            value = figure(found[task], name)
            passed, least = limit(floor)
            if value is None:
                lines.append(f"{task}: {name} was not judged, and its floor is {floor}")
            elif value < least or (passed and value == least):
                lines.append(f"{task}: {name} {value:.3f} is under its floor, {floor}")
    return lines


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Before and after, task by task."""
    if not found:
        return []
    wide = max(10, *(len(name) for name in found))
    lines = [f"{'task':<{wide}} {'items':>6} {'before':>8} {'after':>8}  95 % interval after"]
    for name, facts in found.items():
        after = facts["after"]
        line = f"{name:<{wide}} {after['total']:>6,}"
        if "accuracy" in after:
            line += f" {facts['before']['accuracy']:>8.1%} {after['accuracy']:>8.1%}"
            told = facts["change"]
            line += f"  {after['low']:.1%} to {after['high']:.1%}; change {told['difference']:+.1%}"
            line += f" ({told['low']:+.1%} to {told['high']:+.1%})"
        else:
            line += "  not judged here: responses are kept for hand grading" if after.get("fenced") is None else ""
        for label, key in (("code", "fenced"), ("syntax", "parses")):
            if after.get(key) is not None:
                line += f"; {label} {facts['before'][key]:,} -> {after[key]:,}"
        lines.append(line)
        buckets = ", ".join(f"{kind} {count:,}" for kind, count in after["buckets"].items())
        lines.append(f"{'':<{wide}} {'':>6} after: {buckets}")
    return lines
