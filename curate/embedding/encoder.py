"""Texts to unit vectors by a sentence-transformers model on this machine's best device.

Texts are sorted by length and encoded in batches of fixed shapes: of 32, 64, 96 ... tokens, as many texts as make up
BUDGET tokens, the last batch of a shape filled up. So the vector of a text is the same bits whatever else is encoded
with it, which a batch padded to its longest text does not give. Text beyond the model's window is cut, as in every
such model; `Encoder.cut` says where. An empty text has a row of zeros.

Cost: nearly all of it is the model. all-MiniLM-L6-v2 (22.7 M parameters) does some 30 prompts of 60 tokens a second on
one slow core; a GPU does thousands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curate.embedding.models import identity, is_static, locate
from curate.foundation.errors import MachineError, UsageError

Vectors = NDArray[np.float32]
BUDGET: Final = 1_024  # tokens at once on a CPU; more is slower there
WIDE_BUDGET: Final = 65_536  # on a GPU
STEP: Final = 32  # tokens between two shapes
LONGEST: Final = 8_192  # tokens looked at of a text, however wide the model's window is


class Encoder:
    """A loaded model: `identity` (digest), `name`, `dimensions`, `device`, `window` (tokens; None = no limit)."""

    def __init__(self, name: str, folder: Path, model: Any, device: str) -> None:
        self.name = name
        self.identity = identity(folder)
        self.device = device
        self.dimensions = int(model.get_embedding_dimension())
        self._model = model
        longest = getattr(model, "max_seq_length", None)
        self.window = None if is_static(folder) else min(int(longest or LONGEST), LONGEST)

    @classmethod
    def load(cls, name: str, device: str = "auto") -> Encoder:
        """Load a model by folder, hub name or package; `device` is auto, cpu, cuda, mps.

        Raises `UsageError` for what is no such model, `Offline` when the hub is needed and away.
        """
        folder = locate(name)
        chosen = _device(device)
        try:
            model = _static(folder, chosen) if is_static(folder) else _transformer(folder, chosen)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise UsageError(
                f"model {name}: sentence-transformers cannot load it ({type(error).__name__})",
                hint="choose a model that needs no code of its own, such as thenlper/gte-small",
            ) from error
        return cls(name, folder, model, chosen)

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """How many tokens each text has, special ones included, shape (n,)."""
        from transformers.utils import logging

        if self.window is None:
            return np.array([len(text) for text in texts], np.int64)
        level = logging.get_verbosity()
        logging.set_verbosity_error()  # a text longer than the window is no news: `cut` tells
        try:
            parts = [
                self._model.tokenizer(list(texts[at : at + 1_024]))["input_ids"] for at in range(0, len(texts), 1_024)
            ]
        finally:
            logging.set_verbosity(level)
        return np.array([len(ids) for part in parts for ids in part], np.int64)

    def cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which texts are longer than the window, so that only their beginning counts, shape (n,)."""
        if self.window is None:
            return np.zeros(len(texts), np.bool_)
        return np.asarray(self.tokens(texts) > self.window, dtype=np.bool_)

    def encode(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Vectors:
        """The vectors of texts, float32 [n, dimensions], unit length; blank text or a zero vector gives a row of zeros.

        `progress` is told how many texts were done since it was last called. Raises `MachineError` when the device
        runs out of memory.
        """
        out = np.zeros((len(texts), self.dimensions), np.float32)
        spoken = np.array([at for at, text in enumerate(texts) if text.strip()], np.int64)
        if progress is not None and len(spoken) < len(texts):
            progress(len(texts) - len(spoken))
        counts = self.tokens([texts[at] for at in spoken])
        shapes = np.zeros_like(counts) if self.window is None else np.minimum(-(-counts // STEP) * STEP, self.window)
        budget = BUDGET if self.device == "cpu" else WIDE_BUDGET
        for shape in np.unique(shapes)[::-1]:  # the longest first: what does not fit shows at once
            mine, batch = spoken[shapes == shape], max(1, budget // int(shape or 64))
            for start in range(0, len(mine), batch):
                rows = mine[start : start + batch]
                out[rows] = self._batch([texts[at] for at in rows], int(shape), batch)
                if progress is not None:
                    progress(len(rows))
        return out

    def _batch(self, texts: list[str], shape: int, batch: int) -> Vectors:
        """One batch, filled up with its first text; unit vectors, zeros where the model gives no direction."""
        filled = texts + texts[:1] * (batch - len(texts))
        more: dict[str, Any] = {}
        if shape:
            more = {"processing_kwargs": {"text": {"padding": "max_length", "max_length": shape, "truncation": True}}}
        try:
            found = self._model.encode(filled, batch_size=batch, show_progress_bar=False, convert_to_numpy=True, **more)
        except RuntimeError as error:
            if "out of memory" not in str(error).lower():
                raise
            raise MachineError(
                f"model {self.name}: no memory on {self.device} for {batch} texts of {shape} tokens",
                hint="use a smaller model, or run on the CPU: CUDA_VISIBLE_DEVICES= before the command",
            ) from error
        wide = np.asarray(found[: len(texts)], np.float64)
        wide[~np.isfinite(wide).all(axis=1)] = 0.0
        norms = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
        unit: Vectors = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 1e-12).astype(np.float32)
        return unit


def _device(wanted: str) -> str:
    import torch

    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


_QUIET = threading.Lock()


def _transformer(folder: Path, device: str) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    with _QUIET:
        shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            model = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32, "attn_implementation": "sdpa", "use_safetensors": True},
            )
        finally:
            logging.set_verbosity(level)
            if shown:
                logging.enable_progress_bar()
    return model.eval()


def _static(folder: Path, device: str) -> Any:
    """A model2vec table as a sentence-transformers model; int8 tables are made float, which changes no direction."""
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tensors = load_file(folder / "model.safetensors")
    table = tensors["embeddings"].astype(np.float32)
    if set(tensors) != {"embeddings"}:
        raise ValueError("a model2vec table with token weights or a mapping is not supported")
    module = StaticEmbedding(Tokenizer.from_file(str(folder / "tokenizer.json")), embedding_weights=table)
    return SentenceTransformer(modules=[module], device=device)
