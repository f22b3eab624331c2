"""shards/ -> a run folder, on one page: check, resume, train, save, prove, commit."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curate.cards.render import write_card
from curate.foundation.console import Console
from curate.foundation.errors import MachineError, UsageError
from curate.foundation.store import MANIFEST, Store
from train import checkpoint, final, launch, metrics, selfcheck
from train.config import TrainConfig
from train.data import Shards
from train.plan import Plan, make_plan

OURS = ("checkpoints", "final", metrics.NAME, MANIFEST)


def train(
    config: TrainConfig,
    shards: Path,
    run: Path,
    console: Console,
    *,
    batch_chosen: bool = False,
    overwrite: bool = False,
    recipe: Mapping[str, Any] | None = None,
    cards: Path | None = None,
) -> dict[str, Any]:
    """Train on `shards` into `run` and return the run's manifest; a complete run is returned as it is.

    Raises every `GristmillError` that train knows; the lock of `run` is held meanwhile.
    """
    if shards.resolve() in run.resolve().parents:
        raise UsageError(f"{run} lies inside the shards it would train on", hint="train run SHARDS runs/name")
    packed = Shards(shards)
    plan = make_plan(config, packed, chosen=batch_chosen)
    store = Store(run, "run")
    _refuse_foreign(run)
    with store.locked(f"train run {shards} {run}"):
        if overwrite:
            _clear(store)
        elif store.complete():
            return _already(store, _identity(config, packed), console)
        elif not config.resume:
            _clear(store)
        checkpoint.sweep(run)
        job = {
            "config": config.model_dump(mode="json"),
            "shards": str(shards.resolve()),
            "run": str(run.resolve()),
            "batch_chosen": batch_chosen,
            "recipe": dict(recipe or {}),
            "cards": str(cards.resolve()) if cards else None,
            "quiet": console.quiet,
        }
        if config.num_processes > 1 and not launch.is_worker():
            launch.start(job, config.num_processes)
            return store.manifest()
        return fit(config, packed, plan, store, console, recipe=dict(recipe or {}), cards=cards)


def fit(
    config: TrainConfig,
    shards: Shards,
    plan: Plan,
    store: Store,
    console: Console,
    *,
    recipe: dict[str, Any],
    cards: Path | None,
) -> dict[str, Any]:
    """Train in this process, one of `config.num_processes`; rank 0 writes."""
    import torch
    from accelerate import Accelerator
    from transformers.utils import logging

    from train.loop import Trainer
    from train.model import device_of
    from train.objective import PackedLoss
    from train.stopping import Stopping

    device = device_of(config)
    precision = config.precision if config.precision != "auto" else ("bf16" if device == "cuda" else "fp32")
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
    if accelerator.num_processes != config.num_processes:
        raise MachineError(
            f"{config.num_processes} processes were asked for, {accelerator.num_processes} started",
            hint="start them with: train run --num-processes N",
        )
    talk = console if accelerator.is_main_process else Console(quiet=True)
    logging.disable_progress_bar()
    torch.manual_seed(config.seed)
    model = _prepared(config, shards, device)
    inner = PackedLoss(model.to(accelerator.device)).train()
    with accelerator.autocast():
        report = selfcheck.check(inner, shards, accelerator.device, precision)
    _introduce(talk, config, model, plan, report, device)
    selfcheck.require(report)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    identity = _identity(config, shards)
    resumed, passed = checkpoint.newest(store.root, identity)
    for line in passed:
        talk.warn(line)
    progress = checkpoint.load(resumed, model, optimizer) if resumed else checkpoint.Progress()
    if resumed:
        talk.say(f"going on from {resumed.name}")
    objective, prepared = accelerator.prepare(inner, optimizer)
    lines = metrics.Metrics(store, upto=progress.step, writes=accelerator.is_main_process)
    trainer = Trainer(
        config, shards, plan, store.root, identity, accelerator, objective, inner, prepared, lines, talk, progress
    )
    with Stopping() as stopping:
        trainer.fit(stopping)
    lines.flush()
    manifest: dict[str, Any] = {}
    if accelerator.is_main_process:
        facts = {"selfcheck": report.facts(), "device": device, "precision": precision, "recipe": recipe}
        facts |= {"parameters": model.num_parameters(), "progress": asdict(progress)}
        manifest = _commit(store, config, shards, plan, model, lines, facts, talk, cards)
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        accelerator.end_training()
    return manifest


def _prepared(config: TrainConfig, shards: Shards, device: str) -> Any:
    """The model with the attention of this device, and activation checkpointing where it is asked for."""
    from train.attention import choose, register
    from train.model import build_model

    model = build_model(config, shards)
    register()
    model.set_attn_implementation(choose(model.config, device))
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return model


def _identity(config: TrainConfig, shards: Shards) -> checkpoint.Identity:
    return checkpoint.Identity(config.trajectory(), str(shards.manifest["fingerprint"]), config.num_processes)


def _introduce(
    console: Console, config: TrainConfig, model: Any, plan: Plan, report: selfcheck.Report, device: str
) -> None:
    start = "a random start; " if config.model == "tiny" else ""
    console.say(
        f"model {config.model}: {start}{model.num_parameters():,} parameters on {device},"
        f" peak learning rate {config.learning_rate:g}, seed {config.seed}"
    )
    for line in plan.lines():
        console.say(line)
    console.say(report.line())


def _commit(
    store: Store,
    config: TrainConfig,
    shards: Shards,
    plan: Plan,
    model: Any,
    lines: metrics.Metrics,
    facts: dict[str, Any],
    console: Console,
    cards: Path | None,
) -> dict[str, Any]:
    """Save `final/`, prove that it serves, and write manifest and card."""
    files = final.save_final(store, model, shards)
    smoke = final.smoke(store.path(final.FOLDER), shards, config.smoke_tokens)
    console.say(
        f"final/ loads with plain transformers; its answer to one prompt "
        f"{'stops by itself' if smoke['stopped'] else f'does not stop within {config.smoke_tokens} tokens'}"
    )
    manifest = store.commit(
        {
            **facts,
            "config": config.trajectory(),
            "world": config.num_processes,
            "model": config.model,
            "shards": {
                key: shards.manifest.get(key) for key in ("fingerprint", "ctx", "tokenizer", "sources", "rendering")
            },
            "terminators": list(shards.manifest["terminators"]),
            "plan": plan.facts(),
            "results": {
                "loss_first": lines.first("loss"),
                "loss_last": lines.last("loss"),
                "eval_loss_first": lines.first("eval_loss"),
                "eval_loss_last": lines.last("eval_loss"),
                "eval_loss_by_source": lines.last("eval_loss_by_source"),
            },
            "smoke": smoke,
            "environment": _versions(),
        },
        [*files, metrics.NAME],
    )
    write_card(store.root, manifest, gallery=cards)
    return manifest


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "accelerate", "numpy")
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: version(name) for name in names}}


def _already(store: Store, identity: checkpoint.Identity, console: Console) -> dict[str, Any]:
    manifest = store.manifest()
    known = {"config": manifest["config"], "shards": manifest["shards"]["fingerprint"], "world": manifest["world"]}
    if lines := identity.differences(known):
        raise UsageError(
            f"{store.root} holds a finished run that differs: {'; '.join(lines)}",
            hint="name another run folder, or replace this one with --overwrite",
        )
    console.say(f"{store.root} is complete already (--overwrite trains again)")
    return manifest


def _refuse_foreign(run: Path) -> None:
    """Refuse a folder that holds something else, so that --overwrite never deletes what is not ours."""
    if run.is_file():
        raise UsageError(f"{run}: is a file, a run needs a folder", hint="name another one")
    if not run.is_dir():
        return
    visible = [path.name for path in run.iterdir() if not path.name.startswith(".")]
    if (run / MANIFEST).is_file():
        Store(run, "run").manifest()
    elif visible and not any(name in OURS for name in visible):
        raise UsageError(f"{run}: is not empty and holds no run", hint="name another folder for the run")


def _clear(store: Store) -> None:
    store.remove(MANIFEST)
    store.sweep(keep=("card.yaml",))  # the human part of the card is never ours to delete
