"""Names and paths -> one `EvalSets`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.evals import registry
from curate.evals.model import BadRow, EvalSets, Fields, SetFacts, schema

if TYPE_CHECKING:
    import pyarrow as pa


def gather(against: Sequence[str], overrides: Mapping[str, Fields]) -> EvalSets:
    """Every set that `against` names, once; see `curate.evals.load`."""
    names, paths = split(against)
    parts: dict[str, tuple[pa.Table, SetFacts]] = {}
    bad: list[BadRow] = []
    skipped: list[tuple[str, str]] = []
    if names:
        from curate.evals.cache import get

        for name in names:
            parts[name] = get(name, overrides.get(name))
    if paths:
        from curate.evals import local

        files: set[Path] = set()
        for path in paths:
            found, passed = local.find(path)
            files.update(found)
            skipped += passed
        for name, own in local.named(sorted(files)).items():
            fields = overrides.get(name) or overrides.get(name.partition("/")[0])
            read, passed = local.read_set(name, own, fields)
            skipped += passed
            bad += read.bad
            if read.items:
                parts[name] = packed(read.items, read.rows, len(read.bad), _licence(own[0]), _origin(own))
    import pyarrow as pa

    tables = [parts[name][0] for name in sorted(parts)]
    table = pa.concat_tables(tables).combine_chunks() if tables else schema().empty_table()
    facts = {name: parts[name][1] for name in sorted(parts)}
    return EvalSets(table, facts, tuple(bad), tuple(sorted(skipped)))


def split(against: Iterable[str]) -> tuple[list[str], list[str]]:
    """Registry names and paths, sorted, each once; several may be joined by commas. A registry name wins over a path."""
    names, paths = set(), set()
    for given in against:
        whole = given.strip() in registry.SETS or Path(given).expanduser().exists()
        for part in [given.strip()] if whole else [part.strip() for part in given.split(",") if part.strip()]:
            if part in registry.SETS:
                names.add(part)
            elif "/" in part or "." in part or Path(part).expanduser().exists():
                paths.add(part)
            else:
                registry.entry(part)  # raises, naming the nearest
    return sorted(names), sorted(paths)


def packed(
    items: list[dict[str, Any]], rows: int, bad: int, licence: str, origin: dict[str, str | None]
) -> tuple[pa.Table, SetFacts]:
    """Items as a table, and the facts of their set."""
    import pyarrow as pa

    table = pa.Table.from_pylist(items, schema=schema())
    return table, SetFacts(len(items), rows, bad, licence, origin, content_digest(table))


def content_digest(table: pa.Table) -> str:
    """A digest of questions, choices and answers that does not depend on their order."""
    from curate.foundation.store import digest_of

    columns = [table.column(name).to_pylist() for name in ("question", "choices", "answer")]
    return digest_of(sorted(digest_of(item) for item in zip(*columns, strict=True)))


def _licence(path: Path) -> str:
    from curate.sources import licence_of

    return licence_of(path.parent, path.parent.parent)


def _origin(paths: list[Path]) -> dict[str, str | None]:
    return {"path": ", ".join(f"{path.parent.name}/{path.name}" for path in paths)}
