"""Exact match: greedy answers in batches, and the number or text they come down to.

Prompts are sorted by length and padded on the left; each batch is prefilled once and then decoded token by token with
the model's own cache, and answers that have stopped leave the batch, so a batch costs its longest answer, not the
longest of all.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from curate.foundation.errors import DataError, UsageError
from train.asking import Asker

BATCH: Final = 128
_NUMBER: Final = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its reference answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Response:
    """One answer, what it came down to, and whether the model stopped by itself."""

    prompt: str
    reference: str
    response: str
    extracted: str
    correct: bool
    stopped: bool


@dataclass(frozen=True, slots=True)
class Score:
    """Exact match with its 95 % Wilson interval."""

    correct: int
    total: int
    stopped: int

    @property
    def accuracy(self) -> float:
        """The share answered right."""
        return self.correct / max(1, self.total)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval (Wilson 1927)."""
        return wilson(self.correct, self.total)

    def facts(self) -> dict[str, Any]:
        """For `--json` and manifests."""
        low, high = self.interval
        return {**asdict(self), "accuracy": self.accuracy, "low": low, "high": high}


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson score interval of a share."""
    if not total:
        return 0.0, 1.0
    share, square = correct / total, z * z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def extract(text: str) -> str:
    """What an answer comes down to: the number after the first `####`, else the whole text if it is a number or not.

    Thousands commas, a dollar sign, a trailing full stop and zero decimals do not count.
    """
    _, marker, tail = text.partition("####")
    found = _NUMBER.search(tail) if marker else _NUMBER.fullmatch(text.strip().removesuffix("."))
    if not found:
        return " ".join((tail if marker else text).split())
    number = found.group().replace(",", "").replace("$", "")
    whole, dot, decimals = number.partition(".")
    sign, digits = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    decimals = decimals.rstrip("0")
    plain = (digits.lstrip("0") or "0") + (dot + decimals if decimals else "")
    return plain if plain == "0" else sign + plain


def read_items(path: Path, count: int | None = None) -> list[Item]:
    """The first `count` items of a JSONL file with `prompt` (or `question`) and `answer`."""
    if not path.is_file():
        raise UsageError(
            f"--task {path}: no such file", hint='a task is a JSONL file of {"prompt": ..., "answer": ...}'
        )
    items: list[Item] = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if count is not None and len(items) >= count:
                break
            try:
                row = json.loads(line)
                items.append(Item(_text(row.get("prompt") or row["question"]), str(row["answer"])))
            except (ValueError, KeyError, AttributeError) as error:
                raise DataError(
                    f"{path}, line {number}: not an object with prompt and answer", hint="mend or remove that line"
                ) from error
    if not items:
        raise DataError(f"{path}: holds no items", hint='write one {"prompt": ..., "answer": ...} a line')
    return items


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def load_model(folder: Path | str, device: str) -> tuple[Any, Asker]:
    """A model in evaluation mode and its asker; a run folder means its `final/`."""
    from train.adapters import load_saved

    path = Path(folder)
    path = path / "final" if (path / "final").is_dir() else path
    if not path.is_dir():
        raise UsageError(f"{folder}: no such folder", hint="name a run, its final/, or any saved model")
    try:
        model, _ = load_saved(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: holds no model that transformers can load", hint="name a run or its final/"
        ) from error
    return model.to(device).eval(), Asker.of_model(path)


def stop_ids(model: Any) -> list[int]:
    """The terminators of a model's generation configuration."""
    ids = model.generation_config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def generate(
    model: Any,
    prompts_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_ids: Iterable[int],
    *,
    pad: int = 0,
    batch: int = BATCH,
) -> list[list[int]]:
    """Greedy answers (token ids, the terminator included when the model stopped), in the order of the prompts."""
    answers: list[list[int]] = [[] for _ in prompts_ids]
    by_length = sorted(range(len(prompts_ids)), key=lambda number: len(prompts_ids[number]))
    stops = list(stop_ids)
    for start in range(0, len(by_length), batch):
        chunk = by_length[start : start + batch]
        _decode(
            model, [prompts_ids[number] for number in chunk], [answers[n] for n in chunk], max_new_tokens, stops, pad
        )
    return answers


def _decode(
    model: Any,
    prompts: list[Sequence[int]],
    answers: list[list[int]],
    most: int,
    stops: list[int],
    pad: int,
) -> None:
    """Fill `answers` in place for one batch."""
    import torch
    from transformers import DynamicCache

    device, width = model.device, max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    ends = torch.tensor(stops, dtype=torch.long, device=device)
    alive, cache = list(range(len(prompts))), DynamicCache(config=model.config)
    with torch.inference_mode():
        for _ in range(most):
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            chosen = out.logits[:, -1].argmax(-1)
            for place, token in zip(alive, chosen.tolist(), strict=True):
                answers[place].append(token)
            going = ~torch.isin(chosen, ends)
            if not bool(going.any()):
                return
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if not bool(going.all()):
                left = going.nonzero()[:, 0]
                alive = [alive[n] for n in left.tolist()]
                cache.batch_select_indices(left)
                ids, positions, mask = ids[left], positions[left], mask[left]


def exact_match(
    model: Any, asker: Asker, items: Sequence[Item], *, max_new_tokens: int = 256, batch: int = BATCH
) -> tuple[Score, list[Response]]:
    """Answer every item greedily and score it; responses come in the order of the items.

    An answer stops at the terminators of the asker and at those of the model.
    """
    stops = list(dict.fromkeys([*asker.terminators, *stop_ids(model)]))
    prompts = [asker.ask(item.prompt) for item in items]
    answers = generate(model, prompts, max_new_tokens, stops, pad=asker.pad, batch=batch)
    responses = []
    for item, ids in zip(items, answers, strict=True):
        ended = bool(ids) and ids[-1] in stops
        text = asker.read(ids[:-1] if ended else ids)
        found = extract(text)
        responses.append(Response(item.prompt, item.answer, text, found, found == extract(item.answer), ended))
    right, stopped = (sum(getattr(r, name) for r in responses) for name in ("correct", "stopped"))
    return Score(right, len(responses), stopped), responses


def responses_jsonl(responses: Iterable[Response]) -> bytes:
    """`responses.jsonl`, one response a line."""
    return "".join(json.dumps(asdict(r), ensure_ascii=False, sort_keys=True) + "\n" for r in responses).encode(
        "utf-8", "surrogatepass"
    )
