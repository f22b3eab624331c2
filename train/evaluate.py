"""Ask a model and judge what it says: prompts as they were packed, greedy answers, one response an item."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curate.foundation.errors import UsageError
from train.asking import Asker
from train.generating import BATCH, generate, stop_ids
from train.scoring import Response, Said, Score, judge, score
from train.tasks.items import Item


@dataclass(frozen=True, slots=True)
class Prompting:
    """What stands around a question: worked examples before it, an instruction before those."""

    shots: tuple[Item, ...] = ()
    instruction: str = ""

    @property
    def described(self) -> str:
        """In words: `0-shot`, `1-shot with instruction`."""
        return f"{len(self.shots)}-shot" + (" with instruction" if self.instruction else "")


def load_model(folder: Path | str, device: str) -> tuple[Any, Asker]:
    """A model in evaluation mode and its asker; a run folder means its `final/`."""
    from train.adapters import load_saved

    path = final_of(folder)
    try:
        model, _ = load_saved(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: holds no model that transformers can load", hint="name a run or its final/"
        ) from error
    return model.to(device).eval(), Asker.of_model(path)


def final_of(folder: Path | str) -> Path:
    """The folder with the weights: the `final/` of a run, or the folder itself; raises `UsageError` without one."""
    path = Path(folder)
    path = path / "final" if (path / "final").is_dir() else path
    if not path.is_dir():
        raise UsageError(f"{folder}: no such folder", hint="name a run, its final/, or any saved model")
    return path


def ask_all(
    model: Any,
    asker: Asker,
    items: Sequence[Item],
    prompting: Prompting | None = None,
    *,
    max_new_tokens: int = 256,
    batch: int = BATCH,
    progress: Callable[[int], None] | None = None,
) -> list[Said]:
    """The answer to every item, in their order; each ends at a terminator of asker or model, or at a stop string."""
    told = prompting or Prompting()
    shots = [(shot.prompt, shot.shown) for shot in told.shots]
    stops = list(dict.fromkeys([*asker.terminators, *stop_ids(model)]))
    prompts = [asker.ask(item.prompt, shots, told.instruction) for item in items]
    halt = (lambda ids: asker.cut(asker.read(ids))[1]) if asker.stops else None
    found = generate(model, prompts, max_new_tokens, stops, pad=asker.pad, batch=batch, halt=halt, progress=progress)
    answers = []
    for ids in found:
        ended = bool(ids) and ids[-1] in stops
        text, halted = asker.cut(asker.read(ids[:-1] if ended else ids))
        answers.append(Said(text, ended and not halted, halted))
    return answers


def exact_match(
    model: Any, asker: Asker, items: Sequence[Item], *, max_new_tokens: int = 256, batch: int = BATCH
) -> tuple[Score, list[Response]]:
    """Answer every item greedily and score it; responses come in the order of the items."""
    said = ask_all(model, asker, items, max_new_tokens=max_new_tokens, batch=batch)
    responses = [judge(item, answer) for item, answer in zip(items, said, strict=True)]
    return score(responses), responses


def responses_jsonl(responses: Iterable[Response]) -> bytes:
    """`responses.jsonl`, one response a line."""
    rows = ({key: value for key, value in asdict(r).items() if value is not None} for r in responses)
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode(
        "utf-8", "surrogatepass"
    )
