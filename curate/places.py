"""What a command may read and where it may write: mistakes that are found before any work is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from curate.foundation.errors import UsageError
from curate.foundation.store import MANIFEST, Store
from curate.settings import CurateConfig


def is_raw(raw: str) -> None:
    """Refuse what cannot be raw data: no name, a foreign address, a folder that one of our commands wrote."""
    if not raw:
        raise UsageError("RAW is empty", hint="name a folder or file of raw chats, or hf://name@revision")
    if "://" in raw:
        if not raw.startswith("hf://"):
            raise UsageError(f"{raw}: not an address that can be read", hint="copy it here and name the folder")
        return
    if (Path(raw) / MANIFEST).is_file() and (Path(raw) / "card.json").is_file():
        raise UsageError(
            f"{raw} is not raw data: one of our commands wrote it (it holds {MANIFEST} and card.json)",
            hint=f"pack it with: pack build {raw}; run one stage on it with: curate exact {raw} OUT",
        )


def known_sources(named: Iterable[str], known: set[str], where: str) -> None:
    """Refuse a setting that names a source which is not there."""
    for name in named:
        if name not in known:
            raise UsageError(f"{where} names {name!r}, which is no source here", hint=f"sources: {_some(known)}")


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12:,} more" if len(shown) > 12 else "")


def not_inside(raw: str, out: Path) -> None:
    """Refuse an output that lies in its input, or the other way round."""
    if "://" in raw:
        return
    source, target = Path(raw).resolve(), out.resolve()
    if source == target or source in target.parents or (target in source.parents):
        raise UsageError(f"{out} and {raw} lie inside one another", hint="give the output a folder of its own")


def keeps_restored(out: Path, config: CurateConfig) -> None:
    """Refuse to remove again, unasked, what `curate restore` brought back."""
    if not (out / MANIFEST).is_file():
        return
    restored = Store(out, "records").manifest()["restored"]
    if restored and restored != config.model_dump(mode="json")["restore"]:
        raise UsageError(
            f"{out} holds records that `curate restore` brought back; this run would remove them again",
            hint="add --overwrite to give them up, or name the same `restore:` entries in the recipe",
        )
