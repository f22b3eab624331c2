"""The figures of a card: funnel, histogram, shares by source, the ribbon of a packed row, loss curves.

Each takes plain counts and gives a `Figure` with alt text. Cost: one shape a bar; curves are thinned to 400 points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from curate.cards.model import Figure
from curate.cards.svg import GREY, KEPT, LOST, SERIES, WIDTH, Canvas, fit
from curate.cards.text import compact, percent

LEFT = 180
TOP_SOURCES = 24


def funnel(steps: Sequence[tuple[str, int, int, int]], unit: str = "characters") -> Figure:
    """Bars from rows to kept; a step is (label, count, lost before it, characters or tokens; -1 when not known)."""
    most = max((count + lost for _, count, lost, _ in steps), default=0) or 1
    amount = max((size for *_, size in steps), default=0) or 1
    first, last = (steps[0][1], steps[-1][1]) if steps else (0, 0)
    alt = f"Funnel: {first:,} {steps[0][0] if steps else ''} become {last:,} kept."
    alt += "".join(f" {label}: {count:,}, {lost:,} lost." for label, count, lost, _ in steps[1:-1])
    canvas = Canvas("From raw rows to kept records", alt, 70 + 42 * len(steps))
    canvas.legend(52, [(KEPT, "still in"), (LOST, "left at this step"), (SERIES[2], unit)])
    span = WIDTH - LEFT - 220
    for index, (label, count, lost, size) in enumerate(steps):
        y = 70 + 42 * index
        canvas.text(LEFT - 12, y + 14, fit(label, LEFT - 32), anchor="end")
        canvas.rect(LEFT, y, span, 18)
        canvas.rect(LEFT, y, span * count / most, 18, KEPT, tip=f"{label}: {count:,}")
        if lost:
            canvas.rect(LEFT + span * count / most, y, max(1.5, span * lost / most), 18, LOST, tip=f"left: {lost:,}")
        if size >= 0:
            canvas.rect(LEFT, y + 21, span * size / amount, 5, SERIES[2], tip=f"{size:,} {unit}")
        canvas.text(LEFT + span + 14, y + 14, f"{count:,}")
        note = f"\N{MINUS SIGN}{lost:,} ({percent(lost, count + lost)})" if lost else ""
        canvas.text(LEFT + span + 14, y + 29, note, kind="m", size=11)
    return Figure("funnel", alt, canvas.svg(), [(label, count) for label, count, *_ in steps])


def histogram(name: str, title: str, edges: Sequence[float], series: Mapping[str, Sequence[int]]) -> Figure:
    """Small multiples, one panel a series; `edges` are lower bounds of the bins, an extra last edge is the upper one."""
    used = {label: list(counts) for label, counts in series.items() if any(counts)}
    filled = [i for counts in used.values() for i, count in enumerate(counts) if count]
    low, high = (min(filled), max(filled) + 1) if filled else (0, 1)
    alt = f"{title}. " + " ".join(f"{key}: {_spread(edges, counts)}." for key, counts in used.items())
    canvas = Canvas(title, alt, 60 + 118 * max(len(used), 1))
    slot = (WIDTH - 150) / (high - low)
    every = max(1, math.ceil(44 / slot))
    for row, (label, counts) in enumerate(used.items()):
        top, base = 50 + 118 * row, 50 + 118 * row + 84
        most = max(counts)
        canvas.text(20, top + 20, fit(label, 100), kind="t")
        canvas.text(20, top + 38, f"{sum(counts):,}", kind="m", size=11)
        canvas.text(20, top + 53, f"peak {compact(most)}", kind="m", size=11)
        canvas.rule(124, base, WIDTH - 20, base)
        for i in range(low, min(high, len(counts))):
            tall = 78 * counts[i] / most
            upper = f" to {edges[i + 1]:,}" if i + 1 < len(edges) else " and more"
            if counts[i]:
                tip = f"{edges[i]:,}{upper}: {counts[i]:,}"
                canvas.rect(
                    124 + slot * (i - low) + 1, base - max(tall, 1), slot - 2, max(tall, 1), SERIES[row % 8], tip=tip
                )
            if (i - low) % every == 0:
                canvas.text(124 + slot * (i - low), base + 15, compact(edges[i]), kind="m", size=11)
    if not used:
        canvas.text(20, 80, "nothing was kept", kind="m")
    return Figure(name, alt, canvas.svg())


def _spread(edges: Sequence[float], counts: Sequence[int]) -> str:
    """Between which edges the middle of a histogram lies."""
    seen, half = 0, sum(counts) / 2
    for i, count in enumerate(counts):
        seen += count
        if seen >= half:
            upper = f"and {edges[i + 1]:,}" if i + 1 < len(edges) else "and more"
            return f"median between {edges[i]:,} {upper}"
    return "empty"


def shares(sources: Mapping[str, Mapping[str, int]], title: str = "What became of each source") -> Figure:
    """One full-width bar a source, split by fate; the largest sources first, the rest summed into one bar."""
    ranked = sorted(sources.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    shown = ranked[:TOP_SOURCES]
    if rest := ranked[TOP_SOURCES:]:
        total: dict[str, int] = {}
        for _, parts in rest:
            for fate, count in parts.items():
                total[fate] = total.get(fate, 0) + count
        shown.append((f"{len(rest)} smaller sources", total))
    fates = list(dict.fromkeys(fate for _, parts in shown for fate, count in parts.items() if count))
    colours = {fate: (*SERIES, GREY)[i % 9] for i, fate in enumerate(fates)}
    alt = f"{title}: {len(sources)} sources. " + " ".join(
        f"{name}: " + ", ".join(f"{fate} {percent(n, sum(parts.values()))}" for fate, n in parts.items() if n) + "."
        for name, parts in shown[:6]
    )
    canvas = Canvas(title, alt, 76 + 26 * len(shown))
    canvas.legend(52, [(colours[fate], fate) for fate in fates])
    span = WIDTH - LEFT - 130
    for row, (name, parts) in enumerate(shown):
        y, x, whole = 68 + 26 * row, float(LEFT), sum(parts.values())
        canvas.text(LEFT - 12, y + 13, fit(name, LEFT - 32), anchor="end")
        canvas.rect(LEFT, y, span, 17)
        for fate, count in parts.items():
            if count:
                wide = span * count / whole
                canvas.rect(
                    x, y, wide, 17, colours[fate], tip=f"{name}: {fate} {count:,} ({percent(count, whole)})", rx=0
                )
                x += wide
        canvas.text(LEFT + span + 12, y + 13, f"{whole:,}", kind="t")
    return Figure("sources", alt, canvas.svg())


def ribbon(segments: Sequence[Mapping[str, Any]], ctx: int, spans: Sequence[Sequence[int]] = ()) -> Figure:
    """One packed row: segments coloured by source, the trained spans ([start, length]) solid, the padding grey."""
    names = sorted({str(part.get("source", "")) for part in segments})
    colour = {name: SERIES[i % 8] for i, name in enumerate(names)}
    used = sum(int(part["length"]) for part in segments)
    alt = f"One packed row of {ctx:,} tokens: {len(segments)} segments fill {percent(used, ctx)}; solid parts are trained."
    canvas = Canvas(f"One packed row of {ctx:,} tokens", alt, 156)
    keys = [(colour[name], name) for name in names[:5]]
    canvas.legend(52, [*keys, (GREY, "padding")] + ([(GREY, f"{len(names) - 5} more")] if len(names) > 5 else []))
    scale = (WIDTH - 40) / max(ctx, 1)
    canvas.rect(20, 70, WIDTH - 40, 44, GREY, opacity=0.35, tip=f"padding: {ctx - used:,} tokens")
    for part in segments:
        start, length, name = int(part["start"]), int(part["length"]), str(part.get("source", ""))
        x, wide = 20 + scale * start, max(scale * length - 1, 0.6)
        canvas.rect(x, 70, wide, 44, "", rx=0)
        canvas.rect(x, 70, wide, 44, colour[name], opacity=0.35, tip=f"{name}: {length:,} tokens", rx=0)
        for begin, size in spans:
            if start <= begin < start + length:
                canvas.rect(20 + scale * begin, 78, scale * size, 28, colour[name], rx=0)
        if wide > 60:
            canvas.text(x + 4, 130, f"{length:,}", kind="m", size=11)
    canvas.text(20, 146, "0", kind="m", size=11)
    canvas.text(WIDTH - 20, 146, f"{ctx:,} tokens", kind="m", anchor="end", size=11)
    return Figure("ribbon", alt, canvas.svg())


def curves(series: Mapping[str, Sequence[tuple[float, float]]], name: str = "loss", title: str = "Loss") -> Figure:
    """Loss over steps on a logarithmic axis: `train` a line, every other series a line with its points marked."""
    used = {name: [p for p in points if p[1] > 0 and math.isfinite(p[1])] for name, points in series.items()}
    used = {name: points for name, points in used.items() if points}
    alt = f"{title} over steps. " + " ".join(f"{k}: from {v[0][1]:.4g} to {v[-1][1]:.4g}." for k, v in used.items())
    canvas = Canvas(title, alt, 360)
    if not used:
        canvas.text(20, 80, "no loss was recorded", kind="m")
        return Figure(name, alt, canvas.svg())
    canvas.legend(52, [(SERIES[i % 8], name) for i, name in enumerate(used)])
    steps = [x for points in used.values() for x, _ in points]
    values = [y for points in used.values() for _, y in points]
    x0, x1 = min(steps), max(max(steps), min(steps) + 1)
    y0, y1 = math.log(min(values)) - 0.05, math.log(max(values)) + 0.05
    for tick in range(5):
        y = 315 - 240 * tick / 4
        canvas.rule(70, y, WIDTH - 24, y)
        canvas.text(62, y + 4, f"{math.exp(y0 + (y1 - y0) * tick / 4):.3g}", kind="m", anchor="end", size=11)
        x = 70 + (WIDTH - 94) * tick / 4
        canvas.text(
            x, 334, compact(x0 + (x1 - x0) * tick / 4), kind="m", anchor="end" if tick == 4 else "middle", size=11
        )
    canvas.text(WIDTH - 24, 350, "step", kind="m", anchor="end", size=11)
    for i, (label, points) in enumerate(used.items()):
        every = max(1, len(points) // 400)
        thin = [*points[:-1:every], points[-1]]
        drawn = [
            (70 + (WIDTH - 94) * (x - x0) / (x1 - x0), 315 - 240 * (math.log(y) - y0) / (y1 - y0)) for x, y in thin
        ]
        canvas.path(drawn, SERIES[i % 8], width=1.6)
        if label != "train" and len(drawn) <= 60:
            for (x, y), point in zip(drawn, thin, strict=True):
                canvas.dot(x, y, SERIES[i % 8], f"{label}, step {point[0]:,.0f}: {point[1]:.4g}")
    return Figure(name, alt, canvas.svg())
