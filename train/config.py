"""The `train` section of a recipe."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DEFAULT_BATCH: Final = 256
# What may change between a run and its resumption: none of these moves a weight.
FREE: Final = frozenset({"save_steps", "eval_steps", "eval_rows", "keep", "resume", "smoke_tokens", "track", "spike"})
JUDGED: Final = frozenset({"eval_steps", "eval_rows"})  # with early stopping or the best model, these decide too


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


class LoraSettings(BaseModel):
    """A low-rank adapter (Hu et al. 2021) on a frozen model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(default=16, ge=1)
    alpha: float = Field(default=32, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["attention", "attention+mlp"] | list[str] = Field(
        default="attention", description="attention, attention+mlp, or the names of linear layers"
    )
    modules_to_save: list[str] = Field(
        default_factory=list, description="trained whole; embeddings and head besides, where pack added tokens"
    )


class EarlyStopping(BaseModel):
    """Stop when the held-out loss has not fallen by more than `min_delta` in `patience` evaluations."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patience: int = Field(default=3, ge=1)
    min_delta: float = Field(default=0.0, ge=0)


class TrainConfig(BaseModel):
    """Settings of `train run`."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(default="tiny", min_length=1)
    tiny: TinySettings = Field(default_factory=TinySettings)
    lora: LoraSettings | None = Field(default=None, description="an adapter in place of full training")
    merge: bool = Field(default=False, description="final/ holds the adapter merged into the model")
    load_in_4bit: bool = Field(default=False, description="the frozen model of an adapter in 4-bit NF4")
    lr: float | None = Field(default=None, gt=0, description="2e-5; 2e-4 for LoRA; 2e-3 for tiny")
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine", "cosine_with_min_lr", "warmup_stable_decay"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, lt=1, description="share of all steps")
    warmup_steps: int | None = Field(default=None, ge=0, description="in steps; decides over warmup")
    min_lr: float = Field(default=0.0, ge=0, description="where cosine_with_min_lr ends")
    decay: float = Field(default=0.1, gt=0, le=1, description="last share of warmup_stable_decay, linear to 0")
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
    keep: int = Field(default=2, ge=1, description="checkpoints kept, and the best one besides")
    early_stopping: EarlyStopping | None = None
    best: bool = Field(default=False, description="final/ is the checkpoint of the lowest held-out loss")
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    attention: Literal["auto", "segments", "sdpa", "eager", "flex", "flash"] = "auto"
    deterministic: bool = Field(default=False, description="only deterministic kernels; an error where there is none")
    gradient_checkpointing: bool = False
    compile: bool = Field(default=False, description="torch.compile")
    liger: bool = Field(default=False, description="the Triton kernels of liger-kernel; needs a GPU")
    fsdp: bool = Field(default=False, description="parameters and optimizer sharded over the processes (FSDP2)")
    num_processes: int = Field(default=1, ge=1, le=1024)
    resume: bool = True
    spike: float = Field(default=6.0, gt=0, description="deviations above the recent mean that make a loss a spike")
    track: list[Literal["tensorboard", "trackio", "wandb"]] = Field(default_factory=list)
    smoke_tokens: int = Field(default=64, ge=1, description="length of the smoke generation at the end")

    @field_validator("track", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.lora is None and (self.merge or self.load_in_4bit):
            raise ValueError(f"{'merge' if self.merge else 'load_in_4bit'} is for an adapter: give lora too")
        if self.lora is not None and self.model == "tiny" and not self.merge:
            raise ValueError("an adapter of a random start has no model to be loaded on: give merge too")
        if self.fsdp and (self.load_in_4bit or self.optimizer != "adamw"):
            raise ValueError("fsdp shards plain parameters: neither load_in_4bit nor an 8-bit optimizer")
        return self

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as given, else 2e-5, 2e-4 for an adapter, and 2e-3 for a random start."""
        if self.lr is not None:
            return self.lr
        if self.lora is not None:
            return 2e-4
        return 2e-3 if self.model == "tiny" else 2e-5

    @property
    def judges(self) -> bool:
        """Whether the held-out loss decides something."""
        return self.best or self.early_stopping is not None

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the weights: what a resumed run must share with the one it goes on from."""
        free = FREE - JUDGED if self.judges else FREE
        return {key: value for key, value in self.model_dump(mode="json").items() if key not in free}
