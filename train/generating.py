"""Greedy answers in batches.

Prompts are sorted by length and padded on the left; each batch is prefilled once and then decoded token by token with
the model's own cache, and answers that have stopped leave the batch, so a batch costs its longest answer, not the
longest of all. Stop strings are looked for every `LOOK` tokens, counted from the start of the answer, so that what an
answer is does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from curate.foundation.errors import MachineError, UsageError

BATCH: Final = 128
LOOK: Final = 8
Halt = Callable[[Sequence[int]], bool]


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
    halt: Halt | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Greedy answers (token ids, the terminator included when the model stopped), in the order of the prompts.

    An answer also ends, up to `LOOK` tokens late, where `halt` of its ids is true. Raises `UsageError` when prompt and
    answer do not fit the model's positions, `MachineError` when a batch does not fit the GPU's memory.
    """
    import torch

    room = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, prompts_ids), default=0)
    if room and longest + max_new_tokens > room:
        fits = f"--max-new-tokens {room - longest}" if longest < room else "ask with fewer --shots"
        raise UsageError(
            f"the longest prompt takes {longest:,} tokens and its answer up to {max_new_tokens:,}; the model has {room:,}",
            hint=fits,
        )
    answers: list[list[int]] = [[] for _ in prompts_ids]
    by_length = sorted(range(len(prompts_ids)), key=lambda number: len(prompts_ids[number]))
    stops = list(stop_ids)
    for start in range(0, len(by_length), batch):
        chunk = by_length[start : start + batch]
        try:
            _decode(
                model,
                [prompts_ids[number] for number in chunk],
                [answers[n] for n in chunk],
                max_new_tokens,
                stops,
                pad,
                halt,
            )
        except torch.OutOfMemoryError as error:
            raise MachineError(
                f"a batch of {len(chunk)} answers does not fit the memory of the GPU",
                hint=f"--batch {max(1, batch // 4)}",
            ) from error
        if progress:
            progress(len(chunk))
    return answers


def _decode(
    model: Any,
    prompts: list[Sequence[int]],
    answers: list[list[int]],
    most: int,
    stops: list[int],
    pad: int,
    halt: Halt | None,
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
        for count in range(1, most + 1):
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
            if halt and count % LOOK == 0:
                going &= torch.tensor([not halt(answers[place]) for place in alive], device=device)
            if not bool(going.any()):
                return
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            if not bool(going.all()):
                left = going.nonzero()[:, 0]
                alive = [alive[n] for n in left.tolist()]
                cache.batch_select_indices(left)
                ids, positions, mask = ids[left], positions[left], mask[left]
