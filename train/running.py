"""shards/ -> a run folder, on one page: check, resume, train, save, prove, commit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.cards.render import write_card
from curate.foundation.console import Console
from curate.foundation.errors import UsageError
from curate.foundation.store import MANIFEST, Store
from train import checkpoint, final, launch, metrics, recording, selfcheck, tracking
from train.config import TrainConfig
from train.data import Shards
from train.plan import Plan, make_plan

if TYPE_CHECKING:
    from train.starting import Made

OURS = ("checkpoints", "final", metrics.NAME, MANIFEST, tracking.FOLDER)


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
    tracking.require(config)
    packed = Shards(shards)
    plan = make_plan(config, packed, chosen=batch_chosen)
    store = Store(run, "run")
    _refuse_foreign(run)
    if launch.is_second():  # of torchrun or accelerate launch
        if overwrite or not store.complete():
            fit(config, packed, plan, store, console, recipe=dict(recipe or {}), cards=cards)
        return store.manifest()
    with store.locked(f"train run {shards} {run}"):
        if overwrite:
            _clear(store)
        elif store.complete():
            return _already(store, _identity(config, packed), console, cards)
        elif not config.resume:
            _clear(store)
        store.sweep()
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
    from train import starting
    from train.loop import Trainer
    from train.stopping import Stopping

    with starting.kernels(config):
        made = starting.make(config, shards, plan, store.root)
        accelerator, talk = made.accelerator, console if made.accelerator.is_main_process else Console(quiet=True)
        _introduce(talk, config, plan, made)
        selfcheck.require(made.report)
        identity = replace(_identity(config, shards), frozen=made.frozen)
        resumed, passed = checkpoint.newest(store.root, identity)
        kept = (checkpoint.sound(resumed) or {}).get("metrics") if resumed else None
        for line in passed:
            talk.warn(line)
        progress = made.resume(resumed) if resumed else checkpoint.Progress()
        if resumed:
            talk.say(f"going on from {resumed.name}")
        tracking.begin(accelerator, config)
        also = _tracked(accelerator) if config.track else None
        lines = metrics.Metrics(store, kept=kept, writes=accelerator.is_main_process, also=also)
        trainer = Trainer(
            config=config,
            shards=shards,
            plan=plan,
            run=store.root,
            identity=identity,
            accelerator=accelerator,
            objective=made.objective,
            inner=made.inner,
            optimizer=made.optimizer,
            scheduler=made.scheduler,
            metrics=lines,
            console=talk,
            work=made.work,
            progress=progress,
        )
        with Stopping() as stopping:
            trainer.fit(stopping)
        lines.flush()
        if accelerator.is_main_process:
            checkpoint.prune(store.root, progress, config.keep)
        if config.best and progress.best_loss is not None and progress.best_step != progress.step:
            checkpoint.load_weights(checkpoint.best(store.root, progress), made.inner.model)
            talk.say(f"final/ is the model of step {progress.best_step:,}, whose held-out loss was lowest")
        weights = checkpoint.weights_of(made.inner.model) if config.fsdp else None
        manifest: dict[str, Any] = {}
        if accelerator.is_main_process:
            facts = made.facts() | {"recipe": recipe, "progress": asdict(progress)}
            manifest = _commit(store, config, shards, plan, made, weights, lines, facts, talk, cards)
        accelerator.wait_for_everyone()
        if accelerator.num_processes > 1 or config.track:
            accelerator.end_training()
    return manifest


def _tracked(accelerator: Any) -> Callable[[dict[str, Any]], None]:
    def log(line: dict[str, Any]) -> None:
        accelerator.log(tracking.numbers(line), step=line["step"])

    return log


def _identity(config: TrainConfig, shards: Shards) -> checkpoint.Identity:
    return checkpoint.Identity(config.trajectory(), str(shards.manifest["fingerprint"]), config.num_processes)


def _introduce(console: Console, config: TrainConfig, plan: Plan, made: Made) -> None:
    start = "a random start; " if config.model == "tiny" else ""
    adapter = f", {made.trained:,} of them trained (LoRA)" if config.lora else ""
    console.say(
        f"model {config.model}: {start}{made.parameters:,} parameters{adapter} on {made.device} in {made.precision},"
        f" peak learning rate {config.learning_rate:g}, seed {config.seed}"
    )
    for line in plan.lines():
        console.say(line)
    console.say(made.report.line())


def _commit(
    store: Store,
    config: TrainConfig,
    shards: Shards,
    plan: Plan,
    made: Made,
    weights: dict[str, Any] | None,
    lines: metrics.Metrics,
    facts: dict[str, Any],
    console: Console,
    cards: Path | None,
) -> dict[str, Any]:
    """Save `final/`, prove that it serves, and write manifest and card."""
    step = facts["progress"]["best_step"] if config.best else None
    held = lines.evaluation(step)
    files = final.save_final(store, made.final(config, shards, weights), shards, weights)
    smoke = final.smoke(store.path(final.FOLDER), shards, config.smoke_tokens)
    console.say(
        f"final/ loads with {smoke['with']}; its answer to one prompt "
        f"{'stops by itself' if smoke['stopped'] else f'does not stop within {config.smoke_tokens} tokens'}"
    )
    manifest = store.commit(
        {
            **facts,
            "config": config.trajectory(),
            "world": config.num_processes,
            "model": config.model,
            "shards": {
                key: shards.manifest.get(key)
                for key in ("fingerprint", "ctx", "tokenizer", "sources", "rendering", "decontamination")
            },
            "terminators": list(shards.manifest["terminators"]),
            "plan": plan.facts(),
            "results": {
                "best_step": facts["progress"]["best_step"] if config.judges else None,
                "loss_first": lines.first("loss"),
                "loss_last": lines.last("loss"),
                "eval_loss_first": lines.first("eval_loss"),
                "eval_loss_last": held.get("eval_loss"),
                "eval_loss_by_source": held.get("eval_loss_by_source"),
            },
            "smoke": smoke,
            "environment": _versions(config),
        },
        [*files, metrics.NAME],
    )
    write_card(store.root, manifest, gallery=cards)
    return manifest


def _versions(config: TrainConfig) -> dict[str, str]:
    from importlib.metadata import version

    names = ["torch", "transformers", "accelerate", "numpy", *(("peft",) if config.lora else ())]
    names += ["bitsandbytes"] if config.load_in_4bit or config.optimizer != "adamw" else []
    return {"python": ".".join(map(str, sys.version_info[:3])), **{name: version(name) for name in names}}


def _already(store: Store, identity: checkpoint.Identity, console: Console, cards: Path | None) -> dict[str, Any]:
    """A complete run as it is, and the card that one killed after its manifest still owes."""
    manifest = store.manifest()
    known = {"config": manifest["config"], "shards": manifest["shards"]["fingerprint"], "world": manifest["world"]}
    if lines := identity.differences(known):
        raise UsageError(
            f"{store.root} holds a finished run that differs: {'; '.join(lines)}",
            hint="name another run folder, or replace this one with --overwrite",
        )
    recording.put_back(store)
    recording.sound(store)
    store.sweep()
    write_card(store.root, manifest, gallery=cards)
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
