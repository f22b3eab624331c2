"""Groups of records at known distances, made from a sample of the user's own: one kind of edit a group.

A group is either an original with one copy (near at every distance), or a few records that only look alike: one
template with other numbers, one famous text quoted in different records. Cost: about 2 ms a planted pair.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from curate.record import Record
from curate.selftest import edits
from curate.selftest.measuring import Alike, jaccard, keyed, shingles, words

Edit = Callable[[str, random.Random], str]

SIBLINGS: Final = 3
ENOUGH: Final = 12  # words of a text that is edited; shorter ones are only copied
LONGEST: Final = 1_500  # words of a text that is edited: keeps the search for a given similarity short
COPIES: Final[dict[str, Edit]] = {
    "exact copy": lambda text, draw: text,
    "other white space": edits.re_spaced,
    "re-cased": edits.re_cased,
    "1 word in 20 changed": edits.one_in(20),
    "1 word in 10 changed": edits.one_in(10),
    "1 word in 5 changed": edits.one_in(5),
    "sentences reordered": edits.reordered,
    "truncated": edits.truncated,
    "said otherwise": edits.said_otherwise,
}
ABOVE: Final = "just above the threshold"
BELOW: Final = "just below the threshold"
TEMPLATE: Final = "template, other numbers"
QUOTED: Final = "same text quoted"
KINDS: Final = (*COPIES, ABOVE, BELOW, TEMPLATE, QUOTED)
SHARES: Final = {ABOVE: 4, BELOW: 2}  # where a stage errs first; every other kind has one share of the sample
SHORT: Final = ("exact copy", "other white space", "re-cased")  # kinds that any text is good for


@dataclass(frozen=True, slots=True)
class Group:
    """Records of one kind that belong together; any two of them are a planted pair.

    `made_of` are ids of the sample that these records stand for: those are left out.
    """

    kind: str
    records: tuple[Record, ...]
    made_of: tuple[str, ...] = ()


def plant(sample: Sequence[Record], alike: Alike | None, seed: int) -> list[Group]:
    """Deal the sample out among the kinds, by their shares; a record that a kind cannot use goes to the next one that can.

    `alike` is what `minhash` promises, None where it does not run: then nothing is planted at its threshold.
    """
    draw = random.Random(seed)
    kinds = [kind for kind in KINDS if alike is not None or kind not in (ABOVE, BELOW)]
    measure = alike or Alike("conversation", 1.0, 5)
    groups: list[Group] = []
    made = dict.fromkeys(kinds, 0)
    waiting: dict[str, list[Record]] = {}
    for record in sample:
        fit = ENOUGH <= len(words(measure.text(record))) <= LONGEST
        for kind in sorted(kinds, key=lambda kind: made[kind] / SHARES.get(kind, 1)):
            if not fit and kind not in SHORT:
                continue
            before = waiting.setdefault(kind, [])
            used = (*(other.id for other in before), record.id) if kind in (TEMPLATE, QUOTED) else ()
            group = _group(kind, record, before, measure, draw)
            if group is not None:
                made[kind] += 1
                groups.append(Group(kind, _numbered(kind, made[kind], group), used))
            if group is not None or before:
                break
    return groups


def _numbered(kind: str, number: int, records: Sequence[Record]) -> tuple[Record, ...]:
    """Planted records under places of their own; an original keeps its own."""
    return tuple(
        record
        if record.part >= 0
        else replace(record, source="selftest", file=f"planted/{kind}", row=number, part=index)
        for index, record in enumerate(records)
    )


def _group(kind: str, record: Record, waiting: list[Record], alike: Alike, draw: random.Random) -> list[Record] | None:
    """The records of one group, planted ones with part -1; None where this record is no good for the kind."""
    if kind in COPIES:
        copy = _edited(record, COPIES[kind], draw)
        changed = copy.messages != record.messages
        return [record, copy] if changed or kind == "exact copy" else None
    if kind == TEMPLATE:
        return _template(record, alike, draw)
    if kind == QUOTED:
        waiting.append(record)
        if len(waiting) < 2:
            return None
        pair = list(waiting)
        waiting.clear()
        return _quoted(pair, alike)
    found = _at_threshold(record, alike, draw)
    return None if found is None else [record, found[0] if kind == ABOVE else found[1]]


def _edited(record: Record, edit: Edit, draw: random.Random) -> Record:
    """A copy with every user and assistant text edited."""
    messages = [
        replace(m, content=edit(m.content, draw)) if m.content and m.role in ("user", "assistant") else m
        for m in record.messages
    ]
    return replace(record, messages=messages, part=-1)


def _longest(record: Record, alike: Alike) -> int | None:
    """Which message holds the most of the key text."""
    return max(_compared(record, alike), key=lambda at: len(record.messages[at].content or ""), default=None)


def _compared(record: Record, alike: Alike) -> list[int]:
    """The messages of the key text that have content."""
    compared = keyed(record.messages, alike.key, system=False)
    return [at for at, m in enumerate(record.messages) if m.content and any(m is other for other in compared)]


def _with(record: Record, at: int, text: str) -> Record:
    messages = list(record.messages)
    messages[at] = replace(messages[at], content=text)
    return replace(record, messages=messages, part=-1)


def _at_threshold(record: Record, alike: Alike, draw: random.Random) -> tuple[Record, Record] | None:
    """Two copies, one as little above the threshold as words allow, one as little below; None for a text too short.

    Words are replaced as long as the similarity stays above; new words after the text, one shingle each, do the rest.
    """
    at = _longest(record, alike)
    if at is None:
        return None
    last = _compared(record, alike)[-1]
    text = record.messages[at].content or ""
    slots = edits.places(text)
    draw.shuffle(slots)
    new = {slot: edits.fresh_word(draw) for slot in slots}
    more = [edits.fresh_word(draw) for _ in range(len(slots) + 8)]
    original = shingles(alike.text(record), alike.ngram)

    def copy(replaced: int, added: int) -> Record:
        chosen = sorted(slots[:replaced])
        names = iter([new[slot] for slot in chosen])
        made = _with(record, at, edits.replace(text, chosen, lambda: next(names)))
        return _with(made, last, " ".join([made.messages[last].content or "", *more[:added]])) if added else made

    def above(replaced: int, added: int) -> bool:
        return jaccard(original, shingles(alike.text(copy(replaced, added)), alike.ngram)) >= alike.threshold

    replaced = _last(lambda number: above(number, 0), len(slots))
    added = _last(lambda number: above(replaced, number), len(more))
    if replaced + added == 0 or added == len(more):
        return None
    return copy(replaced, added), copy(replaced, added + 1)


def _last(holds: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` for which something that gets less likely still holds, by halving."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _template(record: Record, alike: Alike, draw: random.Random) -> list[Record] | None:
    """Siblings of one template, made from the record, as few numbers apart as leaves every pair below the threshold."""
    at = _longest(record, alike)
    if at is None:
        return None
    text = record.messages[at].content or ""
    slots = edits.places(text)
    draw.shuffle(slots)
    for number in range(1, min(len(slots), 64) + 1):
        made = [_with(record, at, edits.numbered(text, slots[:number], draw)) for _ in range(SIBLINGS)]
        pairs = [(one, two) for index, one in enumerate(made) for two in made[:index]]
        if all(alike.similarity(one, two) < alike.threshold for one, two in pairs):
            return made
    return None


def _quoted(pair: Sequence[Record], alike: Alike) -> list[Record] | None:
    """Two records with the same famous text after their own, as much of it as leaves them below the threshold."""
    places = [_longest(record, alike) for record in pair]
    length = len(edits.FAMOUS.split())
    while length >= 8:
        made = [
            _with(record, at, edits.quoting(record.messages[at].content or "", length))
            for record, at in zip(pair, places, strict=True)
            if at is not None
        ]
        if len(made) < 2:
            return None
        if alike.similarity(*made) < alike.threshold:
            return made
        length //= 2
    return None
