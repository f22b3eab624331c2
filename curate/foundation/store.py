"""Contract 3: the one door to disk.

Every file is written to a temporary name beside its target, fsynced, renamed, and its folder fsynced. A folder's
`manifest.json` is written last: its presence means complete. It lists every file with size and digest, and carries a
digest of itself. Units of work leave a marker that ties config, input and output digests together, so a rerun redoes
exactly the units whose input or config changed. A lock names its holder; a dead holder's lock is taken over. Nothing
is appended in place and nothing is pickled.

Cost: one fsync a file and one a folder; digests are xxh3_128 and run at memory speed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import xxhash

from curate.foundation.addresses import on_this_machine
from curate.foundation.errors import DataError, LockHeld, UsageError

MANIFEST = "manifest.json"
UNITS = ".units"
LOCK = ".lock"
ABOUT = "remote.json"
EVENTS = ".events.jsonl"  # written by events.py
TEMP = re.compile(r"^\.[^/]*\.tmp-[0-9a-f]{12}$")
BLOCK = 1 << 22


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, UTF-8 text kept, NaN refused."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest_bytes(data: bytes | memoryview) -> str:
    """The digest of some bytes, 32 hex characters of xxh3_128."""
    return xxhash.xxh3_128_hexdigest(data)


def digest_of(value: Any) -> str:
    """The digest of a JSON value, by its canonical form."""
    return digest_bytes(canonical(value).encode("utf-8", "surrogatepass"))


def digest_file(path: Path, start: int = 0, stop: int | None = None) -> str:
    """The digest of a file, or of its bytes [start, stop)."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        file.seek(start)
        left = (path.stat().st_size if stop is None else stop) - start
        while left > 0 and (block := file.read(min(BLOCK, left))):
            state.update(block)
            left -= len(block)
    return state.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # pragma: no cover - platforms without directory handles
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(target: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on a clean exit it replaces the target, else it is removed.

    `durable=False` skips the fsyncs: only for intermediate files whose digest is checked before they are used.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = target.parent / f".{target.name[:80]}.tmp-{secrets.token_hex(6)}"
    try:
        yield temp
        if durable:
            handle = os.open(temp, os.O_RDWR)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        temp.replace(target)
        if durable:
            sync_folder(target.parent)
    except BaseException as error:
        temp.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(target)) from error  # a failed write does not say where
        raise


