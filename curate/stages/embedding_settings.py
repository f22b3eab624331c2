"""The settings of the stage `embedding`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curate.embedding.models import DEFAULT
from curate.stages.settings import Frozen


class EmbeddingSettings(Frozen):
    """What counts as the same in meaning: the cosine of two key texts' vectors, `threshold` or more.

    `model` is a local folder, a hub name or a package (`embedding/models.py`). The default is the smallest native gte:
    33 M parameters, 384 dimensions, 512 tokens, MIT licence, no code of its own; on a CPU the larger ones cost 3 to 10
    times as much, and near-duplicates are easy for all of them.
    """

    key: Literal["conversation", "prompt", "first-user", "response"] = "prompt"
    threshold: float = Field(default=0.95, gt=0, le=1)
    model: str = Field(default=DEFAULT, min_length=1)
