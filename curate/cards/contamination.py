"""The card's chapter on contamination: the headline, evals, who hits what, what no rule can see, the evidence.

The facts of the stage `decontaminate`, as the manifest keeps them (all counts of distinct things):

    evals        [{name, items, digest, licence, origin, hit_items, removed, flagged, undetectable, undetectable_items,
                   with_answer (undetectable, but found where their answer or choices follow),
                   by_rule: {rule: {removed, flagged}}}]
    heatmap      {eval: {source: items of the eval that this source hits}}
    boilerplate  [{eval, ngram, items, records}]: n-grams left out of the comparison
    scope        whose turns were compared; report_only: nothing was removed
    samples      [{eval, item, rule, score, id, source, file, row, record: pieces, question: pieces}]

`pieces` cuts a text into [text, matched] parts for showing. An eval's answer is never shown: only its question is, and
of the record only what lies between the first and the last matched character, without the answer where that is told,
be it a number. The question's own words are shown as they are, even where one of them happens to be the answer.
`curate explain`, which shows users their own records, leaves the message as it is, and has no answer to add.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from curate.cards.matrix import heatmap
from curate.cards.model import Table
from curate.cards.text import Markdown, clean, code, percent, prose, shorten, show

STAGE: Final = "decontaminate"
OFF: Final = "OFF"
MANY: Final = 0.02  # of an eval's items hit by one source: more is worth a warning
CONTEXT: Final = 40
SHOWN: Final = 700
LISTED: Final = 12
EACH: Final = 4
HIDDEN: Final = "[the answer]"
LONG: Final = 20  # characters; an answer of more is no number or word of the question
OPEN, CLOSE = "\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}", "\N{MATHEMATICAL RIGHT WHITE SQUARE BRACKET}"
Piece = tuple[str, bool]


def stage_facts(stages: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What the stage said of its decision as a whole; empty when it did not run or had nothing to compare with."""
    found = next((stage.get("facts") or {} for stage in stages if stage["name"] == STAGE), {})
    return found if found.get("evals") else {}


def summary(stages: Iterable[Mapping[str, Any]]) -> Any:
    """What the manifest says under `decontamination`: "OFF", or the counts of the headline."""
    stages = list(stages)
    if not (facts := stage_facts(stages)):
        return OFF
    own = next(stage for stage in stages if stage["name"] == STAGE)
    counts = list((own.get("rules") or {}).values())
    return {
        "evals": len(facts["evals"]),
        "items": sum(entry["items"] for entry in facts["evals"]),
        "removed": own.get("removed", 0),
        "flagged": sum(rule.get("flagged", 0) for rule in counts),
        "undetectable": sum(entry.get("undetectable", 0) for entry in facts["evals"]),
        "report_only": bool(facts.get("report_only")),
    }


