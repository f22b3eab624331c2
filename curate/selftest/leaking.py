"""Items of the evaluation sets planted into the user's own records, and whether the stage `decontaminate` finds them.

Plain Python over words, by the documented rules alone. An item is used where that is enough to foretell the verdict: it
has `ENOUGH` words or more, and no n-gram that `boilerplate.items` items of its set share. A copy *must go* when more
than `bigram.threshold` of the item's distinct word bigrams (those of shared phrases left out) stand in it, or, word for
word, when the n-gram rule is on; what is shuffled, or quoted in a part too small for any rule, must stay. Where the
rule only flags, or the stage only reports, a marked record counts as gone.

Cost: a pass over all items at some 5 MB/s, and one run of the stage on the sample.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from curate.evals import cached, load
from curate.record import Record
from curate.selftest import edits
from curate.selftest.measuring import words
from curate.selftest.staged import Left, run_on
from curate.selftest.tally import Tally
from curate.settings import CurateConfig
from curate.stages.decontaminate_settings import DecontaminateSettings

NAME: Final = "decontaminate"
ENOUGH: Final = 16  # words of an item that is planted
LONGEST: Final = 600
LISTED: Final = 20
PHRASE: Final = 5  # words in a row that, shared by `boilerplate.items` items, count for no bigram rule
OWN: Final = "your records"
ALIEN: Final = 0.1  # of an item's words: a record that has no more of them does not hold the item by any rule
WORD_FOR_WORD: Final = "item word for word"
SHUFFLED: Final = "item's words shuffled"
QUOTED: Final = "start of an item quoted"
COPIES: Final[dict[str, Callable[[str, random.Random], str]]] = {
    WORD_FOR_WORD: lambda text, draw: text,
    "item re-cased": edits.re_cased,
    "item, 1 word in 20 changed": edits.one_in(20),
    "item, 1 word in 10 changed": edits.one_in(10),
    "item truncated": edits.truncated,
}
KINDS: Final = (*COPIES, SHUFFLED, QUOTED)


@dataclass(frozen=True, slots=True)
class Item:
    """An item of an evaluation set, by name, and its word bigrams that are in no phrase which several items share."""

    eval: str
    name: str
    text: str
    bigrams: frozenset[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Planted:
    """A record that holds a copy of an item; `share` of the item's distinct bigrams stand in it.

    `due`: the state of the rule that promises to find it, "" where none does; `stays`: no rule may remove it.
    """

    kind: str
    record: Record
    item: Item
    share: float
    due: str
    stays: bool


def measure_leaks(sample: Sequence[Record], config: CurateConfig, seed: int) -> dict[str, Any]:
    """Plant, run, count by kind; no kinds where no set has an item that can be planted."""
    settings = config.decontaminate.model_copy(
        update={"semantic": config.decontaminate.semantic.model_copy(update={"state": "off"})}
    )
    items = list(usable(settings))
    planted = plant(sample, items, settings, seed)
    facts = {"sets": sorted({item.eval for item in items}), "items": len(items), "planted": len(planted), "kinds": {}}
    if not planted:
        return facts
    used = {record.id: record for record in sample[len(planted) :]} | {one.record.id: one.record for one in planted}
    left = run_on(used.values(), config.model_copy(update={"stages": (NAME,), NAME: settings, "allow_wipeout": True}))
    tallies, missed = judge(planted, used, items, left)
    return facts | {"kinds": {kind: tally.facts() for kind, tally in tallies.items()}, "missed": missed[:LISTED]}


def usable(settings: DecontaminateSettings) -> Iterator[Item]:
    """The items of sets under the general rules that are long enough and have no n-gram that others share."""
    overrides = {name: each.fields for name, each in settings.evals.items() if each.fields is not None}
    table = load(settings.against or cached(), overrides=overrides).table.select(["eval", "item", "question"])
    names = table.column("eval").to_pylist()
    ruled = {name for name in names for given in settings.evals if name == given or name.startswith(f"{given}/")}
    found = [
        (name, item, text, words(text))
        for name, item, text in zip(names, *(table.column(k).to_pylist() for k in (1, 2)), strict=True)
        if name not in ruled
    ]
    size = min(settings.ngram.size, ENOUGH)
    counts = Counter((name, gram) for name, _, _, said in found for n in {size, PHRASE} for gram in set(runs(said, n)))
    for name, item, text, said in found:
        common = any(counts[name, gram] >= settings.boilerplate.items for gram in runs(said, size))
        if ENOUGH <= len(said) <= LONGEST and not common:
            phrases = [gram for gram in runs(said, PHRASE) if counts[name, gram] >= settings.boilerplate.items]
            stock = {pair for phrase in phrases for pair in runs(phrase, 2)}
            if bigrams := frozenset(set(runs(said, 2)) - stock):
                yield Item(name, item, text, bigrams)


def runs(spoken: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every `size` words in a row."""
    return [tuple(spoken[at : at + size]) for at in range(len(spoken) - size + 1)]


