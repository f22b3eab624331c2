"""What is watched beside the loss: speed, memory, sudden rises, and whether the held-out loss still falls."""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from train.checkpoint import Progress
from train.config import TrainConfig

WINDOW: Final = 64  # losses that say what is usual
LEAST: Final = 16
FLOOR: Final = 0.02  # a deviation is at least this share of the mean: a flat curve is not all spikes
# Dense bf16 (fp16 where a card has no bf16) floating-point operations a second, without sparsity, from the makers' data
# sheets; the first name that a card's own name contains decides.
PEAK: Final = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L4", 121e12),
    ("4090", 165e12),
    ("3090", 71e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


@dataclass(frozen=True, slots=True)
class Work:
    """What one token costs to train: `dense` operations through the weights, `by_length` more for each position it sees.

    Six operations a weight (forward two, backward four; an adapter has no gradient of the frozen weights: four), and for
    attention 12 a layer, head dimension and position, halved because it is causal (PaLM, Chowdhery et al. 2022, B).
    The embedding is a look-up; the head runs at trained positions alone and is counted there.
    """

    dense: float
    head: float
    by_length: float

    @classmethod
    def of(cls, model: Any, *, adapter: bool) -> Work:
        """The work of a causal language model of the usual shape."""
        text = model.config.get_text_config()
        size = model.num_parameters(exclude_embeddings=False)
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        inner = size - embedding.numel() - (0 if head is embedding else head.numel())
        a_weight = 4.0 if adapter else 6.0
        heads = getattr(text, "num_attention_heads", 0)
        width = heads * (getattr(text, "head_dim", None) or text.hidden_size // max(1, heads))
        return cls(a_weight * inner, a_weight * head.numel(), 6.0 * text.num_hidden_layers * width)

    def flops(self, lengths: Sequence[int], trained: int) -> float:
        """Operations for segments of these lengths with so many trained tokens."""
        tokens = sum(lengths)
        return self.dense * tokens + self.head * trained + self.by_length * sum(n * n for n in lengths)


def peak(device: torch.device) -> float | None:
    """The operations a second a card can do at most; None for CPU and cards that are not listed."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((value for part, value in PEAK if part in name), None)


def memory(device: torch.device) -> int:
    """The most bytes in use so far: of the card where there is one, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def is_spike(before: Sequence[float], loss: float, limit: float) -> bool:
    """Whether a loss stands more than `limit` deviations above the mean of the losses before it (at least 16)."""
    if len(before) < LEAST:
        return False
    mean = statistics.fmean(before)
    return loss > mean + limit * max(statistics.pstdev(before), FLOOR * abs(mean))


def judge(progress: Progress, loss: float, config: TrainConfig) -> bool:
    """Take in a held-out loss: the best so far or not, and whether to stop; True when it is the best.

    As transformers' EarlyStoppingCallback: an evaluation counts against patience unless it betters the best by more
    than `min_delta`. The loss before the first step is not judged: nothing was trained.
    """
    if not config.judges or not progress.step:
        return False
    least = progress.best_loss
    early = config.early_stopping
    gained = least is None or loss < least - (early.min_delta if early else 0.0)
    progress.worse = 0 if gained else progress.worse + 1
    progress.stopped = early is not None and progress.worse >= early.patience
    if least is not None and loss >= least:
        return False
    progress.best_loss, progress.best_step = loss, progress.step
    return True
