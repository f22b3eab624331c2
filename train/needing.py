"""What a recipe needs from the hub, whether it is here, and the list of shipped recipes with it.

Cost: a look into the caches, and under a second for a hub that does not answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curate.config import load_recipe, recipe_names
from curate.foundation.errors import Offline
from train.resolving import River

Said = tuple[dict[str, Any], str]


def catalogue() -> Said:
    """The shipped recipes: name, one line, model, what each needs."""
    rows = []
    for name in recipe_names():
        _, recipe = load_recipe(name)
        river = River(name, recipe)
        model = str((recipe.get("train") or {}).get("model", "tiny"))
        rows.append({"name": name, "about": recipe.get("about", ""), "model": model, "needs": _listed(river)})
    lines = []
    for row in rows:
        lines += [
            row["name"],
            f"    {row['about']}",
            f"    model {row['model']}; needs {', '.join(row['needs']) or 'nothing'}",
        ]
    return {"recipes": rows}, "\n".join(lines)


def _listed(river: River) -> list[str]:
    train = river.recipe.get("train") or {}
    extras = [
        name for name, wanted in (("the extra lora", train.get("lora")), ("the extra gpu", _eight(train))) if wanted
    ]
    return [*dict.fromkeys(address for _, address in needs(river)), *extras]


def _eight(train: Mapping[str, Any]) -> bool:
    return bool(train.get("load_in_4bit")) or train.get("optimizer", "adamw") != "adamw"


def needs(river: River) -> list[tuple[str, str]]:
    """What comes from the hub, as (recipe key that names a local copy, address)."""
    found = []
    for name, source in (river.recipe.get("sources") or {}).items():
        if str((source or {}).get("path") or "").startswith("hf://"):
            found.append((f"sources.{name}.path", str(source["path"])))
    for section, key in (("pack", "tokenizer"), ("train", "model")):
        name = (river.recipe.get(section) or {}).get(key)
        if name and name not in ("tiny", "embedded") and not Path(str(name)).expanduser().exists():
            found.append((f"{section}.{key}", str(name)))
    tasks = (river.recipe.get("eval") or {}).get("tasks") or {}
    local = (river.recipe.get("eval") or {}).get("data") or {}
    curate = river.recipe.get("curate") or {}
    cleaned = (curate.get("decontaminate") or {}).get("against") or () if "decontaminate" in river.stages else ()
    for name in dict.fromkeys([*(str(task.get("task")) for task in tasks.values()), *cleaned]):
        if name not in local and not Path(name).expanduser().exists():
            found.append((f"eval.data.{name}", f"eval set {name}"))
    return found


def require(river: River) -> None:
    """Raise `Offline` when something is not on this machine and the hub does not answer; within a second."""
    from curate.sources import reachable

    lost = [(key, address) for key, address in needs(river) if not _here(key, address)]
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    if lost and (offline or not reachable()):
        names = ", ".join(address for _, address in lost)
        flags = " ".join(f"--set {key}=PATH" for key, _ in lost)
        raise Offline(
            f"not on this machine, and the hub cannot be reached: {names}", hint=f"name local copies: {flags}"
        )


def _here(key: str, address: str) -> bool:
    """Whether the hub's caches hold it."""
    if key.startswith("sources."):
        from curate.sources import cached

        return cached(address.removeprefix("hf://").partition("@")[0])
    if key.startswith("eval."):
        from curate.evals import cached as indexed
        from curate.evals import hub, registry

        name = key.removeprefix("eval.data.")
        return name in indexed() or hub.kept(registry.entry(name)) is not None
    from huggingface_hub import try_to_load_from_cache

    file = "tokenizer.json" if key == "pack.tokenizer" else "config.json"
    return isinstance(try_to_load_from_cache(address, file), str)
