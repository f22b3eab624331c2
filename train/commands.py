"""What the commands of `train` do, between parsing and printing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.config import Resolved, resolve
from curate.foundation.console import Console
from pack.shards import ShardManifest
from train.config import TrainConfig

if TYPE_CHECKING:
    from train.selfcheck import Report

Settings = Resolved[TrainConfig]


def settings(shards: Path, recipe: str | None, sets: Iterable[str], flags: Mapping[str, Any]) -> Settings:
    """The `train` section, over what the shards inherited."""
    inherited = ShardManifest.read(shards).recipe
    flags = {**flags, "lora": {} if flags.get("lora") else None}  # a recipe's own adapter keeps its settings
    return resolve("train", TrainConfig, recipe=recipe, sets=sets, flags=flags, inherited=inherited)


def show_config(resolved: Settings) -> tuple[dict[str, Any], str]:
    """Every setting with its origin."""
    data = {"config": resolved.config.model_dump(mode="json"), "origins": resolved.origins}
    return data, "\n".join(resolved.lines("train"))


def plan(shards: Path, resolved: Settings) -> tuple[dict[str, Any], str]:
    """What a run would do; nothing is written and no model is loaded."""
    from train.data import Shards
    from train.plan import make_plan

    found = make_plan(resolved.config, Shards(shards, verify=False), chosen="batch" in resolved.origins)
    return found.facts(), "\n".join([f"model: {resolved.config.model}", *found.lines()])


def run(
    shards: Path, out: Path | None, resolved: Settings, console: Console, *, overwrite: bool, cards: Path | None = None
) -> tuple[dict[str, Any], str]:
    """Train; the run's manifest, and a summary of it."""
    from train import launch
    from train.running import train

    config = resolved.config
    folder = out or Path("runs") / Path(config.model).name
    manifest = train(
        config,
        shards,
        folder,
        console,
        batch_chosen="batch" in resolved.origins,
        overwrite=overwrite,
        recipe=resolved.recipe,
        cards=cards,
    )
    if launch.is_second():
        console.as_json = False
        return {}, ""
    return manifest, summary(folder, manifest)


def summary(folder: Path, manifest: Mapping[str, Any]) -> str:
    """What a finished run comes down to, in a few lines."""
    results, smoke = manifest["results"], manifest["smoke"]
    rows = [("loss", results["loss_first"], results["loss_last"])]
    if results["eval_loss_first"] is not None:
        rows.append(("eval loss", results["eval_loss_first"], results["eval_loss_last"]))
    stops = "stops by itself" if smoke["stopped"] else f"did not stop within {smoke['new_tokens']} tokens"
    lines = [f"{name:<10} {first:8.4f} -> {last:.4f}" for name, first, last in rows]
    return "\n".join([*lines, f"{folder / 'final'}: loads with {smoke['with']}; its smoke answer {stops}"])


def check(shards: Path, resolved: Settings) -> tuple[Report, dict[str, Any], str]:
    """Run the self-check for a model on these shards."""
    import torch

    from train.data import Shards
    from train.model import device_of, precision_of
    from train.objective import PackedLoss
    from train.selfcheck import check as measure
    from train.starting import prepared

    config, packed = resolved.config, Shards(shards)
    device = device_of(config)
    precision = precision_of(config, device)
    torch.manual_seed(config.seed)
    model, _ = prepared(config, packed, device, precision)
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.autocast(device, dtype=low, enabled=low is not None):
        report = measure(PackedLoss(model.to(device)), packed, torch.device(device), precision)
    table = [f"{'segment':>8} {'tokens':>7} {'packed':>12} {'alone':>12}"]
    for number, values in enumerate(zip(report.lengths, report.packed, report.alone, strict=True)):
        table.append(f"{number:>8} {values[0]:>7} {values[1]:>12.6f} {values[2]:>12.6f}")
    return report, report.facts(), "\n".join([*table, report.line()])


def require(report: Report) -> None:
    """Raise unless the check passed."""
    from train.selfcheck import require as refuse

    refuse(report)
