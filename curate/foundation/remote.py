"""Object storage by staging: `s3://bucket/prefix` wherever a command reads or writes a folder.

What is read is copied to a local folder, object by object, and kept there for the next run (objects are compared by
size and ETag). What is written is written locally; each finished unit is uploaded whole, one put a file, and its marker
after it; the manifest comes last and goes first, so a reader never sees a half-written folder as complete. A run that
was killed goes on from the uploaded units, also on another machine. Two writers exclude each other by a conditional
create of the object `.lock` (If-None-Match).

Cost: one copy of the input and of the output on the local disk, under GRISTMILL_CACHE (default: the user's cache folder).
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from curate.foundation.addresses import STORE, scheme_of
from curate.foundation.errors import DataError, LockHeld, MachineError, MissingExtra, UsageError
from curate.foundation.store import ABOUT, LOCK, MANIFEST, TEMP, replacing, started

SCHEME: Final = f"{STORE}://"
UPLOADED_HIDDEN: Final = ".units/"  # markers travel too: a run can be resumed elsewhere


def is_remote(place: str | Path) -> bool:
    """Whether a place is an object store's URL (also after `Path` folded its slashes)."""
    return scheme_of(place) == STORE


def url_of(place: str | Path) -> str:
    """The URL with both slashes and no trailing one; raises UsageError without a bucket and a prefix."""
    rest = str(place).partition(":")[2].strip("/")
    if "/" not in rest:
        raise UsageError(f"{place}: names no folder in a bucket", hint="use s3://BUCKET/FOLDER")
    return SCHEME + rest


