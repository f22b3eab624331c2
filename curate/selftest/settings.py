"""The floors of `curate selftest`, in a recipe under `curate.selftest`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SelftestSettings(BaseModel):
    """The least that the stages must reach on what was planted, for each kind by itself.

    `recall`: of the pairs that a stage promises to part, those of which not both are still there. `precision`: of the
    removed records, those that are as similar to their twin as the stage promises. For planted evaluation items the same:
    those that must be found, and records that hold what they were removed for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    recall: float = Field(default=0.995, ge=0, le=1)
    precision: float = Field(default=1.0, ge=0, le=1)
