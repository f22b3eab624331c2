"""One evaluation, from the request to the card: items, prompts, answers, judgement, files, rows.

Every answer is kept (`<name>.responses.jsonl`), beside what was asked and what came out (`<name>.json`); until all are in, an
earlier evaluation stays as it was. `before` asks the model that a run began with the very same prompts; `strategies` asks
four times: zero or one worked example, with and without an instruction. `reference` in place of a model answers with the
task's own solutions: the check of parser and sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from curate.config import validate
from curate.foundation.console import Console
from curate.foundation.errors import DataError, UsageError
from curate.foundation.store import Store, digest_of, replacing
from train.asking import Asker
from train.comparing import paired, table
from train.config import TrainConfig
from train.evaluate import Prompting, ask_all, final_of, load_model, responses_jsonl
from train.generating import BATCH
from train.recording import FOLDER, record_evaluation, recordable, run_of
from train.scoring import Response, Said, Score, executed, judge, lines, row_of, score
from train.tasks.items import Item, Task, examples, subset

REFERENCE: Final = "reference"
TOKENS: Final = {"number": 256, "latex": 512, "answer": 256, "code": 512, "open": 512}
NONE, OWN = "none", "task"  # what --instruction says besides a text of the user's


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of an evaluation; `instruction` is `none`, `task` (the task's own) or a text, None for the default."""

    model: Path
    task: str
    data: Path | None = None
    count: int | None = None
    shots: int = 0
    instruction: str | None = None
    seed: int = 0
    execute: bool = False
    strategies: bool = False
    before: bool = False
    max_new_tokens: int | None = None
    batch: int = BATCH
    responses: Path | None = None
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class Asked:
    """A model that answers: its label in the table, and how to ask it (None: the reference solutions)."""

    label: str
    model: Any
    asker: Asker | None

    @property
    def described(self) -> str:
        """How it is asked."""
        return self.asker.described if self.asker else "task's own solutions"


@dataclass(frozen=True, slots=True)
class Result:
    """One row: which prompts, which model, what it scored."""

    name: str
    task: str
    model: str
    score: Score
    responses: list[Response]
    facts: dict[str, Any]


def evaluate(request: Request, console: Console) -> tuple[dict[str, Any], str]:
    """Carry out a request; the facts of its result (of all, under `strategies`) and a text. Raises what its parts raise."""
    task = Task.of(request.task, request.data)
    items = subset(task.items(), request.count, request.seed)
    if not items:
        raise DataError(f"--task {request.task}: holds no items", hint="name another file, or more of it")
    if request.execute and all(item.kind != "code" for item in items):
        raise UsageError(f"--execute: {task.name} asks for no code", hint="leave --execute out")
    run = run_of(request.model)
    if request.before and run is None:
        raise UsageError(f"--before: {request.model} is no run", hint="name a folder that train run wrote")
    if run:
        recordable(run)
    if warning := leaked(run, task):
        console.warn(warning)
    results: list[Result] = []
    for asked in _models(request, run):
        for prompting in _promptings(request, task, items):
            results.append(_one(request, task, items, asked, prompting, console))
    order = list(dict.fromkeys(result.task for result in results))
    results.sort(key=lambda result: order.index(result.task))  # before and after side by side
    _keep(request, run, results)
    facts = results[-1].facts if len(results) == 1 else {"results": [result.facts for result in results]}
    facts |= {"warning": warning} if warning else {}
    return facts, _text(results, run, warning)


def _models(request: Request, run: Path | None) -> Iterator[Asked]:
    """The models in the order they are asked; one is in memory at a time."""
    if str(request.model) == REFERENCE and not request.model.exists():
        yield Asked(REFERENCE, None, None)
        return
    from train.model import device_of

    device = device_of(validate(TrainConfig, {"device": request.device}, "train"))
    if request.before and run is not None:
        yield Asked("before", base_of(run, device), Asker.of_model(final_of(request.model)))
    model, asker = load_model(request.model, device)
    yield Asked("after" if run else final_of(request.model).name, model, asker)