def exchange(root: Path, fresh: Path) -> None:
    """Put the complete folder `fresh` in the place of `root`; `recover` finishes it after a kill in between."""
    old = root.with_name(f".{root.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    root.rename(old)
    fresh.rename(root)
    sync_folder(root.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(root: Path) -> None:
    """Finish, or undo, an `exchange` that was killed half-way."""
    old = root.with_name(f".{root.name}.old")
    if root.exists() or not old.is_dir():
        return
    fresh = root.with_name(f".{root.name}.next")
    (fresh if (fresh / MANIFEST).is_file() else old).rename(root)


class Store:
    """A folder whose completeness is provable.

    `kind` is what the folder holds ("records", "shards", "run"); opening a folder of another kind is a `UsageError`,
    and so is an address (s3://...).
    """

    def __init__(self, root: Path, kind: str) -> None:
        on_this_machine(root)
        self.root = root
        self.kind = kind

    def path(self, name: str) -> Path:
        """The path of a file of this store; names are relative, POSIX, and stay inside the folder."""
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise DataError(f"{self.root}: the name {name!r} leaves the folder", hint="the manifest was tampered with")
        return self.root.joinpath(*pure.parts)

    # -- writing -------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self, name: str, *, durable: bool = True) -> Iterator[Path]:
        """Yield a temporary path that becomes `name` on a clean exit."""
        with replacing(self.path(name), durable=durable) as temp:
            yield temp

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a whole file atomically."""
        with self.writing(name) as temp:
            temp.write_bytes(data)

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON value atomically, indented and with sorted keys."""
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False)
        self.write_bytes(name, (text + "\n").encode("utf-8", "surrogatepass"))

    def remove(self, name: str) -> None:
        """Remove a file if it is there; a manifest also from the object store that this folder mirrors."""
        self.path(name).unlink(missing_ok=True)
        if name == MANIFEST and (mirror := self._mirror()):
            mirror.drop(name)

    def _mirror(self) -> Any:
        """The object store that this folder is the local copy of, or None (see remote.py)."""
        if not (self.root.parent / ABOUT).is_file():
            return None
        from curate.foundation.remote import Mirror

        return Mirror.beside(self.root)

    def names(self, *, hidden: bool = False) -> list[str]:
        """Every file below the folder, relative, sorted; hidden ones (markers, locks) only when asked."""
        found = []
        for folder, folders, files in os.walk(self.root):
            if not hidden:
                folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                if hidden or not name.startswith("."):
                    found.append((Path(folder) / name).relative_to(self.root).as_posix())
        return sorted(found)

    def sweep(self, keep: Iterable[str] | None = None) -> None:
        """Remove leftover temporary files and folders and, when `keep` is given, every visible file that is not in it."""
        kept = None if keep is None else set(keep)
        for name in self.names(hidden=True):
            visible = not any(part.startswith(".") for part in PurePosixPath(name).parts)
            if any(map(TEMP.match, PurePosixPath(name).parts)) or (kept is not None and visible and name not in kept):
                self.remove(name)
        for folder, _, _ in os.walk(self.root, topdown=False):
            if folder != str(self.root):
                with suppress(OSError):  # not empty, or another process was faster
                    Path(folder).rmdir()

    # -- units ---------------------------------------------------------------------------------------------------

    def mark(self, unit: str, key: str, outputs: Iterable[str], summary: dict[str, Any]) -> None:
        """Record that `unit` was done under `key` (a digest of config and input) and wrote `outputs`.

        A unit done again to the same bytes, for an intermediate that was lost, leaves its marker and what was uploaded.
        """
        files = {name: self.entry(name) for name in sorted(outputs)}
        marker = json.loads(canonical({"key": key, "outputs": files, "summary": summary}))
        if self._marker(unit) == marker:
            return
        name = f"{UNITS}/{unit}.json"
        self.write_json(name, {**marker, "digest": digest_of(marker)})
        if mirror := self._mirror():
            for each in (*files, name):
                mirror.put(each)

    def _marker(self, unit: str) -> dict[str, Any] | None:
        """What a unit's marker says; None when there is none, or it was altered."""
        try:
            marker: dict[str, Any] = json.loads(self.path(f"{UNITS}/{unit}.json").read_bytes())
            return marker if marker.pop("digest") == digest_of(marker) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def done(self, unit: str, key: str) -> dict[str, Any] | None:
        """The summary of a finished unit, or None when it must be (re)done: other key, missing or altered output."""
        return self.intact(unit, key)

    def intact(self, unit: str, key: str | None = None) -> dict[str, Any] | None:
        """The summary of a unit whose outputs are all there unaltered, under `key` or (None) under any; else None."""
        marker = self._marker(unit)
        if marker is None or (key is not None and marker["key"] != key):
            return None
        try:
            whole = all(self.entry(name) == entry for name, entry in marker["outputs"].items())
        except OSError:
            return None
        summary: dict[str, Any] = marker["summary"]
        return summary if whole else None

    def outputs(self, unit: str) -> list[str]:
        """The files that a unit's marker names."""
        return sorted(json.loads(self.path(f"{UNITS}/{unit}.json").read_bytes())["outputs"])

    def entry(self, name: str) -> dict[str, Any]:
        """Size in bytes and digest of one file."""
        path = self.path(name)
        return {"bytes": path.stat().st_size, "digest": digest_file(path)}

    # -- manifest ------------------------------------------------------------------------------------------------

    def commit(self, facts: dict[str, Any], files: Iterable[str]) -> dict[str, Any]:
        """Write the manifest, last: `facts`, the digest of each of `files`, and the manifest's own digest."""
        manifest = {
            **facts,
            "format": 1,
            "kind": self.kind,
            "files": {name: self.entry(name) for name in sorted(files)},
        }
        manifest["digest"] = digest_of(manifest)
        self.write_json(MANIFEST, manifest)
        return self.manifest()  # as any later reader gets it, key order included

    def complete(self) -> bool:
        """Whether the folder has a manifest."""
        return self.path(MANIFEST).is_file()

    def manifest(self) -> dict[str, Any]:
        """Read the manifest and check its own digest; raise when it is absent, altered or of another kind."""
        path = self.path(MANIFEST)
        hint = {"records": "curate filter RAW " + str(self.root), "shards": "pack build OUT " + str(self.root)}
        if not path.is_file():
            state = "is not complete" if (self.root / UNITS).is_dir() else "holds no manifest"
            raise UsageError(f"{self.root} {state}", hint=f"make it with: {hint.get(self.kind, 'train run SHARDS')}")
        try:
            manifest: dict[str, Any] = json.loads(path.read_bytes())
            claimed = manifest.pop("digest")
            altered = digest_of(manifest) != claimed
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not a manifest ({error})", hint="rebuild the folder") from error
        if altered:
            raise DataError(f"{path}: the manifest was altered", hint="rebuild the folder, or restore it from a copy")
        if not _names_files(manifest):
            raise DataError(f"{path}: not a manifest (it names no files)", hint="rebuild the folder")
        if manifest.get("kind") != self.kind:
            found = manifest.get("kind")
            raise UsageError(f"{self.root} holds {found}, not {self.kind}", hint="name another folder")
        manifest["digest"] = claimed
        return manifest

    def verify(self) -> list[str]:
        """Compare every file with the manifest; one line for each that is missing, altered or unknown."""
        manifest = self.manifest()
        problems = []
        for name, entry in manifest["files"].items():
            path = self.path(name)
            if not path.is_file():
                problems.append(f"{name}: missing")
            elif path.stat().st_size != entry["bytes"]:
                problems.append(f"{name}: {path.stat().st_size:,} bytes, the manifest says {entry['bytes']:,}")
            elif (found := digest_file(path)) != entry["digest"]:
                problems.append(f"{name}: digest {found}, the manifest says {entry['digest']}")
        return problems

    # -- lock ----------------------------------------------------------------------------------------------------

    @contextmanager
    def locked(self, command: str) -> Iterator[None]:
        """Hold the folder's lock; the second holder gets `LockHeld` with the first one's name."""
        fresh = not self.root.exists()
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.path(LOCK)
        me = {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "boot": started(os.getpid())}
        while True:
            temp = path.with_name(f".lock.tmp-{secrets.token_hex(6)}")
            temp.write_text(json.dumps(me))
            try:
                os.link(temp, path)  # atomic create with its content already there
                break
            except FileExistsError:
                holder = self._holder(path)
                if holder is not None:
                    raise LockHeld(
                        f"{self.root} is in use by {holder['command']!r}, process {holder['pid']} on {holder['host']}",
                        hint="wait for it to end, or stop it",
                    ) from None
                # A dead holder: rename is atomic, so only one of several waiters takes the lock away.
                stale = path.with_name(f".lock.tmp-{secrets.token_hex(6)}")
                try:
                    path.rename(stale)
                    stale.unlink()
                except FileNotFoundError:
                    pass
            finally:
                temp.unlink(missing_ok=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if fresh and {entry.name for entry in self.root.iterdir()} <= {EVENTS}:
                shutil.rmtree(self.root)  # a mistake found under the lock leaves nothing behind

    def holder(self) -> dict[str, Any] | None:
        """Who holds the lock now; None when nobody alive does."""
        return self._holder(self.path(LOCK))

    @staticmethod
    def _holder(path: Path) -> dict[str, Any] | None:
        try:
            holder: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        try:
            if holder["host"] != socket.gethostname():
                return holder
            return holder if started(holder["pid"]) == holder["boot"] and holder["boot"] else None
        except (KeyError, TypeError):  # not a lock of ours
            return None


def _names_files(manifest: dict[str, Any]) -> bool:
    """Whether `files` is what `commit` writes: sizes and digests by name."""
    files = manifest.get("files")
    if not isinstance(files, dict):
        return False
    sized = (isinstance(entry, dict) and {"bytes", "digest"} <= entry.keys() for entry in files.values())
    return all(sized) and all(type(entry["bytes"]) is int for entry in files.values())


def started(pid: int) -> str:
    """When a process started, in the kernel's own ticks; "" when it is not alive (guards against reused pids)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "alive"
