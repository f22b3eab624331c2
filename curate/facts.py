"""What the manifest counts: characters, lengths, turns, roles, examples. Sums of sums, so any grouping gives the same.

Cost: one vectorised pass over the message offsets of a batch; texts are only measured, never copied, and not again
where a stage has just measured them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.cards import contamination
from curate.foundation.console import printable, redact
from curate.record import ROLES

Ints = NDArray[np.int64]

# Bin edges in characters, doubling: a histogram that merges by addition whatever the data.
EDGES: Final = [0, 1, *(2**power for power in range(3, 25))]
SNIPPET: Final = 280


def per_message(table: pa.Table) -> tuple[Ints, Ints, NDArray[np.uint8]]:
    """Message offsets (n+1), characters a message (content only, null = 0) and role codes of a batch."""
    from curate.stages.text import unfold

    messages = unfold(table)
    return messages.starts, messages.content.chars, messages.roles


def sum_by_record(offsets: Ints, values: Ints) -> Ints:
    """Sum values of messages into values of records, shape (n,)."""
    running = np.concatenate([np.zeros(1, np.int64), np.cumsum(values)])
    totals: Ints = running[offsets[1:]] - running[offsets[:-1]]
    return totals


def characters(table: pa.Table) -> Ints:
    """Characters of content of each record, shape (n,)."""
    offsets, lengths, _ = per_message(table)
    return sum_by_record(offsets, lengths)


def measure(table: pa.Table) -> dict[str, Any]:
    """Counts by source for a batch: records, characters by role, turns, roles and length histograms."""
    if table.num_rows == 0:
        return {}
    offsets, lengths, roles = per_message(table)
    by_role = {role: roles == code for code, role in enumerate(ROLES)}
    total = sum_by_record(offsets, lengths)
    user = sum_by_record(offsets, lengths * by_role["user"])
    assistant = sum_by_record(offsets, lengths * by_role["assistant"])
    counts = {role: sum_by_record(offsets, mask.astype(np.int64)) for role, mask in by_role.items()}
    out: dict[str, Any] = {}
    sources = table.column("source").combine_chunks()
    for name in pc.unique(sources).to_pylist():
        mask = _bools(pc.equal(sources, name))
        turns = Counter(np.minimum(counts["user"][mask], 20).tolist())
        out[name] = {
            "records": int(mask.sum()),
            "characters": int(total[mask].sum()),
            "assistant_characters": int(assistant[mask].sum()),
            "turns": {str(turn): count for turn, count in sorted(turns.items())},
            "roles": {role: int(counts[role][mask].sum()) for role in by_role},
            "lengths": {
                "conversation": histogram(total[mask]),
                "user": histogram(user[mask]),
                "assistant": histogram(assistant[mask]),
            },
        }
    return out


def histogram(values: Ints) -> list[int]:
    """Counts of values per bin of EDGES; the last bin is open."""
    found: list[int] = np.histogram(values, bins=[*EDGES, np.iinfo(np.int64).max])[0].tolist()
    return found


def add(total: dict[str, Any], more: Mapping[str, Any], *, keep: int = 3) -> dict[str, Any]:
    """Add counts into `total`, deeply: numbers and lists of numbers are summed, other lists keep their first items."""
    for key, value in more.items():
        if isinstance(value, Mapping):
            add(total.setdefault(key, {}), value, keep=keep)
        elif isinstance(value, list):
            old = total.get(key, [])
            if value and all(isinstance(item, int) for item in value):
                total[key] = [a + b for a, b in zip(old, value, strict=True)] if old else list(value)
            else:
                total[key] = (old + value)[:keep]
        else:
            total[key] = total.get(key, 0) + value
    return total


def example(row: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A short redacted sample of one judged record for the card: the last user and assistant texts, and the verdict."""
    parts = []
    shown = [] if verdict.get("stage") == contamination.STAGE else row["messages"][-2:]  # never an eval's answer
    for message in shown:
        text = " ".join((message["content"] or "").split())
        parts.append(f"{message['role']}: {shorten(redact(printable(text)), SNIPPET)}")
    out = {
        "id": row["id"],
        "source": row["source"],
        "file": row["origin"]["file"],
        "row": row["origin"]["row"],
        "text": "\n".join(parts),
    }
    out.update(
        {key: verdict[key] for key in ("value", "threshold", "twin_id", "similarity") if verdict.get(key) is not None}
    )
    return out


def shorten(text: str, limit: int) -> str:
    """Cut a text in its middle to at most `limit` characters, saying how many are left out."""
    if len(text) <= limit:
        return text
    side = (limit - 12) // 2
    return f"{text[:side]} […{len(text) - 2 * side:,}…] {text[-side:]}"


def by_source(sources: Iterable[str], amounts: Iterable[int] | None = None) -> dict[str, int]:
    """Count (or sum amounts) by source name."""
    out: Counter[str] = Counter()
    if amounts is None:
        out.update(sources)
    else:
        for name, amount in zip(sources, amounts, strict=True):
            out[name] += amount
    return dict(out)


def spread(sources: pa.ChunkedArray, amounts: Ints | None = None) -> dict[str, int]:
    """As `by_source`, over a column and an array."""
    if len(sources) == 0:
        return {}
    encoded = sources.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    amounts = np.ones(len(codes), np.int64) if amounts is None else amounts
    return {name: int(amounts[codes == code].sum()) for code, name in enumerate(encoded.dictionary.to_pylist())}


def _bools(array: Any) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False).astype(bool)
    return mask
