"""Fetch a set of the registry: from the hub (through its client and the client's cache), or from a local copy.

A set is pinned by the commit its files came from. Without a network a set that the client's cache holds is read from
there; any other is an `Offline` error within a second, which names the local way.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

from curate.evals.model import Fields, SetFacts
from curate.evals.registry import Entry
from curate.foundation.errors import Offline, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from curate.evals.local import Read

OF: Final = re.compile(r"(.*-)\d{5}-of-(\d{5})")
ROOTS: Final = ("", "data", "raw")


def fetch(name: str, entry: Entry, fields: Fields | None = None) -> tuple[pa.Table, SetFacts]:
    """The items of a set at its commit; `fields` reads it by another mapping. Raises `Offline`, `UsageError`."""
    from curate.sources import reachable

    off = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    root = kept(entry)
    if root is not None and (off or entry.revision) and (names := chosen(entry, names_in(root))):
        return _read(name, entry, fields, root, names, root.name)
    if off or not reachable():
        raise _offline(name, entry)
    return _download(name, entry, fields)


def _offline(name: str, entry: Entry) -> Offline:
    return Offline(
        f"{name}: {entry.hub} is not on this machine and the hub cannot be reached",
        hint=f"use a local copy: --against path/, or keep it for later runs: curate evals fetch {name} --from PATH",
    )


def _download(name: str, entry: Entry, fields: Fields | None) -> tuple[pa.Table, SetFacts]:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        info = HfApi().dataset_info(entry.hub, revision=entry.revision)
        names = chosen(entry, [item.rfilename for item in info.siblings or ()])
        if not names:
            raise UsageError(
                f"{name}: {entry.hub} has no file of split {', '.join(entry.splits)}",
                hint=f"download it by hand, then: curate evals fetch {name} --from PATH",
            )
        root = Path(
            snapshot_download(entry.hub, repo_type="dataset", revision=info.sha, allow_patterns=names, tqdm_class=None)
        )
    except GatedRepoError:
        raise UsageError(
            f"{name}: {entry.hub} asks you to accept its terms",
            hint=f"accept them at https://huggingface.co/datasets/{entry.hub} and set HF_TOKEN; or: --against path/",
        ) from None
    except OSError as error:
        raise Offline(f"{name}: {entry.hub}: {type(error).__name__}", hint=_offline(name, entry).hint) from None
    return _read(name, entry, fields, root, names, str(info.sha))


def chosen(entry: Entry, names: Iterable[str]) -> list[str]:
    """The files of the entry's splits among the names of a repository, sorted; none when some are missing."""
    names, out = sorted(names), []
    for split in entry.splits[:1] if entry.files else entry.splits:
        found = ([name for name in names if fnmatchcase(name, glob)] for glob in entry.globs(split))
        part = next((part for part in found if part), [])
        pieces = Counter(match.groups() for name in part if (match := OF.search(name)))
        if len(part) < entry.parts or any(count < int(whole) for (_, whole), count in pieces.items()):
            return []  # a download that was cut short
        out += part
    return sorted(set(out))


def kept(entry: Entry) -> Path | None:
    """The snapshot of the entry's commit in the hub client's cache; of the newest seen where none is pinned."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    base = (
        Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser() / f"datasets--{entry.hub.replace('/', '--')}"
    )
    revision = entry.revision
    if revision is None:
        try:
            revision = (base / "refs" / "main").read_text().strip()
        except OSError:
            return None
    root = base / "snapshots" / revision
    return root if root.is_dir() else None


def names_in(root: Path) -> list[str]:
    """The files below a folder, relative."""
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def _read(
    name: str, entry: Entry, fields: Fields | None, root: Path, names: list[str], commit: str
) -> tuple[pa.Table, SetFacts]:
    from curate.evals import local

    read = local.Read(name)
    for file in names:
        folder = file.rpartition("/")[0]
        prefix = f"{folder}/" if folder not in (*ROOTS, entry.config) else ""
        local.read_file(
            read, root / file, f"{entry.hub}/{file}", fields or entry.fields, prefix, exact=fields is not None
        )
    split = ", ".join(entry.splits)
    origin = {"hub": entry.hub, "revision": commit, "config": entry.config, "split": split}
    return _packed(read, entry, origin)


def from_path(name: str, entry: Entry, path: str) -> tuple[pa.Table, SetFacts]:
    """The items of a local copy of a registry set: a file, or every data file of a folder. Raises `UsageError`."""
    from curate.evals import local

    files, _ = local.find(path)
    read = local.Read(name)
    for file in files:
        local.read_file(read, file, f"{file.parent.name}/{file.name}", entry.fields, exact=False)
    shown = ", ".join(f"{file.parent.name}/{file.name}" for file in files)
    return _packed(read, entry, {"path": shown})


def _packed(read: Read, entry: Entry, origin: dict[str, str | None]) -> tuple[pa.Table, SetFacts]:
    from curate.evals.gather import packed

    return packed(read.items, read.rows, len(read.bad), entry.licence, origin)
