"""What would be read: files found, what is not data and why, sources, and the cut of large files into units.

Large plain line files are cut at line ends, Parquet at row groups; everything else is one unit a file. The cut depends
on the bytes and `unit_bytes` alone, never on the number of workers. Cost: one pass over plain line files, to count
lines and to digest; other files are digested once.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import xxhash

from curate.foundation.errors import MachineError, UsageError
from curate.foundation.store import digest_bytes, digest_file
from curate.reading.model import Plan, Unit
from curate.reading.streams import line_ends
from curate.sources import ReadSettings, SourceSettings, hub_files, licence_of

KINDS: Final = ("jsonl", "ndjson", "json", "csv", "tsv", "parquet", "arrow")
PACKED: Final = ("gz", "zst")
DEFAULT: Final = SourceSettings()
JUNK: Final = frozenset({"__MACOSX", "__pycache__", "node_modules"})
META: Final = frozenset({"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json"})
_HUB: Final = "hf://"


@dataclass(frozen=True, slots=True)
class Found:
    """A data file: its name in outputs, where it lies, its source and container ("json.gz")."""

    file: str
    path: Path
    source: str
    container: str
    settings: SourceSettings


def container_of(name: str) -> str | None:
    """The container of a file name ("jsonl", "json.gz"), or None when it is not data."""
    parts = name.lower().split(".")
    if len(parts) > 2 and parts[-1] in PACKED and parts[-2] in KINDS:
        return f"{parts[-2]}.{parts[-1]}"
    return parts[-1] if len(parts) > 1 and parts[-1] in KINDS else None


def stem(name: str) -> str:
    """A file name without its data extensions."""
    container = container_of(name)
    return name[: -len(container) - 1] if container else name


def discover(raw: Path | str, sources: Mapping[str, SourceSettings]) -> tuple[list[Found], Plan]:
    """The data files of a folder, a file or a hub address, in reading order, and a plan with what was skipped.

    Raises `UsageError` when there is nothing to read, `Offline` for a hub set that cannot be had.
    """
    plan = Plan()
    text = str(raw)
    if text.startswith(_HUB):
        name = text.removeprefix(_HUB).partition("@")[0].rpartition("/")[2]
        sources = {**sources, name: sources.get(name, DEFAULT).model_copy(update={"path": text})}
        found: list[Found] = []
        root = Path.cwd()
    else:
        root = _root(Path(text))
        # With nothing but hub sets or other folders named, an empty raw folder is no mistake.
        found = list(_walk(root, sources, plan))
    for name, settings in sources.items():
        if settings.path is not None:
            found = [item for item in found if item.source != name]
            named = _named(name, settings, root, plan)
            taken = {item.path for item in named}
            found = [item for item in found if item.path not in taken] + named
    _check_names(found, sources)
    if not found:
        why = f" ({len(plan.skipped)} files are not data)" if plan.skipped else ""
        raise UsageError(
            f"{text}: nothing to read{why}", hint=f"data files end in {', '.join(KINDS)}, with .gz or .zst"
        )
    base = root if root.is_dir() else root.parent
    for item in found:
        given = item.settings.licence
        if given or plan.licences.get(item.source, "unknown") == "unknown":
            plan.licences[item.source] = given or licence_of(item.path.parent, base)
    plan.skipped.sort()
    return sorted(found, key=lambda item: (item.file, item.source)), plan


def _root(raw: Path) -> Path:
    if not raw.exists():
        near = get_close_matches(raw.name, _names_beside(raw), 1)
        raise UsageError(
            f"{raw}: no such folder or file",
            hint=f"did you mean {raw.parent / near[0]}?" if near else "make a sample with: curate sample raw/",
        )
    if not os.access(raw, os.R_OK | (os.X_OK if raw.is_dir() else 0)):
        raise MachineError(f"{raw}: no permission to read", hint="check the permissions of that path")
    return raw.resolve()


def _names_beside(path: Path) -> list[str]:
    try:
        return [item.name for item in path.parent.iterdir()]
    except OSError:
        return []


def _named(name: str, settings: SourceSettings, root: Path, plan: Plan) -> list[Found]:
    """The files of a source whose recipe entry says where they are."""
    address = settings.path or ""
    if address.startswith(_HUB):
        files = hub_files(name, address, settings.split, settings.config)
        return [
            Found(f"{name}/{settings.split}-{index:05d}.arrow", path, name, "arrow", settings)
            for index, path in enumerate(files)
        ]
    place = Path(address).expanduser()
    if not place.is_absolute() and (root / place).exists():
        place = root / place
    if not place.exists():
        raise UsageError(f"source {name}: {address}: no such folder or file", hint=f"set sources.{name}.path")
    inside = place.resolve()
    own = list(_walk(inside, {}, plan, source=name, settings=settings))
    base = root if root.is_dir() else root.parent
    if base in inside.parents:
        under = inside.relative_to(base).as_posix()
        return [_renamed(item, f"{under}/{item.file}" if inside.is_dir() else under) for item in own]
    return [_renamed(item, f"{name}/{item.file}") for item in own]


def _renamed(item: Found, file: str) -> Found:
    return Found(file, item.path, item.source, item.container, item.settings)


def _check_names(found: list[Found], sources: Mapping[str, SourceSettings]) -> None:
    known = {item.source for item in found}
    for name in sources:
        if name not in known:
            near = get_close_matches(name, sorted(known), 1)
            raise UsageError(
                f"sources.{name}: no data file belongs to it",
                hint=f"did you mean {near[0]}?" if near else f"sources here: {', '.join(sorted(known)[:8]) or 'none'}",
            )
    seen = Counter(item.file for item in found)
    for file, count in seen.items():
        if count > 1:
            raise UsageError(f"{file}: two sources claim it", hint="give each source a path of its own")


def _walk(
    root: Path,
    sources: Mapping[str, SourceSettings],
    plan: Plan,
    *,
    source: str | None = None,
    settings: SourceSettings = DEFAULT,
) -> Iterator[Found]:
    """Data files below a folder (or the file itself); links, hidden and foreign files go to `plan.skipped`."""
    if root.is_file():
        name = source or stem(root.name)
        container = container_of(root.name)
        if container is None:
            plan.skipped.append((root.name, _why(root)))
        else:
            yield Found(root.name, root, name, container, sources.get(name, settings))
        return
    for folder, folders, files in os.walk(root):
        here = Path(folder)
        for name in sorted(folders):
            path = here / name
            if reason := _skip_folder(path):
                folders.remove(name)
                plan.skipped.append((_shown(path.relative_to(root)) + "/", reason))
        folders.sort()
        for name in sorted(files):
            path = here / name
            file = path.relative_to(root).as_posix()
            container = container_of(name)
            reason = _skip_file(path, root, container, files)
            if reason or container is None:
                plan.skipped.append((_shown(path.relative_to(root)), reason))
                continue
            top, slash, _ = file.partition("/")
            own = source or (top if slash else stem(name))
            yield Found(file, path, own, container, sources.get(own, settings))


BAD_NAME: Final = "its name is not UTF-8: rename it"


def _shown(path: Path) -> str:
    """A path as text, bytes that are not UTF-8 escaped."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _not_text(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return BAD_NAME
    return ""