def headline(told: Any) -> str:
    """One line for the top of a card and the end of a run."""
    if not isinstance(told, Mapping):
        return "decontamination: OFF"
    done = f"{_count(told['removed'], 'record')} removed, {told['flagged']:,} flagged"
    if told.get("report_only"):
        done = f"report only: {_count(told['flagged'], 'record')} flagged, none removed"
    unseen = f"{_count(told['undetectable'], 'item')} no rule can see"
    return (
        f"decontamination: against {_count(told['evals'], 'eval')}, {_count(told['items'], 'item')}; {done}; {unseen}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def warnings(facts: Mapping[str, Any]) -> list[str]:
    """One line a source that hits more than MANY of an eval's items."""
    items = {entry["name"]: entry["items"] for entry in facts.get("evals") or []}
    return [
        f"Contamination: source {source} hits {count:,} of {items[name]:,} items of {name} ({percent(count, items[name])})"
        for name, sources in sorted((facts.get("heatmap") or {}).items())
        for source, count in sorted(sources.items(), key=lambda pair: (-pair[1], pair[0]))
        if items.get(name) and count > MANY * items[name]
    ]


def unseen(facts: Mapping[str, Any]) -> dict[str, Any]:
    """For card.json: by eval, the items that no active rule could detect, by name."""
    return {
        entry["name"]: {
            "items": entry["items"],
            "undetectable": entry.get("undetectable", 0),
            "undetectable_items": list(entry.get("undetectable_items") or []),
            "digest": entry.get("digest"),
            "origin": entry.get("origin"),
        }
        for entry in facts.get("evals") or []
    }


def contamination_blocks(manifest: Mapping[str, Any]) -> list[Any]:
    """The chapter; empty when nothing was compared."""
    facts = stage_facts(manifest.get("stages") or [])
    if not facts:
        return []
    blocks: list[Any] = [_told(facts), _evals(facts)]
    cells = {
        (name, source): int(count)
        for name, row in (facts.get("heatmap") or {}).items()
        for source, count in row.items()
    }
    if any(cells.values()):
        blocks.append(heatmap("contamination", "Items hit, eval by source", cells, rows="eval", columns="source"))
    blocks += _samples(facts)
    blocks += _boilerplate(facts)
    return blocks


def _told(facts: Mapping[str, Any]) -> Markdown:
    scope = {"user": "user turns", "assistant": "assistant turns", "all": "all turns"}.get(
        str(facts.get("scope")), "turns"
    )
    told = f"Compared: {scope}, with the questions of each set. "
    told += "An item counts as undetectable when no active rule would find it even word for word: it is too short, or "
    told += "all of it is boilerplate; `card.json` names each one."
    if found := sum(entry.get("with_answer", 0) for entry in facts["evals"]):
        told += f" Of these, {found:,} are still found where their answer, or all their choices, follow."
    if facts.get("report_only"):
        told += " **Report only: nothing was removed.**"
    return Markdown(told)


def _evals(facts: Mapping[str, Any]) -> Table:
    headers = (
        "Eval",
        "Items",
        "Items hit",
        "Share hit",
        "Records removed",
        "Records flagged",
        "Undetectable",
        "Licence",
    )
    rows = []
    for entry in facts["evals"]:
        hit = entry.get("hit_items", 0)
        counts = [entry.get(key, 0) for key in ("removed", "flagged", "undetectable")]
        rows.append(
            [code(entry["name"]), entry["items"], hit, percent(hit, entry["items"]), *counts, entry.get("licence")]
        )
    return Table(headers, rows)


def _samples(facts: Mapping[str, Any]) -> list[Any]:
    """Record and item side by side."""
    shown = list(facts.get("samples") or [])[:LISTED]
    if not shown:
        return []
    rows = [[_where(item), marked(item["record"]), marked(item["question"])] for item in shown]
    told = (
        f"Evidence: a record beside the item it repeats, matched parts in {OPEN}brackets{CLOSE}; answers are left out."
    )
    return [Markdown(told), Table(("Where", "Record", "Item of the eval"), rows)]


def _where(item: Mapping[str, Any]) -> Markdown:
    place = f"{item.get('file', '?')}, row {item.get('row', '?')}"
    score = f" {show(float(item['score']))}" if item.get("score") is not None else ""
    return Markdown(
        f"{code(place)} repeats {code(str(item['eval']))} {code(str(item['item']))}; {code(str(item['rule']))}{score}"
    )


def _boilerplate(facts: Mapping[str, Any]) -> list[Any]:
    listed = facts.get("boilerplate") or []
    if not listed:
        return []
    seen: Counter[str] = Counter()
    rows: list[list[Any]] = []
    for item in listed:
        seen[item["eval"]] += 1
        if seen[item["eval"]] <= EACH and len(rows) < LISTED:
            phrase = prose(shorten(clean(str(item["ngram"])), 120))
            rows.append([code(item["eval"]), phrase, item.get("items"), item.get("records")])
    total = facts.get("boilerplate_total", len(listed))
    told = f"Left out as boilerplate: {total:,} n-grams that many items of a set share, or many records hold"
    told += f"; the commonest, {EACH} a set at most:" if total > len(rows) else ":"
    return [told, Table(("Eval", "N-gram", "Items with it", "Records with it"), rows)]


def of_stage(rule: str) -> bool:
    """Whether a rule, as the manifest's examples name it, is one of this stage."""
    return rule.partition(".")[0] == STAGE


def pieces(
    text: str, spans: Sequence[Sequence[int]], *, whole: bool = False, hide: str | None = None, asked: str | None = None
) -> list[Piece]:
    """Parts of a text for showing, redacted: [text, matched]; `spans` are [start, stop) in characters.

    From a little before the first span to the end of the last, or the `whole` text; long stretches are cut in their
    middle. `hide` is an answer that must not appear; see `_hidden`.
    """
    from curate.foundation.console import printable, redact

    merged: list[list[int]] = []
    for start, stop in sorted((max(0, int(a)), min(len(text), int(b))) for a, b in spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        elif stop > start:
            merged.append([start, stop])
    begin = 0 if whole or not merged else max(0, merged[0][0] - CONTEXT)
    while 0 < begin < merged[0][0] and not text[begin - 1].isspace():
        begin += 1
    end = len(text) if whole or not merged else merged[-1][1]
    cut, place = list[Piece](), begin
    for start, stop, told in _covers(merged, _hidden(text, hide, asked, merged)):
        start, stop = max(start, begin), min(stop, end)
        if start < stop:
            cut += [(text[place:start], False), (told or text[start:stop], not told)]
            place = stop
    cut = [("…" if begin else "", False), *cut, (text[place:end], False)]
    cut.append(("…" if end < len(text) else "", False))
    each = max(60, SHOWN // max(1, sum(bool(part) for part, _ in cut)))
    return [(shorten(redact(printable(part)), each), flag) for part, flag in cut if part]


def _hidden(text: str, answer: str | None, asked: str | None, matched: Sequence[Sequence[int]]) -> list[list[int]]:
    """Where an answer, or a line of it, stands in a text: [start, stop), sorted, apart.

    A long one is found anywhere. A short one (a number, a word) only where it is whole words outside the `matched`
    parts, which are the question's own words, and not when the question, `asked`, says it anyway; with no `asked`
    the text is the question itself and keeps its words.
    """
    parts = {part.strip() for part in re.split(r"\n+|####", answer or "")} | {(answer or "").strip()}
    found: list[list[int]] = []
    for part in filter(None, parts):
        long = len(part) > LONG
        pattern = re.compile(re.escape(part) if long else rf"(?<!\w){re.escape(part)}(?!\w)", re.IGNORECASE)
        if long or (asked is not None and not pattern.search(asked)):
            places = [list(match.span()) for match in pattern.finditer(text)]
            found += [[a, b] for a, b in places if long or all(b <= c or d <= a for c, d in matched)]
    apart: list[list[int]] = []
    for start, stop in sorted(found):
        if apart and start < apart[-1][1]:
            apart[-1][1] = max(apart[-1][1], stop)
        else:
            apart.append([start, stop])
    return apart


def _covers(matched: Sequence[Sequence[int]], hidden: Sequence[Sequence[int]]) -> list[tuple[int, int, str]]:
    """Matched parts (told "") and hidden ones (told HIDDEN), sorted; what is hidden is no longer matched."""
    out = [(start, stop, HIDDEN) for start, stop in hidden]
    for start, stop in matched:
        for a, b in hidden:
            if start < b and a < stop:
                out += [(start, a, "")] if start < a else []
                start = b
        out += [(start, stop, "")] if start < stop else []
    return sorted(out)


def marked(parts: Sequence[Sequence[Any]]) -> Markdown:
    """Pieces as inline Markdown, the matched ones bold and in brackets."""
    out = []
    for text, flag in parts:
        shown = str(prose(str(text)))
        lead = " " if str(text)[:1].isspace() else ""
        tail = " " if str(text)[-1:].isspace() else ""
        if shown:
            out.append(f"{lead}**{OPEN}{shown}{CLOSE}**{tail}" if flag else f"{lead}{shown}{tail}")
    return Markdown("".join(out).strip() or "(empty)")
