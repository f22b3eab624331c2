"""Checkpoints: a folder that is there whole or not at all.

`checkpoints/step-00000100/` holds `model.safetensors` (parameters and buffers), `state.safetensors` (optimizer moments) and
`state.json` (where the run stands, what it was run on, the digests of the two). It is written under a temporary name,
synced and renamed; a run goes on from the newest one whose digests hold. The random generators need no place in it:
each step seeds them from (seed, step, rank). Nothing is pickled. Cost: three times the trained weights on disk for
each one kept.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from curate.foundation.errors import MachineError, UsageError
from curate.foundation.store import digest_file, digest_of, sync_folder

FOLDER: Final = "checkpoints"
MODEL, STATE, INDEX = "model.safetensors", "state.safetensors", "state.json"
_NAME = re.compile(r"^step-(\d{8})$")
_TEMP = re.compile(r"^\.step-\d{8}\.tmp-[0-9a-f]{12}$")


@dataclass(slots=True)
class Progress:
    """How far a run is: optimizer steps, rows, tokens and trained tokens seen."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    trained_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a checkpoint belongs to: settings, shards and the number of processes."""

    config: dict[str, Any]
    shards: str
    world: int

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What differs from a checkpoint's own account, one line each."""
        lines = []
        if other["shards"] != self.shards:
            lines.append("the shards are others")
        if other["world"] != self.world:
            lines.append(f"num_processes was {other['world']}, is {self.world}")
        theirs = other["config"]
        for key in sorted({*theirs, *self.config} - {"num_processes"}):
            if theirs.get(key) != self.config.get(key):
                lines.append(f"{key} was {theirs.get(key)}, is {self.config.get(key)}")
        return lines


def save(
    run: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: Identity,
    *,
    epoch: int,
    keep: int,
) -> Path:
    """Write a checkpoint and drop all but the newest `keep`; a failed write leaves the older ones alone.

    Raises `MachineError` when the disk is full.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{progress.step:08d}"
    temp = folder / f".{target.name}.tmp-{secrets.token_hex(6)}"
    temp.mkdir()
    try:
        save_file(_weights(model), temp / MODEL)
        save_file(_moments(model, optimizer), temp / STATE)
        index = {
            **asdict(progress),
            "epoch": epoch,
            "seed": identity.config["seed"],
            "shards": identity.shards,
            "world": identity.world,
            "config": identity.config,
            "config_digest": digest_of(identity.config),
            "files": {name: digest_file(temp / name) for name in (MODEL, STATE)},
        }
        (temp / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
        for name in (MODEL, STATE, INDEX):
            _sync(temp / name)
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
    for old in saved(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    folder = run / FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.match(path.name) and (path / INDEX).is_file())


def sweep(run: Path) -> None:
    """Remove what an interrupted write left behind."""
    folder = run / FOLDER
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _TEMP.match(path.name):
            shutil.rmtree(path, ignore_errors=True)


def newest(run: Path, identity: Identity) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose digests hold, and a line for each damaged one that was passed over.

    Raises `UsageError` naming the difference when it belongs to another configuration, shards or world.
    """
    passed = []
    for path in reversed(saved(run)):
        try:
            index = json.loads((path / INDEX).read_text())
            sound = all(digest_file(path / name) == digest for name, digest in index["files"].items())
        except (OSError, ValueError, KeyError):
            sound = False
        if not sound:
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
    index = json.loads((path / INDEX).read_text())
    weights, state = load_file(path / MODEL), load_file(path / STATE)
    with torch.no_grad():
        for name, tensor in _weights(model).items():
            tensor.copy_(weights[name])
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in state.items():
        kind, _, name = key.partition("/")
        moments.setdefault(names.index(name), {})[kind] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**{key: index[key] for key in ("step", "samples", "tokens", "trained_tokens")})


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and buffers by name."""
    return {
        **{name: tensor.data.contiguous() for name, tensor in model.named_parameters()},
        **{name: tensor.contiguous() for name, tensor in model.named_buffers()},
    }


def _moments(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    out = {}
    for name, parameter in model.named_parameters():
        for kind, value in optimizer.state.get(parameter, {}).items():
            out[f"{kind}/{name}"] = value.contiguous()
    return out


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
