"""Experiment trackers by name, through accelerate; `metrics.jsonl` is written whatever they do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from train.config import TrainConfig
from train.optimizing import need

FOLDER: Final = "trackers"
PROJECT: Final = "gristmill"


def require(config: TrainConfig) -> None:
    """Raise `MissingExtra` for a tracker whose package is not installed (accelerate would leave it out in silence)."""
    for name in config.track:
        need(name, name, f"--track {name}")


def options(config: TrainConfig, run: Path) -> dict[str, Any]:
    """What `Accelerator` is told."""
    return {"log_with": list(config.track), "project_dir": str(run / FOLDER)} if config.track else {}


def begin(accelerator: Any, config: TrainConfig) -> None:
    """Start the trackers with the run's settings."""
    if config.track:
        settings = {key: value for key, value in flat(config.model_dump(mode="json")).items() if value is not None}
        accelerator.init_trackers(PROJECT, config={key: _plain(value) for key, value in settings.items()})


def flat(line: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by a slash."""
    out: dict[str, Any] = {}
    for key, value in line.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}/")
        else:
            out[prefix + key] = value
    return out


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """What of a line of metrics.jsonl a tracker can draw."""
    kept = {key: value for key, value in flat(line).items() if key != "step"}
    return {key: value for key, value in kept.items() if isinstance(value, int | float) and not isinstance(value, bool)}


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)
