"""Our copies of eval sets: one Arrow file a set, normalised, its facts inside; below the hub client's own cache folder.

The folder is `gristmill/evals` under `HF_ASSETS_CACHE`, by default `assets` in `HF_HOME`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from curate.evals import registry
from curate.evals.model import Fields, SetFacts
from curate.foundation.errors import DataError
from curate.foundation.store import replacing

if TYPE_CHECKING:
    import pyarrow as pa

KEY: Final = b"gristmill.eval"


def folder() -> Path:
    """Where the sets lie; it need not be there."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    assets = os.environ.get("HF_ASSETS_CACHE") or Path(home) / "assets"
    return Path(assets).expanduser() / "gristmill" / "evals"


def path_of(name: str) -> Path:
    """The file of a set."""
    return folder() / f"{name}.arrow"


def names() -> list[str]:
    """The registry names that are cached, sorted."""
    return [name for name in sorted(registry.SETS) if path_of(name).is_file()]


def put(name: str, table: pa.Table, facts: SetFacts) -> Path:
    """Write a set into the cache, in the place of an earlier copy."""
    import pyarrow as pa

    path = path_of(name)
    told = json.dumps(facts.as_json(), sort_keys=True).encode()
    table = table.replace_schema_metadata({KEY: told})
    with replacing(path) as temp, pa.OSFile(str(temp), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


def facts_of(name: str) -> SetFacts | None:
    """What is known of a cached set, without reading it; None when it is not there."""
    import pyarrow as pa

    if not path_of(name).is_file():
        return None
    with _damaged(name), pa.memory_map(str(path_of(name))) as file:
        metadata: dict[bytes, bytes] = pa.ipc.open_file(file).schema.metadata or {}
        return SetFacts(**json.loads(metadata[KEY]))


def get(name: str, fields: Fields | None = None) -> tuple[pa.Table, SetFacts]:
    """A set by registry name: the cached copy, or fetched and then cached.

    `fields` reads the hub's columns by another mapping, and is not cached. Raises `UsageError`, `Offline`, or
    `DataError` when the cached copy does not hold what it says.
    """
    from curate.evals.gather import content_digest

    facts = facts_of(name)
    if facts is None or fields is not None:
        from curate.evals.hub import fetch

        table, facts = fetch(name, registry.entry(name), fields)
        if fields is None:
            put(name, table, facts)
        return table, facts
    import pyarrow as pa

    with _damaged(name), pa.memory_map(str(path_of(name))) as file:
        table = pa.ipc.open_file(file).read_all().replace_schema_metadata(None)
    if content_digest(table) != facts.digest:
        raise _altered(name)
    return table, facts


def _altered(name: str) -> DataError:
    return DataError(f"{path_of(name)}: the cached copy is damaged", hint=f"fetch it again: curate evals fetch {name}")


class _damaged:
    """Turn what a broken file raises into a `DataError`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        import pyarrow as pa

        if isinstance(error, (pa.ArrowException, KeyError, ValueError, TypeError)):
            raise _altered(self.name) from None
