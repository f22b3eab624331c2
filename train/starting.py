"""Everything a run needs before its first step: model, adapter, loss, optimizer, schedule, and the proof of isolation.

One GPU, several (DDP), sharded parameters (FSDP2) and CPU processes all pass through accelerate here. The optimizer is made
before the parameters are sharded, and accelerate points it at the shards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curate.foundation.errors import MachineError, UsageError
from train import adapters, checkpoint, schedules, selfcheck, tracking
from train.attention import choose, register
from train.config import TrainConfig
from train.data import Shards
from train.model import build_model, device_of, precision_of
from train.objective import PackedLoss
from train.optimizing import make_optimizer, need
from train.plan import Plan
from train.watching import Work


@dataclass(slots=True)
class Made:
    """What a run consists of; `wrapped` is peft's model around the one in `inner`, None in full training."""

    accelerator: Any
    device: str
    precision: str
    inner: PackedLoss
    objective: Any
    optimizer: Any
    scheduler: Any
    wrapped: Any
    report: selfcheck.Report
    work: Work
    frozen: str
    parameters: int
    trained: int

    def resume(self, path: Path) -> checkpoint.Progress:
        """Put a checkpoint back into model, optimizer, schedule and loss scale."""
        progress = checkpoint.load(path, self.inner.model, self.optimizer)
        schedules.go_to(self.scheduler, progress.step)
        if self.accelerator.scaler is not None and progress.scale:
            state = self.accelerator.scaler.state_dict()
            state |= {"scale": progress.scale, "_growth_tracker": progress.steady}
            self.accelerator.scaler.load_state_dict(state)
        return progress

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "selfcheck": self.report.facts(),
            "device": self.device,
            "precision": self.precision,
            "parameters": self.parameters,
            "trained_parameters": self.trained,
        }

    def final(self, config: TrainConfig, shards: Shards, weights: dict[str, torch.Tensor] | None) -> Any:
        """What `final/` is saved from: the model, the adapter around it, or the two merged.

        A 4-bit model is loaded again whole to be merged, and a sharded one (its `weights` gathered) to be wrapped.
        """
        if self.wrapped is None:
            return self.inner.model
        wrapped = self.wrapped
        if weights is not None or (config.merge and config.load_in_4bit):
            whole = config.model_copy(update={"load_in_4bit": False})
            torch.manual_seed(config.seed)
            fresh = adapters.adapt(build_model(whole, shards, self.precision), config, added_tokens(shards))
            wrapped = adapters.rebuilt(fresh, weights or checkpoint.weights_of(self.inner.model))
        return wrapped.merge_and_unload(safe_merge=True) if config.merge else wrapped


def added_tokens(shards: Shards) -> list[str]:
    """The tokens that pack added to the tokenizer."""
    return list(shards.manifest.get("added_tokens") or ())


def make(config: TrainConfig, shards: Shards, plan: Plan, run: Path) -> Made:
    """Build all of it on this process's device; raises what an unfit model, device or package gives."""
    from transformers.utils import logging

    device = device_of(config)
    if config.compile and device == "cpu":
        raise UsageError(
            "compile is for a GPU: on CPU it asks for a C++ compiler and gains little", hint="leave it out"
        )
    precision = precision_of(config, device)
    accelerator = _accelerator(config, device, precision, run)
    if accelerator.num_processes != config.num_processes:
        raise MachineError(
            f"{config.num_processes} processes were asked for, {accelerator.num_processes} started",
            hint="start them with: train run --num-processes N",
        )
    logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    model, wrapped = prepared(config, shards, device, precision)
    inner = PackedLoss(model if config.load_in_4bit else model.to(accelerator.device)).train()
    with accelerator.autocast():
        report = selfcheck.check(inner, shards, accelerator.device, precision)
    if config.compile:
        compile_layers(model)
    optimizer = make_optimizer(config, model.parameters())
    scheduler = schedules.make_scheduler(config, optimizer, plan.steps)
    counts = [sum(p.numel() for p in model.parameters() if wanted or p.requires_grad) for wanted in (True, False)]
    work, frozen = Work.of(model, adapter=wrapped is not None), adapters.frozen_digest(model)
    objective, ready = accelerator.prepare(inner, optimizer)
    scheduler.optimizer = ready.optimizer
    inner = accelerator.unwrap_model(objective)
    return Made(
        accelerator, device, precision, inner, objective, ready, scheduler, wrapped, report, work, frozen, *counts
    )


def _accelerator(config: TrainConfig, device: str, precision: str, run: Path) -> Any:
    from accelerate import Accelerator

    options: dict[str, Any] = tracking.options(config, run)
    if config.fsdp:
        from accelerate import FullyShardedDataParallelPlugin

        if config.num_processes == 1:
            raise UsageError("fsdp shards over processes, and there is one", hint="use --num-processes 2 or more")
        options["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2, reshard_after_forward=True, auto_wrap_policy="transformer_based_wrap"
        )
    mixed = precision if precision != "fp32" else "no"
    return Accelerator(cpu=device == "cpu", mixed_precision=mixed, **options)


def prepared(config: TrainConfig, shards: Shards, device: str, precision: str) -> tuple[Any, Any]:
    """The model with the attention of this device and the adapter in it, and peft's model around it (or None)."""
    model = build_model(config, shards, precision, device)
    register()
    model.set_attn_implementation(choose(model.config, device, config.attention, precision))
    if config.liger:
        _liger(model, device)
    wrapped = None
    if config.lora is not None:
        wrapped = adapters.adapt(model, config, added_tokens(shards))
        model = wrapped.get_base_model()
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model, wrapped


def _liger(model: Any, device: str) -> None:
    """The norms, rotations and gated layers of liger-kernel (ours is the loss); raises `UsageError` without a GPU."""
    need("liger_kernel", "liger-kernel", "liger")
    if device == "cpu":
        raise UsageError("liger needs a GPU: its kernels are written in Triton", hint="leave liger out on CPU")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    _apply_liger_kernel_to_instance(model, fused_linear_cross_entropy=False, cross_entropy=False)


def compile_layers(model: Any) -> None:
    """torch.compile, layer by layer (they are alike, so one compilation serves all) and for any length."""
    layers = max(
        (module for module in model.modules() if isinstance(module, torch.nn.ModuleList)), key=len, default=None
    )
    for layer in layers or ():
        layer.compile(dynamic=True)


@contextmanager
def kernels(config: TrainConfig) -> Iterator[None]:
    """While entered, torch uses deterministic kernels alone if that is asked for, and says so where there is none."""
    if not config.deterministic:
        yield
        return
    was = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was[0])
        torch.backends.cudnn.benchmark = was[1]
