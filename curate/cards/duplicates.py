"""The card's chapter on duplicates: cluster sizes, similarities with the threshold, who duplicates whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from curate.cards.matrix import heatmap
from curate.cards.model import Figure
from curate.cards.model import Table as Rows
from curate.cards.svg import KEPT, LOST, WIDTH, Canvas
from curate.cards.text import Markdown, code, compact, percent, show

STAGES: Final = ("exact", "minhash", "embedding")
TITLES: Final = {"exact": "Exact duplicates", "minhash": "Near-duplicates", "embedding": "Near-duplicates by meaning"}
TOP: Final = 12
SETTINGS: Final = {
    "minhash": ("key", "threshold", "ngram", "bands", "rows", "recall"),
    "embedding": ("key", "threshold", "model"),
}


def near_state(manifest: Mapping[str, Any]) -> Any:
    """What the status line says of near-duplicates: "OFF", or each stage that looked for them with its settings."""
    config = manifest.get("config") or {}
    told = []
    for stage in ("minhash", "embedding"):
        if stage in (config.get("stages") or ()):
            values = config.get(stage) or {}
            known = [f"{name} {show(values[name])}" for name in SETTINGS[stage] if values.get(name) is not None]
            told.append(f"{stage}: {', '.join(known)}" if known else stage)
    return f"ON ({'; '.join(told)})" if told else manifest.get("near_duplicates")


def duplicate_blocks(manifest: Mapping[str, Any]) -> list[Any]:
    """Figures and tables of each stage that removed duplicates; empty when none did."""
    blocks: list[Any] = []
    for stage in manifest.get("stages") or []:
        facts = stage.get("facts") or {}
        if stage["name"] in STAGES and (facts.get("clusters") or {}).get("count"):
            blocks += _stage(stage["name"], stage.get("removed", 0), facts)
    return blocks


def _stage(name: str, removed: int, facts: Mapping[str, Any]) -> list[Any]:
    clusters, title = facts["clusters"], TITLES[name]
    biggest = clusters["largest"][0]["size"] if clusters["largest"] else 0
    number = f"{removed:,} removed for the sake of {clusters['count']:,} kept records"
    told = f"**{title}** (stage `{name}`, key {code(str(facts.get('key', '')))}): {number}; "
    told += f"the largest cluster has {biggest:,} records.{_looked_at(facts.get('candidates'))}"
    blocks: list[Any] = [Markdown(told)]
    if len(clusters["edges"]) > 1:
        blocks.append(cluster_sizes(f"{name}-clusters", title, clusters["edges"], clusters["counts"]))
    if similar := facts.get("similarity"):
        unit = "cosine" if name == "embedding" else "exact Jaccard"
        blocks.append(
            similarity(f"{name}-similarity", title, similar["edges"], similar["counts"], similar["threshold"], unit)
        )
    pairs = facts.get("pairs") or {"listed": [], "rest": 0}
    if len(pairs["listed"]) > 1:
        blocks.append(who_duplicates_whom(f"{name}-sources", title, pairs["listed"], pairs["rest"]))
    headers = ("Removed from", "because kept in", "Records")
    rows = [[code(pair["removed"]), code(pair["kept"]), pair["records"]] for pair in pairs["listed"][:TOP]]
    blocks.append(Rows(headers, [*rows, *_rest(pairs)]))
    if biggest > 2:
        headers = ("Largest clusters: the record kept", "Place", "Records")
        places = [(item["id"], f"{item['file']}, row {item['row']}", item["size"]) for item in clusters["largest"]]
        blocks.append(Rows(headers, [[code(ident), code(place), size] for ident, place, size in places]))
    return blocks


def _rest(pairs: Mapping[str, Any]) -> list[list[Any]]:
    """One row for the pairs of sources that a table leaves out."""
    left = pairs["listed"][TOP:]
    number = sum(pair["records"] for pair in left) + pairs["rest"]
    return [["all other pairs of sources", "", number]] if number else []


def _looked_at(counts: Mapping[str, int] | None) -> str:
    """What was looked at and not removed, where a stage counts it."""
    if not counts or "candidates" not in counts:
        return ""
    looked, gone = counts["candidates"], counts.get("removed", 0)
    return (
        f" {looked:,} records had a possible twin; {counts.get('compared', 0):,} pairs were compared exactly, and "
        f"{looked - gone:,} of these records stayed ({percent(looked - gone, looked)})."
    )


def cluster_sizes(name: str, title: str, edges: Sequence[int], counts: Sequence[int]) -> Figure:
    """Bars: how many clusters have 2, 3, 4, 5 to 8 ... records; the height is logarithmic, the count is written."""
    labels = [_range(edges, index) for index in range(len(edges))]
    told = ", ".join(f"{label} records: {count:,}" for label, count in zip(labels, counts, strict=True) if count)
    alt = f"{title}: clusters by size. {told}."
    canvas = Canvas(f"{title}: records in a cluster", alt, 210)
    tips = [f"{label} records: {count:,} clusters" for label, count in zip(labels, counts, strict=True)]
    _columns(canvas, labels, counts, tips, logarithmic=True)
    canvas.text(
        WIDTH - 20,
        200,
        "records in a cluster, the kept one counted; heights are logarithmic",
        kind="m",
        anchor="end",
        size=11,
    )
    bars = [(f"{label} records", count) for label, count in zip(labels, counts, strict=True)]
    return Figure(name, alt, canvas.svg(), bars)


def _range(edges: Sequence[int], index: int) -> str:
    """A bin of cluster sizes in words; `edges` are lower bounds and double from the fourth on."""
    low = edges[index]
    high = low if low < 5 else 2 * (low - 1)
    if high > 999:
        return f"> {compact(low - 1)}"
    return f"{low}" if low == high else f"{low}\N{EN DASH}{high}"


def similarity(
    name: str, title: str, edges: Sequence[float], counts: Sequence[int], threshold: float, unit: str
) -> Figure:
    """Bars: removed records by similarity to their twin, the threshold a line at the left; the last bar is exactly 1."""
    most = max(range(len(counts)), key=lambda index: counts[index])
    upper = f"to {edges[most + 1]:g}" if most + 1 < len(edges) else "exactly"
    alt = (
        f"{title}: {sum(counts):,} removed records by {unit} to the record kept, threshold {threshold:g}. "
        f"Most lie at {edges[most]:g} {upper} ({counts[most]:,}); exactly 1: {counts[-1]:,}."
    )
    canvas = Canvas(f"{title}: {unit} to the record kept", alt, 210)
    labels = [f"{edge:g}" for edge in edges[:-1]] + ["= 1"]
    tips = [
        f"{edge:g} to {edges[i + 1]:g}: {counts[i]:,}" if i + 1 < len(edges) else f"exactly 1: {counts[i]:,}"
        for i, edge in enumerate(edges)
    ]
    _columns(canvas, labels, counts, tips)
    canvas.rect(38, 48, 2, 128, LOST, tip=f"threshold {threshold:g}", rx=0)
    canvas.text(38, 200, f"threshold {threshold:g}: whatever is less alike stayed", kind="m", size=11)
    canvas.text(WIDTH - 20, 200, unit, kind="m", anchor="end", size=11)
    return Figure(name, alt, canvas.svg())


def _columns(
    canvas: Canvas, labels: Sequence[str], counts: Sequence[int], tips: Sequence[str], *, logarithmic: bool = False
) -> None:
    """Columns over a base line at y 168, each with its count on top and its label below where there is room."""
    slot = (WIDTH - 70) / max(len(labels), 8)
    heights = [math.log1p(count) if logarithmic else float(count) for count in counts]
    most = max(heights, default=0) or 1
    every = max(1, -(-40 // int(slot)))
    canvas.rule(42, 168, WIDTH - 20, 168)
    for index, count in enumerate(counts):
        x, tall = 46 + slot * index, max(104 * heights[index] / most, 1.5)
        wide = min(slot - 6, 72)
        if count:
            canvas.rect(x, 168 - tall, wide, tall, KEPT, tip=tips[index])
            canvas.text(x + wide / 2, 162 - tall, compact(count), kind="m", anchor="middle", size=11)
        if index % every == 0 or index == len(counts) - 1:
            canvas.text(x + wide / 2, 183, labels[index], kind="m", anchor="middle", size=11)


def who_duplicates_whom(name: str, title: str, pairs: Sequence[Mapping[str, Any]], rest: int) -> Figure:
    """Removed records by their source (rows) and the source of the record kept (columns)."""
    cells = {(pair["removed"], pair["kept"]): int(pair["records"]) for pair in pairs}
    return heatmap(
        name,
        f"{title}: who duplicates whom",
        cells,
        rows="removed from",
        columns="kept in",
        rest=rest,
    )
