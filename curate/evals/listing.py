"""What `curate evals` says: the registry with what is cached, one set, what a path would give; and fetching."""

from __future__ import annotations

from typing import Any

from curate.evals import cache, registry
from curate.evals.model import EvalSets, SetFacts
from curate.foundation.console import printable
from curate.foundation.errors import UsageError

Said = tuple[dict[str, Any], str]


def listed() -> Said:
    """Every registry name: whether it is cached, its items, licence, where the hub has it."""
    rows = [_row(name, cache.facts_of(name)) for name in sorted(registry.SETS)]
    have = sum(row["cached"] for row in rows)
    lines = [f"{'name':<16} {'items':>7}  {'licence':<14} hub@revision, or the local copy"]
    for row in rows:
        items = f"{row['items']:,}" if row["cached"] else "-"
        lines.append(f"{row['name']:<16} {items:>7}  {row['licence']:<14} {_place(row)}")
    lines.append(f"{have} of {len(rows)} cached in {cache.folder()}: compared against when --against names nothing")
    if not have:
        lines.append("get one: curate evals fetch gsm8k; without a network: curate evals fetch gsm8k --from PATH")
    return {"sets": rows, "folder": str(cache.folder())}, "\n".join(lines)


def _row(name: str, facts: SetFacts | None) -> dict[str, Any]:
    entry = registry.SETS[name]
    return {
        "name": name,
        "cached": facts is not None,
        "items": facts.items if facts else None,
        "licence": entry.licence,
        "hub": entry.hub,
        "revision": entry.revision,
        "config": entry.config,
        "splits": list(entry.splits),
        "origin": facts.origin if facts else None,
        "digest": facts.digest if facts else None,
    }


def _place(row: dict[str, Any]) -> str:
    if row["origin"] and row["origin"].get("path"):
        return printable(str(row["origin"]["path"]))
    revision = (row["origin"] or {}).get("revision") or row["revision"]
    return f"{row['hub']}@{revision[:12] if revision else '(the newest, pinned when fetched)'}"


def shown(name: str) -> Said:
    """One set: of the registry, with its mapping and what the cache holds; or what a path would give."""
    from curate.evals import load
    from curate.evals.gather import split

    names, paths = split([name])
    if paths:
        found = load(paths)
        return _json(found), _text(found)
    if not names:
        raise UsageError("no eval set was named", hint="see them with: curate evals list")
    entry, facts = registry.SETS[names[0]], cache.facts_of(names[0])
    fields = entry.fields.model_dump(exclude_none=True)
    data = {**_row(names[0], facts), "fields": fields, "facts": facts.as_json() if facts else None}
    lines = [f"{names[0]}: {entry.hub}, config {entry.config or '-'}, split {', '.join(entry.splits)}"]
    lines += [f"revision  {entry.revision or 'none pinned here: the first fetch takes the newest and records it'}"]
    lines += [f"licence   {entry.licence}", *(f"{key:<9} {value}" for key, value in fields.items())]
    if facts is None:
        lines.append(f"not cached: curate evals fetch {names[0]}")
    else:
        origin = ", ".join(f"{key} {value}" for key, value in facts.origin.items() if value)
        lines.append(
            f"cached    {facts.items:,} items of {facts.rows:,} rows ({facts.bad:,} bad), digest {facts.digest}"
        )
        lines.append(f"from      {printable(origin)}")
    return data, "\n".join(lines)


def _json(found: EvalSets) -> dict[str, Any]:
    return {
        "sets": [{"name": name, **facts.as_json()} for name, facts in found.sets.items()],
        "bad": [{"file": bad.file, "row": bad.row, "reason": bad.reason} for bad in found.bad],
        "skipped": [{"file": file, "reason": reason} for file, reason in found.skipped],
        "digest": found.digest,
    }


def _text(found: EvalSets) -> str:
    width = max((len(name) for name in found.sets), default=0)
    lines = [f"{'name':<{width}} {'rows':>8} {'items':>8} {'bad':>6}  licence"]
    for name, facts in found.sets.items():
        lines.append(f"{printable(name):<{width}} {facts.rows:>8,} {facts.items:>8,} {facts.bad:>6,}  {facts.licence}")
    lines += [f"skipped {printable(file)}: {reason}" for file, reason in found.skipped]
    lines += [f"bad row {bad.row} of {printable(bad.file)}: {printable(bad.reason)}" for bad in found.bad[:10]]
    if len(found.bad) > 10:
        lines.append(f"... and {len(found.bad) - 10:,} more bad rows (--json names all)")
    return "\n".join(lines)


def fetched(names: list[str], source: str | None) -> Said:
    """Put sets into the cache: from the hub, or one from a local copy. Raises `UsageError`, `Offline`."""
    from curate.evals import hub

    if source is not None and len(names) != 1:
        raise UsageError("--from gives one set", hint="curate evals fetch NAME --from PATH, once a set")
    entries = {name: registry.entry(name) for name in names}
    rows, lines = [], []
    for name, entry in entries.items():
        table, facts = hub.from_path(name, entry, source) if source is not None else hub.fetch(name, entry)
        path = cache.put(name, table, facts)
        rows.append({"name": name, **facts.as_json(), "file": str(path)})
        bad = f", {facts.bad:,} bad rows left out" if facts.bad else ""
        lines.append(f"{name}: {facts.items:,} items of {facts.rows:,} rows{bad}; {path}")
    return {"sets": rows}, "\n".join(lines)
