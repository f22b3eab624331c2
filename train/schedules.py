"""The learning rate over a run: transformers' schedules, stepped once an optimizer step.

The scheduler is never wrapped by accelerate (a wrapped one steps as often as there are processes), and its place is a
function of the step alone, so a resumed run only has to be told the step.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from train.config import TrainConfig


def warmup_steps(config: TrainConfig, steps: int) -> int:
    """Optimizer steps until the peak: as given, else the share of all steps, rounded up as in transformers."""
    return config.warmup_steps if config.warmup_steps is not None else math.ceil(steps * config.warmup)


def make_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """The `LambdaLR` of the schedule over `steps` optimizer steps.

    `constant` warms up too; `warmup_stable_decay` falls linearly to 0 over the last `decay` of all steps (as SmolLM2).
    """
    from transformers import get_scheduler

    rise = warmup_steps(config, steps)
    name: str = config.schedule
    special: dict[str, Any] = {}
    if name == "constant":
        name = "constant_with_warmup"
    elif name == "cosine_with_min_lr":
        special = {"min_lr": config.min_lr}
    elif name == "warmup_stable_decay":
        special = {"num_decay_steps": max(1, round(steps * config.decay)), "decay_type": "linear"}
    return get_scheduler(name, optimizer, rise, steps, scheduler_specific_kwargs=special)


def go_to(scheduler: Any, step: int) -> None:
    """Set a fresh scheduler, and its optimizer's learning rate, to where it stands after `step` optimizer steps."""
    state = scheduler.state_dict() | {"last_epoch": step, "_step_count": step + 1}
    rates = [base * rate(step) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
    scheduler.load_state_dict(state | {"_last_lr": rates})
    for group, value in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = value
