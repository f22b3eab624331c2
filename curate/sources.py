"""Where rows come from and how they are to be read: the settings, the names of sources, their licences, hub sets."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from string import Formatter
from typing import Final, Literal
from urllib.parse import urlparse

from pydantic import BaseModel, ConfigDict, Field, field_validator

from curate.foundation.errors import Offline, UsageError

FIELD_NAMES: Final = (
    *("messages", "conversations", "instruction", "input", "output", "response", "system", "history", "tools"),
    *("prompt", "completion", "question", "answer", "query", "problem", "solution", "text", "chosen", "rejected"),
)
FORMATS: Final = (
    *("messages", "sharegpt", "alpaca", "prompt/completion", "prompt/response", "question/answer", "query/response"),
    *("problem/solution", "preference", "instances", "keyed turns", "dialogue states", "reply tree", "text"),
)
PROBE_SECONDS: Final = 0.7
Markers = Literal["strip", "keep"]


class SourceSettings(BaseModel):
    """How one source is read; everything has a default, so most sources need no entry.

    `path` is a folder, a file or `hf://name@revision` (`config` names one of several configurations there); `fields`
    maps names we know to columns of the data; `system`, `user` and `assistant` are format strings over columns;
    `format` forces a format (`text` is never guessed).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = None
    split: str = "train"
    config: str | None = None
    licence: str | None = None
    fields: dict[str, str] | None = None
    system: str | None = None
    user: str | None = None
    assistant: str | None = None
    format: str | None = None
    score_field: str | None = None
    train_field: str | None = None
    markers: Markers = "strip"
    preference: Literal["chosen"] | None = None

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str | None) -> str | None:
        if value is not None and value not in FORMATS:
            raise ValueError(f"unknown format {value!r}; formats are {', '.join(FORMATS)}")
        return value

    @field_validator("fields")
    @classmethod
    def _known_fields(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for name in value or {}:
            if name not in FIELD_NAMES:
                raise ValueError(f"unknown field {name!r}; fields are {', '.join(FIELD_NAMES)}")
        return value

    @field_validator("system", "user", "assistant")
    @classmethod
    def _readable_template(cls, value: str | None) -> str | None:
        for _, name, spec, conversion in Formatter().parse(value or ""):
            if name is not None and (not name or spec or conversion):
                raise ValueError("a format string names columns as {column}, with no conversion or format after it")
        return value

    @property
    def builds(self) -> bool:
        """Whether format strings build the conversation."""
        return self.user is not None or self.assistant is not None or self.system is not None

    @property
    def plain(self) -> bool:
        """Whether rows are read by the default rules alone."""
        return not (self.fields or self.builds or self.format or self.score_field or self.train_field)


class ReadSettings(BaseModel):
    """Bounds of reading. All sizes are bytes; caps on compressed files count decompressed bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_line_bytes: int = Field(default=64 << 20, ge=1024, description="the longest row; longer ones are quarantined")
    max_file_bytes: int = Field(default=256 << 30, ge=1024, description="the largest decompressed file")
    max_ratio: int = Field(default=1000, ge=2, description="decompressed over compressed bytes, judged past 64 MiB")
    unit_bytes: int = Field(default=64 << 20, ge=1024, description="size of the pieces a large plain file is cut into")
    batch_bytes: int = Field(default=8 << 20, ge=1024, description="text held at a time")
    raw_bytes: int = Field(default=1 << 20, ge=64, description="bytes kept of a quarantined row")
    preference: Literal["chosen"] | None = None


def licence_of(folder: Path, root: Path) -> str:
    """The licence that a dataset card or a LICENSE file beside the data names, else "unknown"."""
    while True:
        for name in ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING"):
            path = folder / name
            if path.is_file() and not path.is_symlink():
                with path.open(encoding="utf-8", errors="replace") as file:
                    head = file.read(20_000)
                found = _front_matter(head) if name == "README.md" else _known_text(head)
                if found:
                    return found
        if folder == root or root not in folder.parents:
            return "unknown"
        folder = folder.parent


def _front_matter(head: str) -> str | None:
    match = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    if not match:
        return None
    found = re.search(r"^licen[sc]e:[ \t]*\n?[ \t]*-?[ \t]*['\"]?([A-Za-z0-9.+-]+)", match.group(1), re.MULTILINE)
    return found.group(1) if found else None


_TEXTS: Final = (
    ("apache-2.0", r"Apache License\s+Version 2\.0"),
    ("mit", r"MIT License|Permission is hereby granted, free of charge"),
    ("cc-by-nc-sa-4.0", r"Attribution-NonCommercial-ShareAlike 4\.0"),
    ("cc-by-nc-4.0", r"Attribution-NonCommercial 4\.0"),
    ("cc-by-sa-4.0", r"Attribution-ShareAlike 4\.0"),
    ("cc-by-4.0", r"Attribution 4\.0"),
    ("cc0-1.0", r"CC0 1\.0"),
    ("bsd-3-clause", r"Redistribution and use in source and binary forms"),
)


def _known_text(head: str) -> str | None:
    return next((name for name, pattern in _TEXTS if re.search(pattern, head)), None)


def hub_files(name: str, address: str, split: str, config: str | None = None) -> list[Path]:
    """The Arrow files of a hub set, fetched or found in the cache through `datasets`.

    Raises `Offline` within a second when the set is not cached and the hub cannot be reached.
    """
    dataset, _, revision = address.removeprefix("hf://").partition("@")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset):
        raise UsageError(f"{address}: not a hub address", hint="write hf://owner/name@revision")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON") or not reachable()
    if offline:
        if not cached(dataset):
            raise Offline(
                f"source {name}: {address} is not on this machine and the hub cannot be reached",
                hint=f"download it elsewhere, then: --set sources.{name}.path=/folder/with/the/files",
            )
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when `datasets` is imported
    import datasets

    try:
        found = datasets.load_dataset(dataset, config, revision=revision or None, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        hint = f"check the name, revision and split, or: --set sources.{name}.path=/folder/with/the/files"
        raise (Offline if offline else UsageError)(
            f"source {name}: {address}: {type(error).__name__}", hint=hint
        ) from None
    return [Path(entry["filename"]) for entry in found.cache_files]


def reachable() -> bool:
    """Whether the hub answers, or a proxy stands between; within a second."""
    address = urlparse(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection(
            (address.hostname or "", address.port or (80 if address.scheme == "http" else 443)), PROBE_SECONDS
        ).close()
    except OSError:
        return bool(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"))
    return True


def cached(dataset: str) -> bool:
    """Whether the cache of the hub client or of `datasets` holds a set."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"datasets--{dataset.replace('/', '--')}"
    built = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets") / dataset.replace("/", "___").lower()
    return hub.is_dir() or built.is_dir()
