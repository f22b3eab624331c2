"""Packed shards of a small made language, written through the same doors as `pack build`, for the tests of train."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa

from curate.foundation.store import Store, digest_of
from pack.shards import TRAINED_BIT, Layout, packed_batch, write_part

WORDS = ["plus", "minus", "is", "what", "apples", "birds", "and", "then"]
SPECIAL = ["<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer(extra=()):
    """A word-level tokenizer with digits as tokens; `extra` words change its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: n for n, token in enumerate([*SPECIAL, *(str(d) for d in range(10)), *WORDS, *extra])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<|pad|>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
    backend.decoder = decoders.Sequence([])
    backend.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def example(rng):
    """(prompt ids, answer ids with terminator): adding two one-digit numbers."""
    a, b = rng.randrange(10), rng.randrange(10)
    digits = [4 + int(d) for d in str(a + b)]
    filler = [14 + rng.randrange(len(WORDS)) for _ in range(rng.randrange(8))]
    return [1, 17, *filler, 4 + a, 14, 4 + b, 16, 2], [*digits, 3]


def packed(examples, ctx, rng):
    """A record batch of the examples, first fit in order."""
    rows, space = [[]], ctx
    for item in examples:
        size = sum(map(len, item))
        if size > space:
            rows.append([])
            space = ctx
        rows[-1].append(item)
        space -= size
    buffer = np.zeros((len(rows), ctx), np.uint32)
    lengths, edges, ids, sources = [], [0], [], []
    for number, row in enumerate(rows):
        at = 0
        for prompt, answer in row:
            tokens = [*prompt, *(token | int(TRAINED_BIT) for token in answer)]
            buffer[number, at : at + len(tokens)] = tokens
            at += len(tokens)
            lengths.append(len(tokens))
            ids.append(f"{rng.getrandbits(128):032x}")
            sources.append("even" if len(prompt) % 2 else "odd")
        edges.append(len(lengths))
    layout = Layout(
        np.array(edges, np.int64),
        np.array(lengths, np.int64),
        np.zeros(len(lengths), np.int32),
        pa.array(ids),
        pa.array(sources),
    )
    return packed_batch(buffer, layout, 0)


def write_shards(root, *, ctx=64, train=240, held=24, seed=0, tokenizer=None, **facts):
    """Write a complete shards folder and return it."""
    rng = random.Random(seed)
    tokenizer = tokenizer or make_tokenizer()
    store = Store(root, "shards")
    root.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(root / "tokenizer")
    splits = {}
    for split, count in (("train", train), ("eval", held)):
        if not count:
            continue
        batch = packed([example(rng) for _ in range(count)], ctx, rng)
        name = f"{split}/part-00000.arrow"
        with store.writing(name) as temp:
            write_part(temp, [batch])
        splits[split] = {"rows": batch.num_rows, "parts": [name]}
    names = store.names()
    manifest = {
        "ctx": ctx,
        "pad_id": 0,
        "tokenizer": {"name": "made", "digest": "0", "vocab_size": len(tokenizer)},
        "terminators": [3],
        "added_tokens": [],
        "splits": splits,
        "sources": {"even": {}, "odd": {}},
        "recipe": {},
    }
    manifest |= facts
    manifest["fingerprint"] = digest_of([{name: store.entry(name) for name in names}, ctx])
    store.commit(manifest, names)
    return root