def base_of(run: Path, device: str) -> Any:
    """The model that a run began with, its vocabulary grown as the run grew it; raises `UsageError` when it is gone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from train.adapters import load_saved

    manifest = Store(run, "run").manifest()
    name, size = str(manifest["model"]), int(manifest["shards"]["tokenizer"]["vocab_size"])
    torch.manual_seed(int(manifest["config"]["seed"]))
    if name == "tiny":
        config = AutoConfig.from_pretrained(str(run / "final"), local_files_only=True)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        try:
            model, _ = load_saved(Path(name))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--before: {name}, which the run began with, cannot be loaded", hint="run this where the run was made"
            ) from error
        if size > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(size)
    return model.to(device).eval()


def _promptings(request: Request, task: Task, items: list[Item]) -> Iterator[Prompting]:
    """The prompts of a request: one way, or four."""
    first = items[0]
    given = request.instruction or (OWN if first.kind == "code" else NONE)
    own = first.instruction if given in (OWN, NONE) else given
    if not request.strategies:
        shots = tuple(examples(task, request.shots, request.seed, items))
        yield Prompting(shots, "" if given == NONE else own)
        return
    one = tuple(examples(task, max(1, request.shots), request.seed, items))
    for shots in ((), one):
        for text in ("", own):
            yield Prompting(shots, text)


def _one(
    request: Request, task: Task, items: list[Item], asked: Asked, prompting: Prompting, console: Console
) -> Result:
    """Ask one model one way, judge, and keep everything."""
    most = request.max_new_tokens or max(
        TOKENS[item.kind] * (2 if item.code and item.code.pairs else 1) for item in items
    )
    console.say(
        f"{asked.label}: {len(items):,} items of {task.name}, {prompting.described}, asked with the {asked.described}; "
        f"greedy, at most {most} tokens an answer"
    )
    if asked.asker is None:
        said = [Said(item.shown, True) for item in items]
    else:
        with console.progress(f"{asked.label}", len(items), "answers") as advance:
            said = ask_all(
                *(asked.model, asked.asker, items, prompting),
                max_new_tokens=most,
                batch=request.batch,
                progress=advance,
            )
    responses = [judge(item, answer) for item, answer in zip(items, said, strict=True)]
    layers = ""
    if request.execute:
        responses, layers = executed(items, responses)
        console.say(f"programs ran with {layers}")
    responses = _told_apart(responses)
    told = score(responses)
    plain = not (prompting.shots or request.instruction or request.strategies)
    name = re.sub(r"[^\w.-]+", "-", task.name if plain else f"{task.name}-{prompting.described}")
    name += ".before" if asked.label == "before" else ""
    facts = told.facts() | {
        "task": task.name,
        "model": asked.label,
        "asked": asked.described,
        "prompting": prompting.described,
        "instruction": prompting.instruction,
        "shots": [shot.ident for shot in prompting.shots],
        "seed": request.seed,
        "max_new_tokens": most,
        "items": digest_of(sorted(response.item for response in responses)),
        **({"sandbox": layers} if layers else {}),
    }
    return Result(
        name, task.name if plain else f"{task.name}, {prompting.described}", asked.label, told, responses, facts
    )


def _told_apart(responses: list[Response]) -> list[Response]:
    """The same item twice in a task gets a number behind its digest."""
    seen: dict[str, int] = {}
    out = []
    for response in responses:
        count = seen[response.item] = seen.get(response.item, 0) + 1
        out.append(replace(response, item=f"{response.item}~{count}") if count > 1 else response)
    return out


def _keep(request: Request, run: Path | None, results: list[Result]) -> None:
    """Write facts and responses of all: into `evaluations/` of the run (whole or not at all) or model, or where asked."""
    given, several = request.responses, request.strategies or request.before
    files: dict[str, bytes] = {}
    root = run or (Path() if results[0].model == REFERENCE else request.model)
    for result in results:
        own, said = f"{result.name}.responses.jsonl", responses_jsonl(result.responses)
        if run or not given:
            files |= {own: said, f"{result.name}.json": _json(result.facts)}
        target = root / FOLDER / own
        if given:
            target = given.with_name(f"{given.stem}.{result.name}{given.suffix}") if several else given
            with replacing(target) as temp:
                temp.write_bytes(said)
        result.facts["responses"] = str(target)
    if run:
        record_evaluation(run, [row_of(result.task, result.model, result.score) for result in results], files)
    else:
        for name, data in files.items():
            Store(root, "run").write_bytes(f"{FOLDER}/{name}", data)


def _json(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "surrogatepass")


def leaked(run: Path | None, task: Task) -> str:
    """A warning when the run's data was not decontaminated against the task; "" when it was, or for no run."""
    if run is None:
        return ""
    facts = Store(run, "run").manifest()["shards"].get("decontamination")
    names = sorted(facts) if isinstance(facts, list) else []
    if task.known:
        clean = task.name in {name.partition("/")[0].lower() for name in names}
    else:  # as curate names the set of a file
        clean = task.data is not None and f"{task.data.resolve().parent.name}/{task.name}" in names
    if clean:
        return ""
    said = f"was decontaminated only against {', '.join(names)}" if names else "was not decontaminated"
    if facts is None:
        said = "is not known to have been decontaminated"
    against = task.name if task.known and not task.data else str(task.data)
    return f"the training data of {run} {said}: {task.name} may be in it; curate filter RAW OUT --against {against}"


def _text(results: list[Result], run: Path | None, warning: str) -> str:
    """What is printed: the score of one, or a table of several, and the paired difference to before."""
    out: list[str] = []
    if len(results) == 1:
        out += lines(results[0].score)
    else:
        width = max(len(result.task) for result in results)
        out.append(f"{'task':<{width}}  {'model':<8} {'items':>5}  {'share':>6}  {'95 % interval':<16} mistakes")
        for result in results:
            low, high = result.score.interval
            share = (
                f"{result.score.accuracy:>6.1%}  {f'{low:.1%} to {high:.1%}':<16}" if result.score.judged else " " * 24
            )
            rest = ", ".join(
                f"{name} {count:,}" for name, count in result.score.buckets if name not in ("correct", "passed")
            )
            out.append(f"{result.task:<{width}}  {result.model:<8} {result.score.total:>5,}  {share} {rest}")
    for after in results:
        before = next((r for r in results if r.task == after.task and r.model == "before"), None)
        if after.model == "after" and before and after.score.judged:
            rows = [{r.item: asdict(r) for r in result.responses} for result in (before, after)]
            out += ["", after.task, *table(paired(*rows), "before", "after")]
    out += [f"responses: {result.facts['responses']}" for result in results]
    if run:
        out.append(f"recorded in the card: {run / 'README.md'}")
    return "\n".join([*out, *([f"warning: {warning}"] if warning else [])])
