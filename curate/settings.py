"""The `curate` section of a recipe."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curate.selftest.settings import SelftestSettings
from curate.sources import ReadSettings
from curate.stages.decontaminate_settings import DecontaminateSettings
from curate.stages.embedding_settings import EmbeddingSettings
from curate.stages.minhash_settings import MinhashSettings
from curate.stages.settings import ExactSettings, LengthSettings, QualitySettings, SelectSettings

STAGES: Final = ("select", "length", "quality", "exact", "minhash", "embedding", "decontaminate")
# embedding is asked for: it costs a model's time.
DEFAULT: Final = ("select", "length", "quality", "exact", "minhash", "decontaminate")


class Exemption(BaseModel):
    """What `curate restore` brought back: a rule (`stage.rule` or a whole stage), a source, single ids, or their meet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str | None = None
    source: str | None = None
    ids: tuple[str, ...] = ()


class CurateConfig(BaseModel):
    """Settings of `curate filter`; every stage has its own block."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[str, ...] = DEFAULT
    read: ReadSettings = Field(default_factory=ReadSettings)
    select: SelectSettings = Field(default_factory=SelectSettings)
    length: LengthSettings = Field(default_factory=LengthSettings)
    quality: QualitySettings = Field(default_factory=QualitySettings)
    exact: ExactSettings = Field(default_factory=ExactSettings)
    minhash: MinhashSettings = Field(default_factory=MinhashSettings)
    embedding: EmbeddingSettings = Field(default_factory=EmbeddingSettings)
    decontaminate: DecontaminateSettings = Field(default_factory=DecontaminateSettings)
    priority: dict[str, int] = Field(default_factory=dict, description="source -> rank; the higher one survives")
    selftest: SelftestSettings = Field(default_factory=SelftestSettings)
    previous: tuple[str, ...] = Field(default=(), description="earlier outputs: what they kept wins over new records")
    restore: tuple[Exemption, ...] = ()
    allow_wipeout: bool = False
    examples: int = Field(default=3, ge=0, le=50, description="samples of removed records a rule in the card")

    @field_validator("stages")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in STAGES:
                raise ValueError(f"unknown stage {name!r}; stages are {', '.join(STAGES)}")
        return tuple(name for name in STAGES if name in value)
