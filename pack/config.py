"""The `pack` section of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class PackConfig(BaseModel):
    """Settings of `pack build`. Lengths are in tokens; `epochs` says how often a source is drawn (fractions too)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ctx: int = Field(4096, ge=2, le=1 << 24)
    tokenizer: str | None = Field(None, min_length=1)
    template: str | None = None
    prompt_format: str | None = None
    loss_on: Literal["assistant", "last", "all", "completion"] = "assistant"
    algorithm: Literal["bfd", "first-fit", "none"] = "bfd"
    window: int = Field(50_000, ge=0)
    overlong: Literal["drop", "truncate", "error"] = "drop"
    control_tokens: Literal["text", "strip", "reject"] = "text"
    thinking: Literal["last", "split", "all"] = "last"
    tokenizer_engine: Literal["auto", "hf", "gigatoken"] = "auto"
    eval_fraction: float = Field(0.05, ge=0.0, lt=1.0)
    seed: int = Field(0, ge=0, lt=1 << 63)
    epochs: dict[str, float] = Field(default_factory=dict)

    @field_validator("epochs")
    @classmethod
    def _countable(cls, value: dict[str, float]) -> dict[str, float]:
        for source, epochs in value.items():
            if not 0 <= epochs <= 1_000:
                raise ValueError(f"epochs of {source} must be from 0 to 1000")
        return value
