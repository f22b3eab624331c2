"""`final/`: a folder that serves as it is, and the smoke generation that shows it."""

from __future__ import annotations

import json
import secrets
import shutil
from pathlib import Path
from typing import Any, Final

from curate.foundation.errors import GristmillError
from curate.foundation.store import Store, sync_folder
from pack.template import Tokenizer
from train.adapters import CONFIG, load_saved, save_adapter
from train.asking import FACTS, facts_of
from train.data import Row, Shards

FOLDER: Final = "final"
TELLING: Final = (
    "12345 + 678 = 13023",
    "It's  two   spaces\n\n\tand a tab",
    "naïve café ﬁ 東京 Привет 👩‍👩‍👧",
    "x=[1.5e-3];//ok",
)


def save_final(store: Store, model: Any, shards: Shards, weights: dict[str, Any] | None = None) -> list[str]:
    """Write weights, configuration, tokenizer and generation configuration to `final/`, whole or not at all.

    `model` may be an adapter (a `PeftModel`); `weights` are given where the model's own are sharded. The generation
    configuration stops at the terminators that were trained. Returns the names of the files.
    """
    target = store.root / FOLDER
    temp = store.root / f".{FOLDER}.tmp-{secrets.token_hex(6)}"
    try:
        _fill(temp, model, shards, weights)
        shutil.rmtree(target, ignore_errors=True)
        temp.rename(target)
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    sync_folder(store.root)
    return sorted(path.relative_to(store.root).as_posix() for path in target.rglob("*") if path.is_file())


def _fill(folder: Path, model: Any, shards: Shards, weights: dict[str, Any] | None = None) -> None:
    from transformers import GenerationConfig

    terminators, pad = list(shards.manifest["terminators"]), shards.manifest["pad_id"]
    adapter = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    plain = model.get_base_model() if adapter else model
    plain.config.eos_token_id = terminators
    generation = getattr(plain, "generation_config", None) or GenerationConfig()
    generation.eos_token_id, generation.pad_token_id = terminators, pad
    plain.generation_config = generation
    if adapter:
        save_adapter(model, folder)
    else:
        whole = {name: weights[name] for name in model.state_dict() if name in weights} if weights else None
        model.save_pretrained(folder, **({"state_dict": whole} if whole else {}))
    # The shards' files and never the model's own: transformers saves some tokenizers without part of their pipeline.
    shutil.copytree(shards.tokenizer, folder, dirs_exist_ok=True)
    facts = facts_of(shards.manifest)
    if facts["rendering"].get("prompt_format") is not None:
        (folder / "chat_template.jinja").unlink(missing_ok=True)  # not what was trained: chats would be asked wrongly
    (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def smoke(final: Path, shards: Shards, tokens: int) -> dict[str, Any]:
    """Load `final/` with plain transformers (an adapter with peft), answer one real prompt greedily: does it stop?

    Raises `GristmillError` when weights are missing or unknown, or when transformers reads texts as other ids than the
    shards hold; a model that does not stop is reported, not refused.
    """
    import torch
    from transformers import AutoTokenizer

    model, wrong = load_saved(final)
    tokenizer = AutoTokenizer.from_pretrained(str(final), local_files_only=True)
    if wrong:
        raise GristmillError(
            f"{final}: does not load: {', '.join(wrong[:9])}", hint="this is a defect of ours: please report it"
        )
    if text := misread(Tokenizer.load(final), tokenizer):
        raise GristmillError(
            f"{final}: transformers tokenises {text!r} otherwise than the shards were",
            hint="this is a defect of ours: please report it with the tokenizer's name",
        )
    prompt = real_prompt(shards, tokens)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, num_beams=1
        )
    answer = out[0, len(prompt) :].tolist()
    stops = set(model.generation_config.eos_token_id)
    return {
        "loads": True,
        "with": "peft" if (final / CONFIG).is_file() else "plain transformers",
        "has_chat_template": bool(tokenizer.chat_template),
        "prompt_tokens": len(prompt),
        "new_tokens": len(answer),
        "stopped": bool(answer) and answer[-1] in stops,
    }


def misread(ours: Tokenizer, theirs: Any) -> str | None:
    """The first of some telling texts (digits, spaces, contractions, scripts) whose ids differ; None when none does."""
    for text in TELLING:
        if ours.encode(text)[0] != list(theirs(text, add_special_tokens=False)["input_ids"]):
            return text
    return None


def real_prompt(shards: Shards, room: int) -> list[int]:
    """The tokens before the first trained one of a real segment, from the eval split when there is one."""
    split = shards.eval if shards.eval.trained else shards.train
    for number in (split.row_trained > 0).nonzero()[0]:
        row: Row = split[int(number)]
        for segment in row.segments:
            if segment["trained"]:
                labels = row.labels[segment["start"] : segment["start"] + segment["length"]]
                first = int((labels >= 0).argmax())
                ids = row.input_ids[segment["start"] : segment["start"] + first]
                return [int(token) for token in ids[-max(1, shards.ctx - room) :]]
    raise AssertionError("Shards refuses a train split without trained tokens")