def plant(sample: Sequence[Record], items: Sequence[Item], settings: DecontaminateSettings, seed: int) -> list[Planted]:
    """Give the first half of the sample an item each, kind by kind in turn, below the text of a message in scope."""
    draw = random.Random(seed)
    chosen = draw.sample(list(items), min(len(items), len(sample) // 2))
    return [
        _planted(KINDS[number % len(KINDS)], number, record, item, settings, draw)
        for number, (record, item) in enumerate(zip(sample, chosen, strict=False))
    ]


def _planted(
    kind: str, number: int, record: Record, item: Item, settings: DecontaminateSettings, draw: random.Random
) -> Planted:
    spoken = words(item.text)
    if kind == SHUFFLED:
        copy = " ".join(draw.sample(spoken, len(spoken)))
    elif kind == QUOTED:
        copy = " ".join(spoken[: _too_little(len(spoken), settings)])
    else:
        copy = COPIES[kind](item.text, draw)
    held = set(runs(words(copy), 2))
    share = len(item.bigrams & held) / len(item.bigrams)
    role = "assistant" if settings.scope == "assistant" else "user"
    at = next((index for index, m in enumerate(record.messages) if m.role == role and m.content), None)
    planted = at is not None and kind in COPIES
    due = _promised(share, len(item.bigrams), words(copy) == spoken, settings) if planted else ""
    messages = list(record.messages)
    if at is not None:
        messages[at] = replace(messages[at], content=f"{messages[at].content}\n\n{copy}\n")
    made = replace(record, messages=messages, source="selftest", file=f"planted/{kind}", row=number, part=0)
    stays = kind not in COPIES and share < settings.bigram.threshold
    return Planted(kind, made, item, share, due, stays)


def _too_little(length: int, settings: DecontaminateSettings) -> int:
    """The words of an item that no rule removes: half of what the n-gram and the bigram rule ask for, and no 13-gram."""
    most = int(length * min(settings.ngram.threshold, settings.bigram.threshold) / 2)
    return min(most, settings.any13.size - 1) if settings.any13.state == "on" else most


def _promised(share: float, bigrams: int, whole: bool, settings: DecontaminateSettings) -> str:
    """What the settings promise of the copy: "on" (it goes), "flag" (it is marked) or "" (nothing)."""
    bigram, ngram = settings.bigram, settings.ngram
    states = set()
    if bigrams >= max(bigram.sure, bigram.least) and share > bigram.threshold:
        states.add(str(bigram.state))
    if whole and ngram.size <= ENOUGH:
        states.add(str(ngram.state))
    if "on" in states and not settings.report_only:
        return "on"
    return "flag" if states - {"off"} else ""


def judge(
    planted: Sequence[Planted], records: dict[str, Record], items: Sequence[Item], left: Left
) -> tuple[dict[str, Tally], list[dict[str, Any]]]:
    """Count by kind: copies that had to be found, and what was removed for an item that it does not hold; the missed."""
    tallies = {kind: Tally() for kind in (*KINDS, OWN)}
    missed = []
    for one in planted:
        tally, ident = tallies[one.kind], one.record.id
        gone = ident in left.removed
        found = (ident, one.item.eval, one.item.name) in left.leaks
        tally.pairs += 1
        tally.similarities.append(one.share)
        tally.due += bool(one.due)
        if one.due and found and (gone or (one.due == "flag" and ident in left.marked)):
            tally.parted += 1
        elif one.due:
            about = {"kind": one.kind, "eval": one.item.eval, "item": one.item.name, "bigrams": one.share}
            missed.append({**about, "matched": found, "removed": gone})
        tally.removed += gone
        tally.wrong += gone and one.stays and left.removed[ident][1] == f"{one.item.eval}#{one.item.name}"
    texts = {f"{item.eval}#{item.name}": item.text for item in items}
    for ident in left.removed.keys() - {one.record.id for one in planted}:
        tallies[OWN].removed += 1
        held = set(words("\n".join(message.content or "" for message in records[ident].messages)))
        wanted = set(words(texts.get(left.removed[ident][1], "")))
        tallies[OWN].wrong += bool(wanted) and len(wanted & held) <= ALIEN * len(wanted)
    return tallies, missed