def cache_root() -> Path:
    """Where local copies are kept."""
    base = os.environ.get("GRISTMILL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "gristmill" / "remote" if base else Path.home() / ".cache" / "gristmill" / "remote"


@dataclass(slots=True)
class Mirror:
    """A folder of an object store and its local copy; `known` is what both agree on: name -> [size, ETag]."""

    url: str
    local: Path
    files: Any
    known: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, place: str | Path) -> Mirror:
        """The mirror of a URL; raises MissingExtra without s3fs."""
        url = url_of(place)
        folder = cache_root() / hashlib.sha256(url.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        mirror = cls(url, folder / url.rsplit("/", 1)[1], _filesystem())
        about = folder / ABOUT
        if about.is_file():
            mirror.known = json.loads(about.read_text())["known"]
        mirror.note()
        return mirror

    @classmethod
    def beside(cls, local: Path) -> Mirror | None:
        """The mirror that a local folder is the copy of; None for a folder of its own."""
        try:
            about = json.loads((local.parent / ABOUT).read_text())
            if about["local"] != str(local.resolve()):
                return None
            return cls(about["url"], local, _filesystem(), about["known"])
        except (OSError, ValueError, KeyError):
            return None

    def note(self) -> None:
        """Write down what is known of both sides."""
        about = {"url": self.url, "local": str(self.local.resolve()), "known": self.known}
        with replacing(self.local.parent / ABOUT) as temp:
            temp.write_text(json.dumps(about))

    def remote(self) -> dict[str, list[Any]]:
        """Every object below the URL by relative name: [size, ETag]; a name that leaves the folder is a DataError."""
        try:
            with _said(self.url):
                self.files.invalidate_cache()
                found = self.files.find(self.url, detail=True)
        except FileNotFoundError as error:
            raise UsageError(f"{self.url}: no such bucket", hint="make the bucket first, or check its name") from error
        root = self.url.removeprefix(SCHEME) + "/"
        out: dict[str, list[Any]] = {}
        for key, entry in found.items():
            name = key.removeprefix(root)
            if key.endswith("/") or not key.startswith(root):
                continue
            if any(part in ("..", ".", "") for part in name.split("/")):
                raise DataError(f"{self.url}: the object {name!r} has no place in a folder", hint="rename the object")
            out[name] = [int(entry["size"]), str(entry.get("ETag", "")).strip('"')]
        return out

    def pull(self) -> int:
        """Bring the local copy up to the remote one; returns how many objects came."""
        there = self.remote()
        there.pop(LOCK, None)
        came = 0
        for name, entry in sorted(there.items()):
            path = self.local / name
            if self.known.get(name) == entry and path.is_file() and path.stat().st_size == entry[0]:
                continue
            self._get(name, path, entry)
            self.known[name] = entry
            came += 1
        for name in sorted(set(self.known) - set(there)):
            (self.local / name).unlink(missing_ok=True)
            del self.known[name]
        self.note()
        return came

    def _get(self, name: str, path: Path, entry: list[Any]) -> None:
        with replacing(path, durable=False) as temp, _said(f"{self.url}/{name}"):
            self.files.get_file(f"{self.url}/{name}", str(temp))
            size, etag = entry
            whole = temp.stat().st_size == size
            if whole and len(etag) == 32 and "-" not in etag:  # one put: the ETag is the MD5 of the bytes
                whole = hashlib.md5(temp.read_bytes(), usedforsecurity=False).hexdigest() == etag
            if not whole:
                raise MachineError(f"{self.url}/{name}: the transfer was cut short", hint="run the command again")

    def put(self, name: str) -> None:
        """Upload one file whole."""
        with _said(f"{self.url}/{name}"):
            self.files.put_file(str(self.local / name), f"{self.url}/{name}")

    def drop(self, name: str) -> None:
        """Delete one object, if it is there."""
        with _said(f"{self.url}/{name}"):
            try:
                self.files.rm_file(f"{self.url}/{name}")
            except FileNotFoundError:
                pass

    def push(self) -> int:
        """Bring the remote copy up to the local one, the manifest last; returns how many files went."""
        there = self.remote()
        here = sorted(self._uploadable(), key=lambda name: (name == MANIFEST, name))
        stale = [name for name in there if name not in here and name != LOCK]
        changed = [name for name in here if name == MANIFEST or self._differs(name, there.get(name))]
        if MANIFEST in there and (stale or len(changed) > 1):
            self.drop(MANIFEST)
        for name in sorted(stale):
            self.drop(name)
        for name in changed:
            self.put(name)
        after = self.remote()
        for name in here:
            if name not in after or after[name][0] != (self.local / name).stat().st_size:
                raise MachineError(f"{self.url}/{name}: did not arrive whole", hint="run the command again")
        self.known = {name: after[name] for name in here}
        self.note()
        return len(changed)

    def _uploadable(self) -> list[str]:
        found = []
        for path in self.local.rglob("*"):
            name = path.relative_to(self.local).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            if path.is_file() and not TEMP.match(path.name) and (not hidden or name.startswith(UPLOADED_HIDDEN)):
                found.append(name)
        return found

    def _differs(self, name: str, entry: list[Any] | None) -> bool:
        path = self.local / name
        if entry is None or entry[0] != path.stat().st_size:
            return True
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        return entry[1] != md5 and self.known.get(name) != entry

    @contextmanager
    def locked(self, command: str) -> Iterator[None]:
        """Hold the remote lock; raises LockHeld naming the holder. A dead process of this host is no holder."""
        me = {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "boot": started(os.getpid())}
        target = f"{self.url}/{LOCK}"
        while True:
            try:
                with _said(target):
                    self.files.pipe_file(target, json.dumps(me).encode(), mode="create")
                break
            except FileExistsError:
                holder = self._holder(target)
                if holder is None:
                    continue  # let go in between
                if holder["host"] == me["host"] and started(holder["pid"]) != holder["boot"]:
                    self.drop(LOCK)
                    continue
                raise LockHeld(
                    f"{self.url} is in use by {holder['command']!r}, process {holder['pid']} on {holder['host']}",
                    hint=f"wait for it to end; if that machine is gone, delete the object {target}",
                ) from None
        try:
            yield
        finally:
            self.drop(LOCK)

    def _holder(self, target: str) -> dict[str, Any] | None:
        try:
            with _said(target):
                found: dict[str, Any] = json.loads(self.files.cat_file(target))
        except FileNotFoundError:
            return None
        return found


@dataclass(slots=True)
class Session:
    """The places of one command: what it reads and writes, locally."""

    mirrors: list[Mirror] = field(default_factory=list)

    def read(self, place: str | Path) -> Path | str:
        """A place to read from: itself, or its fresh local copy."""
        if not is_remote(place):
            return place
        mirror = Mirror.of(place)
        mirror.pull()
        if not mirror.local.exists():
            raise UsageError(f"{mirror.url}: nothing is there", hint="check the bucket and the folder")
        self.mirrors.append(mirror)
        return mirror.local

    def said(self, found: tuple[Any, str]) -> tuple[Any, str]:
        """A command's result with URLs in place of local copies."""
        data, text = found
        plain = json.dumps(data, ensure_ascii=False)
        for mirror in self.mirrors:
            text = text.replace(str(mirror.local), mirror.url)
            plain = plain.replace(str(mirror.local), mirror.url)
        return json.loads(plain), text


@contextmanager
def writing(session: Session, place: Path, command: str) -> Iterator[Path]:
    """Yield where to write: the place itself, or a local copy that is locked, brought up to date and pushed at the end.

    Also what a command wrote before it reported a DataError (an alarm) is pushed; nothing is after any other failure.
    """
    if not is_remote(place):
        yield place
        return
    mirror = Mirror.of(place)
    with mirror.locked(command):
        mirror.pull()
        session.mirrors.append(mirror)
        try:
            yield mirror.local
        except DataError:
            if mirror.local.exists():
                mirror.push()
            raise
        mirror.push()


def _filesystem() -> Any:
    try:
        import s3fs
    except ImportError as error:
        raise MissingExtra("s3:// needs s3fs", hint='pip install "gristmill[s3]"') from error
    retries = {"retries": {"mode": "standard", "max_attempts": 10}, "connect_timeout": 10, "read_timeout": 60}
    return s3fs.S3FileSystem(config_kwargs=retries, use_listings_cache=False)


@contextmanager
def _said(place: str) -> Iterator[None]:
    """Say what went wrong with an object store in the tree's own words."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except NoCredentialsError as error:
        raise MachineError(
            f"{place}: no credentials", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except PermissionError as error:
        raise MachineError(f"{place}: access denied", hint="check the credentials and the bucket's policy") from error
    except (BotoCoreError, ClientError, OSError) as error:
        raise MachineError(
            f"{place}: {str(error).splitlines()[0]}", hint="run the command again; finished units are kept"
        ) from error
