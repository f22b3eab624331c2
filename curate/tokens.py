"""Token columns of the card: how many tokens of a named tokenizer the kept messages hold (content only, no template)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from curate.foundation.errors import Offline, UsageError
from curate.sources import reachable


def load(name: str) -> Any:
    """A `tokenizers.Tokenizer` from a folder, a tokenizer.json, or a hub name; offline names fail within a second."""
    from tokenizers import Tokenizer

    path = Path(name)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        return Tokenizer.from_file(str(file))
    if path.exists() or name.startswith((".", "/")) or name.count("/") != 1:
        raise UsageError(f"--tokenizer {name}: no tokenizer.json there", hint="name a folder that holds tokenizer.json")
    try:
        from huggingface_hub import hf_hub_download

        # Without a network the hub's client would retry for half a minute.
        local = not reachable()
        return Tokenizer.from_file(hf_hub_download(name, "tokenizer.json", etag_timeout=1, local_files_only=local))
    except Exception as error:  # the hub raises a different type for each way of being away
        raise Offline(
            f"--tokenizer {name}: not cached here, and the hub did not answer ({type(error).__name__})",
            hint="name a local folder that holds tokenizer.json",
        ) from error


def counter(name: str) -> Callable[[pa.Table], dict[str, int]]:
    """A function that counts the tokens of a batch's message contents, by source."""
    tokenizer = load(name)

    def count(table: pa.Table) -> dict[str, int]:
        out: dict[str, int] = {}
        for row in table.select(["source", "messages"]).to_pylist():
            texts = [message["content"] for message in row["messages"] if message["content"]]
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            out[row["source"]] = out.get(row["source"], 0) + sum(len(item.ids) for item in encoded)
        return out

    return count
