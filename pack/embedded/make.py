"""Makes the embedded tokenizer: byte-level BPE, one token a digit, ChatML markers, pad distinct from end of text.

The text it learns from is ours: rows of the sample corpus and lines of common words, drawn by a fixed seed. The
vocabulary is small on purpose: with 128 hidden units on a CPU, 16,000 entries would cost more than four layers do.
Every byte is in the alphabet, so any text comes back as it went in. Takes about two seconds and always writes the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from curate.foundation.store import Store
from curate.record import Message
from pack.builtin import CHATML
from pack.embedded.words import CODE, ENDINGS, WORDS

VOCABULARY: Final = 2_048
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
FOLDER: Final = Path(__file__).parent
CONFIG: Final[dict[str, Any]] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "add_bos_token": False,
    "add_prefix_space": False,
    "bos_token": None,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "extra_special_tokens": {},
    "model_max_length": 1_000_000,
    "pad_token": "<|pad|>",
    "unk_token": None,
}


def text() -> Iterator[str]:
    """The training text, the same every time."""
    from curate.sample.corpus import clean
    from curate.sample.draw import Draw

    for row in clean(Draw(0, "tokenizer problems"), 4_000):
        yield "\n".join(_said(message) for message in row.messages)
    draw = Draw(0, "tokenizer words")
    for _ in range(6_000):
        yield _prose(draw) if draw.chance(0.75) else draw.pick(CODE).format(*(draw.pick(WORDS) for _ in range(3)))


def _said(message: Message) -> str:
    return f"{message.role}\n{message.content}"


def _prose(draw: Any) -> str:
    words = []
    for _ in range(draw.between(6, 18)):
        # A square draw: early words come often, as in any text (Zipf).
        word = WORDS[int(len(WORDS) * draw.below(1_000) ** 2 / 1_000_000)]
        word += draw.pick(ENDINGS) if draw.chance(0.15) else ""
        words.append(f"{word}," if draw.chance(0.08) else word)
    return f"{' '.join(words).capitalize()}{draw.pick(('.', '.', '.', '?', '!', ':'))}\n"


def tokenizer() -> Any:
    """A trained `tokenizers.Tokenizer`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(text(), trainer)
    return made


def write(folder: Path = FOLDER) -> list[str]:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja into a folder; their names."""
    store = Store(folder, "tokenizer")
    spec = json.loads(tokenizer().to_str())
    files = {
        "tokenizer.json": json.dumps(spec, ensure_ascii=False, indent=0) + "\n",
        "tokenizer_config.json": json.dumps(CONFIG, indent=1) + "\n",
        "chat_template.jinja": CHATML,
    }
    for name, content in files.items():
        store.write_bytes(name, content.encode())
    return list(files)


if __name__ == "__main__":
    print("\n".join(write()))
