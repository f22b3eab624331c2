"""Checkpoints: a folder that is there whole or not at all.

`checkpoints/step-00000100/` holds `model.safetensors` (parameters and buffers; of an adapter, only what trains),
`state.safetensors` (optimizer moments) and `state.json` (where the run stands, what it was run on, the digests of the
two). It is written under a temporary name, synced and renamed; a run goes on from the newest one whose digests hold. The
newest few are kept, and the one of the lowest held-out loss where that decides. The random generators need no place in
it: each step seeds them from (seed, step, rank), and the learning rate is a function of the step. Nothing is pickled.
Cost: three times the trained weights on disk for each one kept.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from curate.foundation.errors import DataError, MachineError, UsageError
from curate.foundation.store import digest_file, digest_of, sync_folder
from train.optimizing import gathered, like, restore

FOLDER: Final = "checkpoints"
MODEL, STATE, INDEX = "model.safetensors", "state.safetensors", "state.json"
_NAME = re.compile(r"^step-(\d{8})$")


@dataclass(slots=True)
class Progress:
    """How far a run is: optimizer steps, rows, tokens and trained tokens seen; what its evaluations have said."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    evaluated: int = -1  # the last step whose held-out loss was taken
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0  # evaluations in a row without enough of a gain
    stopped: bool = False  # early
    scale: float = 0.0  # of the loss in fp16
    steady: int = 0  # steps since that scale changed


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint belongs to: settings, shards, the number of processes, and what an adapter leaves frozen."""

    config: dict[str, Any]
    shards: str
    world: int
    frozen: str = ""

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What differs from a checkpoint's own account, one line each."""
        lines = []
        if other["shards"] != self.shards:
            lines.append("the shards are others")
        if other["world"] != self.world:
            lines.append(f"num_processes was {other['world']}, is {self.world}")
        if self.frozen and other.get("frozen", self.frozen) != self.frozen:
            lines.append("the model under the adapter is another")
        theirs = other["config"]
        for key in sorted({*theirs, *self.config} - {"num_processes"}):
            if theirs.get(key) != self.config.get(key):
                lines.append(f"{key} was {theirs.get(key)}, is {self.config.get(key)}")
        return lines


def save(
    run: Path,
    weights: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    progress: Progress,
    identity: Identity,
    *,
    epoch: int,
    keep: int,
    metrics: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint and drop all but the newest `keep` and the best; a failed write leaves the older ones alone.

    `metrics` says how many lines of metrics.jsonl belong to it, and their digest; `weights` and `state` are what
    `weights_of` and `optimizing.moments` give. Raises `MachineError` when the disk is full.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _name(progress.step)
    temp = folder / f".{target.name}.tmp-{secrets.token_hex(6)}"
    temp.mkdir()
    try:
        save_file(weights, temp / MODEL)
        save_file(state, temp / STATE)
        index = {
            **asdict(progress),
            "epoch": epoch,
            "seed": identity.config["seed"],
            "shards": identity.shards,
            "world": identity.world,
            "frozen": identity.frozen,
            "config": identity.config,
            "config_digest": digest_of(identity.config),
            "metrics": metrics,
            "files": {name: digest_file(temp / name) for name in (MODEL, STATE)},
        }
        index["digest"] = digest_of(index)
        (temp / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
        for name in (MODEL, STATE, INDEX):
            _sync(temp / name)
        if all(_is(target / name, digest) for name, digest in index["files"].items()):
            (temp / INDEX).replace(target / INDEX)  # of this step, with an evaluation more: never without a checkpoint
            shutil.rmtree(temp)
            sync_folder(target)
        else:
            shutil.rmtree(target, ignore_errors=True)
            temp.rename(target)
        sync_folder(folder)
    except (SafetensorError, OSError) as error:
        shutil.rmtree(temp, ignore_errors=True)
        last = f"the last good one is {found[-1].name}" if (found := saved(run)) else "there is no earlier one"
        raise MachineError(
            f"{target}: the checkpoint could not be written ({str(error)[:200]}); {last}",
            hint="free some space, then run the same command again: it goes on from the last good checkpoint",
        ) from error
    except BaseException:
        shutil.rmtree(temp, ignore_errors=True)
        raise
    prune(run, progress, keep)
    return target


def prune(run: Path, progress: Progress, keep: int) -> None:
    """Drop all but the newest `keep` checkpoints and the best: also what a killed run had yet to drop."""
    for old in saved(run)[:-keep]:
        if progress.best_loss is None or old.name != _name(progress.best_step):
            gone = old.with_name(f".{old.name}.tmp-{secrets.token_hex(6)}")
            old.rename(gone)  # whole or not at all, also on its way out
            shutil.rmtree(gone, ignore_errors=True)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.match(path.name) and (path / INDEX).is_file())


def newest(run: Path, identity: Identity) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose digests hold, and a line for each damaged one that was passed over.

    Raises `UsageError` naming the difference when it belongs to another configuration, shards or world.
    """
    passed = []
    for path in reversed(saved(run)):
        if (index := sound(path)) is None:
            passed.append(f"{path} is damaged; going on from the one before it")
            continue
        if lines := identity.differences(index):
            raise UsageError(
                f"{run} was begun otherwise: {'; '.join(lines)}",
                hint="put the setting back to go on, name another run folder, or start again with --no-resume",
            )
        return path, passed
    return None, passed


def load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint (already checked by `newest`) back into model and optimizer."""
    load_weights(path, model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    restore(optimizer, names, load_file(path / STATE))
    index = json.loads((path / INDEX).read_text())
    return Progress(**{field.name: index[field.name] for field in fields(Progress) if field.name in index})


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Put a checkpoint's weights back into a model."""
    found = load_file(path / MODEL)
    with torch.no_grad():
        for name, tensor in _kept(model).items():
            tensor.copy_(like(found[name], tensor))


def best(run: Path, progress: Progress) -> Path:
    """The checkpoint of the lowest held-out loss; raises `DataError` when it is gone or damaged."""
    path = run / FOLDER / _name(progress.best_step)
    if sound(path) is None:
        raise DataError(f"{path}: the best checkpoint is gone or damaged", hint="start again with --no-resume")
    return path


def sound(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself, when its own digest and those of its files hold; else None."""
    try:
        index: dict[str, Any] = json.loads((path / INDEX).read_bytes())
        claimed = index.pop("digest")
        whole = digest_of(index) == claimed
        whole = whole and all(digest_file(path / name) == digest for name, digest in index["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return index if whole else None


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint holds of a model, by name; shards of FSDP2 gathered (then every rank must ask)."""
    return {name: gathered(tensor.detach()).contiguous() for name, tensor in _kept(model).items()}


def _kept(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and buffers; where some are frozen, only the parameters that train."""
    named = dict(model.named_parameters())
    trained: dict[str, torch.Tensor] = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    return trained if len(trained) < len(named) else {**trained, **dict(model.named_buffers())}


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and digest_file(path) == digest


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
