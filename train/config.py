"""The `train` section of a recipe."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_BATCH: Final = 256
# What may change between a run and its resumption: none of these moves a weight.
FREE: Final = frozenset({"save_steps", "eval_steps", "eval_rows", "keep", "resume", "smoke_tokens"})


class TinySettings(BaseModel):
    """The size of `--model tiny`, a random-start model of the Llama shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=4, ge=1)
    hidden: int = Field(default=128, ge=8)
    heads: int = Field(default=4, ge=1)
    kv_heads: int | None = Field(default=None, ge=1, description="as many as heads when not given")
    intermediate: int | None = Field(default=None, ge=8, description="8/3 of hidden, in steps of 64, when not given")
    tie_embeddings: bool = True

    @model_validator(mode="after")
    def _divides(self) -> TinySettings:
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ValueError(f"hidden {self.hidden} over heads {self.heads} must be an even number")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


class TrainConfig(BaseModel):
    """Settings of `train run`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(default="tiny", min_length=1)
    tiny: TinySettings = Field(default_factory=TinySettings)
    lr: float | None = Field(default=None, gt=0, description="2e-5; 2e-3 for tiny")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: float = Field(default=0.03, ge=0, lt=1, description="share of all steps")
    clip: float = Field(default=1.0, gt=0)
    batch: int = Field(default=DEFAULT_BATCH, ge=1)
    batch_unit: Literal["rows", "examples", "trained-tokens"] = "rows"
    micro_batch: int | None = Field(
        default=None, ge=1, description="rows a forward pass; about 4,096 tokens if not given"
    )
    max_steps: int | None = Field(default=None, ge=1)
    epochs: float = Field(default=1.0, gt=0, description="ignored when max_steps is given")
    save_steps: int | None = Field(default=None, ge=1, description="a quarter of the run when not given")
    eval_steps: int | None = Field(
        default=None, ge=1, description="a quarter of the run when not given; a run under 50 steps: at the end"
    )
    eval_rows: int | None = Field(
        default=None, ge=1, description="rows of the eval split, evenly spread; at most 65,536 tokens if not given"
    )
    keep: int = Field(default=2, ge=1, description="checkpoints kept")
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    num_processes: int = Field(default=1, ge=1, le=1024)
    resume: bool = True
    smoke_tokens: int = Field(default=64, ge=1, description="length of the smoke generation at the end")

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as given, else 2e-5, and 2e-3 for a random start."""
        if self.lr is not None:
            return self.lr
        return 2e-3 if self.model == "tiny" else 2e-5

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the weights: what a resumed run must share with the one it goes on from."""
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in FREE}