def _skip_folder(path: Path) -> str:
    if reason := _not_text(path.name):
        return reason
    if path.is_symlink():
        return "a link to a folder"
    if path.name.startswith("."):
        return "hidden"
    return "made by a tool" if path.name in JUNK else ""


def _skip_file(path: Path, root: Path, container: str | None, beside: list[str]) -> str:
    if path.name.startswith("."):
        return "hidden"
    if reason := _not_text(path.name):
        return reason
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = path.resolve(strict=True)
            return "a link to another file here" if root in target.parents else "a link that leaves the folder"
    except (OSError, RuntimeError):
        return "a link to nothing"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    if not os.access(path, os.R_OK):
        return "no permission to read"
    if container is None:
        return _why(path)
    saved = any(name.endswith((".arrow", ".parquet")) for name in beside) or path.name == "dataset_dict.json"
    return "describes a saved dataset" if path.name in META and saved else ""


def _why(path: Path) -> str:
    name = path.name.lower()
    if name.startswith(("readme", "license", "licence", "copying", "notice")):
        return "a note, not data"
    if name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".bz2", ".xz", ".rar")):
        return "an archive: unpack it first"
    if name.endswith((".xlsx", ".xls", ".ods")):
        return "a spreadsheet: save it as csv first"
    return f"not a data file ({path.suffix[:20] or 'no extension'})"


