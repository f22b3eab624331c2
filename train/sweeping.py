"""A grid of shard sets from one recipe: size, quality and diversity as separate dials, at equal trained tokens.

Every set is packed from the same curated folder. A size is the share of `trained` that is distinct: that much is packed, and
its run repeats it until `trained` tokens were seen, so that runs differ in their data alone. Quality is a window of score
quantiles, diversity the number of sources (or of clusters of one source) drawn from; which ones is decided by the seed of
`pack`, and a smaller choice lies inside a larger one. Cost: one curation, and one `pack build` a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from curate.config import merge, validate
from curate.foundation.console import Console
from curate.foundation.errors import UsageError
from curate.foundation.executor import Spread
from curate.foundation.store import replacing
from pack.config import Count, Window
from train.needing import require
from train.resolving import River
from train.river import curated, prepared

Said = tuple[dict[str, Any], str]
Share = Annotated[float, Field(gt=0, le=1)]
Several = Annotated[int, Field(ge=1)]


class ClusterDial(BaseModel):
    """Draw from so many clusters of one source; a cluster is a value of the field `by` of a record's extra."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    by: str
    count: tuple[Several, ...] = Field(min_length=1)


def _whole(value: Any) -> Any:
    return value if value else ({"low": 0.0, "high": 1.0},)


class SweepConfig(BaseModel):
    """The dials; `trained` is how many trained tokens every run sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trained: Count
    size: tuple[Share, ...] = Field(default=(1.0,), min_length=1)
    quality: Annotated[tuple[Window, ...], BeforeValidator(_whole)] = (Window(),)
    sources: tuple[Several, ...] = ()
    clusters: ClusterDial | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> SweepConfig:
        if self.sources and self.clusters:
            raise ValueError("diversity is a number of sources or of clusters, not both")
        return self


@dataclass(frozen=True, slots=True)
class Cell:
    """One shard set: its name, what its `pack` section says, and how often its run goes over it."""

    name: str
    pack: dict[str, Any]
    packed: int
    epochs: float


def cells(river: River) -> list[Cell]:
    """The grid of a recipe, every dial against every other; raises `UsageError` for a recipe without `sweep:`."""
    section = river.recipe.get("sweep")
    if not section:
        raise UsageError(
            f"recipe {river.name} has no sweep: section",
            hint="give one: --set sweep.trained=1M --set 'sweep.size=[0.25, 1.0]'",
        )
    config = validate(SweepConfig, section, "sweep")
    if river.pack.stages:
        raise UsageError(
            f"recipe {river.name} packs stages, and a sweep packs one", hint="choose a recipe without stages"
        )
    counts = config.clusters.count if config.clusters else config.sources or (None,)
    return [_cell(config, *dials) for dials in product(config.size, config.quality, counts)]


def _cell(config: SweepConfig, size: float, window: Window, count: int | None) -> Cell:
    packed = max(1, round(config.trained * size))
    name = [f"size-{size:g}"]
    rule: dict[str, Any] = {}
    if len(config.quality) > 1:
        name.append(f"quality-{window.low:g}-{window.high:g}")
    if window != Window():
        rule["quality"] = window.model_dump()
    mixture = {"*": rule}
    pack: dict[str, Any] = {"total": {"trained": packed}, "mixture": mixture, "epochs": {}}
    if count is not None and config.clusters:
        name.append(f"clusters-{count}")
        mixture[config.clusters.source] = rule | {"clusters": {"by": config.clusters.by, "count": count}}
    elif count is not None:
        name.append(f"sources-{count}")
        pack["source_count"] = count
    return Cell("_".join(name), pack, packed, round(config.trained / packed, 6))


def recipe_of(river: River, cell: Cell) -> dict[str, Any]:
    """The recipe of one cell: the grid's pack settings in place of the recipe's mixture, and its own epochs."""
    base = river.recipe.get("pack") or {}
    # Said, not left out: what is left out would be inherited from the curated folder.
    train = {**(river.recipe.get("train") or {}), "epochs": cell.epochs, "max_steps": None}
    parts = {"name": f"{river.recipe['name']}-{cell.name}", "pack": base | cell.pack, "train": train}
    rest = {key: value for key, value in river.recipe.items() if key not in ("pack", "train", "sweep", "name")}
    return merge(rest, parts)


def plan(river: River, root: Path) -> Said:
    """The grid as it would be packed and trained; nothing is written."""
    grid = cells(river)
    return {"cells": [_facts(root, cell) for cell in grid]}, "\n".join([*_lines(root, grid), "nothing was written"])


def sweep(river: River, root: Path, console: Console) -> Said:
    """Curate once, pack every cell, and print the plan with what was packed; what is complete is skipped."""
    from pack import commands

    grid = cells(river)
    require(river)
    out = curated(prepared(river, root), root, console)
    rows = []
    for cell in grid:
        file, shards = root / "cells" / f"{cell.name}.yaml", root / "shards" / cell.name
        file.parent.mkdir(exist_ok=True)
        with replacing(file) as temp:
            temp.write_text(yaml.safe_dump(recipe_of(river, cell), sort_keys=False, allow_unicode=True), "utf-8")
        console.say(f"pack build -> {shards}")
        found = commands.settings(out, str(file), [], {})
        data, _ = commands.build_shards(out, shards, found, Spread(0, "auto", False, None), console)
        rows.append(_facts(root, cell) | _built(data, cell))
    return {"cells": rows}, "\n".join(_lines(root, grid, rows))


def _built(data: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """What a cell holds, and what its run will see; `repeated` is how often its most drawn source stands in it."""
    stage = data["stages"][0]
    drawn = [float(entry["epochs"]) for entry in stage["sources"].values()]
    return {
        "rows": stage["rows"],
        "tokens": stage["tokens"],
        "trained_packed": stage["trained"],
        "trained_seen": round(stage["trained"] * cell.epochs),
        "sources_drawn": sum(epochs > 0 for epochs in drawn),
        "repeated": max(drawn, default=0.0),
    }


def _facts(root: Path, cell: Cell) -> dict[str, Any]:
    train = f"train run {root / 'shards' / cell.name} {root / 'runs' / cell.name}"
    return {"cell": cell.name, "packed": cell.packed, "epochs": cell.epochs, "pack": cell.pack, "train": train}


def _lines(root: Path, grid: Sequence[Cell], rows: Sequence[dict[str, Any]] = ()) -> list[str]:
    wide = max(len(cell.name) for cell in grid)
    lines = [
        f"{'shard set':<{wide}} {'trained, packed':>16} {'epochs':>8} {'trained, seen':>14}"
        + ("  drawn" if rows else "")
    ]
    for number, cell in enumerate(grid):
        row = rows[number] if rows else {}
        packed = row.get("trained_packed", cell.packed)
        seen = row.get("trained_seen", round(cell.packed * cell.epochs))
        line = f"{cell.name:<{wide}} {packed:>16,} {cell.epochs:>8g} {seen:>14,}"
        if row:
            line += f"  {row['sources_drawn']} sources, up to {row['repeated']:g} times"
        lines.append(line)
    return [*lines, "", *(_facts(root, cell)["train"] for cell in grid)]