def plan(raw: Path | str, read: ReadSettings, sources: Mapping[str, SourceSettings]) -> Plan:
    """The units of `raw` in reading order, what was skipped, and the licences; raises as `discover`."""
    found, out = discover(raw, sources)
    for item, name in zip(found, _unit_names(found), strict=True):
        for index, (start, stop, first_row, digest) in enumerate(_ranges(item, read)):
            out.units.append(
                Unit(
                    name=f"{name}-{index:04d}",
                    file=item.file,
                    path=str(item.path),
                    source=item.source,
                    container=item.container,
                    start=start,
                    stop=stop,
                    first_row=first_row,
                    index=index,
                    digest=digest,
                    settings=item.settings,
                )
            )
    return out


def _unit_names(found: list[Found]) -> list[str]:
    """A file stem for each file: letters, digits and dashes; a digest of the path where that is not its own."""
    slugs = [re.sub(r"[^A-Za-z0-9]+", "-", item.file).strip("-").lower()[:80] for item in found]
    seen = Counter(slugs)
    return [
        slug if seen[slug] == 1 and slug else f"{slug or 'file'}-{digest_bytes(item.file.encode())[:8]}"
        for slug, item in zip(slugs, found, strict=True)
    ]


def _ranges(item: Found, read: ReadSettings) -> Iterator[tuple[int, int, int, str]]:
    """Start, stop, first row and digest of each unit of a file."""
    if item.container in ("jsonl", "ndjson") and item.path.stat().st_size > read.unit_bytes:
        yield from _line_ranges(item.path, read.unit_bytes)
        return
    digest = digest_file(item.path)
    if item.container == "parquet":
        groups = _row_groups(item.path, read.unit_bytes)
        if len(groups) > 1:
            yield from ((start, stop, row, digest) for start, stop, row in groups)
            return
    yield 0, -1, 0, digest


def _line_ranges(path: Path, size: int) -> Iterator[tuple[int, int, int, str]]:
    """Pieces of a line file that end at the first line end at or after each multiple of `size` bytes."""
    with path.open("rb") as file:
        start, row, lines = 0, 0, 0
        state, place = xxhash.xxh3_128(), 0
        while block := file.read(min(1 << 22, size)):
            begin = 0
            while place + len(block) - start >= size:
                end = block.find(b"\n", max(begin, start + size - 1 - place)) + 1
                if not end:
                    break
                state.update(block[begin:end])
                lines += line_ends(block, begin, end)
                yield start, place + end, row, state.hexdigest()
                start, row, lines, begin = place + end, row + lines, 0, end
                state = xxhash.xxh3_128()
            state.update(block[begin:])
            lines += line_ends(block, begin)
            place += len(block)
        if place > start:
            yield start, place, row, state.hexdigest()


def _row_groups(path: Path, size: int) -> list[tuple[int, int, int]]:
    """Runs of row groups of about `size` bytes: first, last + 1, first row; none when the file cannot be opened."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        meta = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return []
    out, start, held, row, first = [], 0, 0, 0, 0
    for group in range(meta.num_row_groups):
        held += meta.row_group(group).total_byte_size
        row += meta.row_group(group).num_rows
        if held >= size or group == meta.num_row_groups - 1:
            out.append((start, group + 1, first))
            start, held, first = group + 1, 0, row
    return out
