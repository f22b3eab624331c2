"""Eval sets -> `EvalIndex`: n-grams sorted and looked at for boilerplate, each item's rarest bigrams, its last words.

Boilerplate of an eval set is left out here: n-grams that `shared` or more of its items hold; for the bigram rule the
bigrams inside runs of GUARD words that so many hold, or the whole item where it is shorter. What was left out is listed.

Cost: sorting the n-grams: about a second for 40,000 items of 50 words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.contamination.index import EvalIndex
from curate.contamination.lookup import build
from curate.contamination.offered import MOST
from curate.contamination.rules import Rules, needed
from curate.contamination.scan import POWER, SOME, TAIL, Plan, _grams
from curate.contamination.tokens import Tokens, tokenise
from curate.splitting import Hashes, Ints
from curate.stages.text import joined, whole

GUARD: Final = 5  # words of a run that, shared by several items, is a phrase and not an item
NEVER: Final = 1 << 40
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Entries:
    """Keys of one hash set, sorted, with repeats: each with the item it stands for and its place there."""

    keys: Hashes
    item: Ints
    place: Ints


@dataclass(frozen=True, slots=True)
class Asked:
    """The items as tokens, with the eval of each and the rules of each eval."""

    tokens: Tokens
    answers: Tokens
    eval_of: Ints
    rules: tuple[Rules, ...]

    def per_item(self, value: Any) -> NDArray[Any]:
        """A value of the rules, for each item."""
        return np.array([value(each) for each in self.rules])[self.eval_of]

    @property
    def spoken(self) -> Ints:
        """Words an item."""
        return np.diff(self.tokens.word_at)


def build_index(table: pa.Table, rules: Mapping[str, Rules], shared: int) -> EvalIndex:
    """Index a table of eval, item, question, answer and perhaps choices, sorted by eval, under the rules of each eval."""
    evals = tuple(rules)
    numbers = {name: number for number, name in enumerate(evals)}
    eval_of = np.array([numbers[name] for name in table.column("eval").to_pylist()], np.int64)
    answers = tokenise(joined(table.column("answer")))
    asked = Asked(tokenise(joined(table.column("question"))), answers, eval_of, tuple(rules.values()))
    tables = tuple(sorted({entry for each in asked.rules for entry in each.tables().values()}))
    found = [_ngrams(asked, entry, shared) for entry in tables]
    choices, choice_of = _choices(table)
    common, again, alike = _repeated(asked, choices, choice_of, shared)
    bigrams, at, dropped = _bigrams(asked, common, shared)
    counts = np.diff(at)
    least = asked.per_item(lambda each: each.bigram.least if each.active("bigram") else 0)
    short = (counts < least) & (asked.spoken > 0) & ~common & ((counts > 0) | (asked.spoken <= least))
    extent = asked.per_item(lambda each: each.answer.least if each.active("answer") else NEVER)
    answered = (asked.spoken > 0) & (np.diff(answers.word_at) > 0) & ~again
    answered &= asked.spoken + np.diff(answers.word_at) >= extent
    several = (np.diff(choice_of) > 1) & (np.diff(choice_of) <= MOST)
    offered = several & (asked.spoken > 0) & ~alike & (asked.spoken + np.diff(choices.word_at[choice_of]) >= extent)
    allowed = _allowed(asked, counts, least)
    some = np.where(allowed < 0, 0, np.minimum(SOME, counts - allowed))
    exact = (allowed >= 0) & (counts < asked.per_item(lambda each: each.bigram.sure))
    tails, lengths = _tails(asked.tokens, short | exact | answered | offered)
    entries = [*(kept for kept, _ in found), _rarest(bigrams, at, allowed + some), tails]
    unique = [np.unique(part.keys, return_counts=True) for part in entries]
    plan = Plan(
        sets=build([keys for keys, _ in unique]),
        size=np.array([size for size, _ in tables], np.int64),
        every=np.array([every for _, every in tables], np.int64),
        owner_at=_ends(np.concatenate([repeats for _, repeats in unique])),
        owner=np.concatenate([part.item for part in entries]),
        bigram_at=at,
        bigrams=bigrams,
        allowed=allowed,
        some=some,
        window=np.ceil(asked.spoken * asked.per_item(lambda each: each.bigram.window)).astype(np.int64),
        runs=short | exact | answered | offered,
        word_at=asked.tokens.word_at,
        words=asked.tokens.words,
        run_hash=_run_hashes(asked.tokens.words, asked.tokens.word_at),
        tails=lengths,
    )
    return EvalIndex(
        evals=evals,
        tables=tables,
        items=table.select(["eval", "item", "question", "answer"]).combine_chunks(),
        eval_of=eval_of,
        tokens=np.diff(asked.tokens.at),
        place=np.concatenate([part.place for part in entries]),
        short=short,
        exact=exact,
        answered=answered,
        answers=answers.words,
        answer_at=answers.word_at,
        offered=offered,
        choices=choices.words,
        choice_at=choices.word_at,
        choice_of=choice_of,
        common=common,
        dropped=np.concatenate([dropped, *(rows for _, rows in found)]),
        plan=plan,
    )


def _choices(table: pa.Table) -> tuple[Tokens, Ints]:
    """The choices that have a word, and where those of each item begin."""
    if "choices" not in table.column_names:
        return tokenise(pa.array([], pa.large_string())), np.zeros(table.num_rows + 1, np.int64)
    lists = whole(table.column("choices"))
    sizes = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    texts = joined(lists.flatten())
    live = np.diff(tokenise(texts).word_at) > 0
    owner = np.repeat(np.arange(len(lists)), sizes)[live]
    return tokenise(texts.filter(pa.array(live))), _ends(np.bincount(owner, minlength=len(lists)))


def _ends(sizes: NDArray[Any]) -> Ints:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


@compiled
def _collect(values: Hashes, at: Ints, items: Ints, size: int, hashes: Hashes, item: Ints, place: Ints) -> int:
    """Write every n-gram of `items` with its item and place; returns how many."""
    made = 0
    for k in range(items.size):
        begin, end = at[items[k]], at[items[k] + 1]
        count = _grams(values[begin:end], end - begin, size, hashes[made:])
        for j in range(count):
            item[made + j] = items[k]
            place[made + j] = j
        made += count
    return made


def _sorted(values: Hashes, at: Ints, items: Ints, size: int) -> Entries:
    """Every n-gram of `items`, sorted by hash, then item, then place."""
    room = int((at[items + 1] - at[items]).sum()) if len(items) else 0
    hashes, item, place = np.empty(room, np.uint64), np.empty(room, np.int64), np.empty(room, np.int64)
    made = _collect(values, at, items, size, hashes, item, place)
    order = np.argsort(hashes[:made], kind="stable")
    return Entries(hashes[:made][order], item[:made][order], place[:made][order])


@compiled
def _sharing(keys: Hashes, item: Ints, eval_of: Ints, out: Ints) -> None:
    """For each entry, sorted by key and item: how many items of its eval have the same key."""
    start = 0
    while start < keys.size:
        stop = start
        items = 0
        while stop < keys.size and keys[stop] == keys[start] and eval_of[item[stop]] == eval_of[item[start]]:
            items += stop == start or item[stop] != item[stop - 1]
            stop += 1
        out[start:stop] = items
        start = stop


def _counted(found: Entries, eval_of: Ints) -> Ints:
    out = np.zeros(len(found.keys), np.int64)
    _sharing(found.keys, found.item, eval_of, out)
    return out


def _ngrams(asked: Asked, entry: tuple[int, bool], shared: int) -> tuple[Entries, Ints]:
    """The entries of one n-gram table without boilerplate, and the rows of `dropped` for what was boilerplate."""
    size, every = entry
    items = np.flatnonzero(asked.per_item(lambda each: entry in each.tables().values()))
    tokens = asked.tokens
    found = _sorted(*((tokens.every, tokens.at) if every else (tokens.words, tokens.word_at)), items, size)
    count = _counted(found, asked.eval_of)
    live = count < shared
    return Entries(found.keys[live], found.item[live], found.place[live]), _rows(
        found, ~live, size, count, asked.eval_of, every
    )


def _rows(found: Entries, which: Bools, size: int, count: Ints, eval_of: Ints, every: bool = False) -> Ints:
    """Rows of `dropped`, one for each n-gram of an eval: item, place, size (negative: of tokens), items that share it."""
    keys, item = found.keys[which], found.item[which]
    first = np.ones(len(keys), np.bool_)
    first[1:] = (keys[1:] != keys[:-1]) | (eval_of[item[1:]] != eval_of[item[:-1]])
    sizes = np.full(int(first.sum()), -size if every else size, np.int64)
    return np.stack([item[first], found.place[which][first], sizes, count[which][first]], axis=1)


def _repeated(asked: Asked, choices: Tokens, choice_of: Ints, shared: int) -> tuple[Bools, Bools, Bools]:
    """Items whose question, question with answer, and with choices in any order, `shared` or more of their eval have."""
    size = len(asked.eval_of)
    question = _whole(asked.tokens.words, asked.tokens.word_at)
    options = np.zeros(size, np.uint64)
    np.add.at(options, np.repeat(np.arange(size), np.diff(choice_of)), _whole(choices.words, choices.word_at))
    answer = _whole(asked.answers.words, asked.answers.word_at)
    found = []
    for keys in (question, question * POWER + answer, question * POWER + options):
        order = np.lexsort((np.arange(size), asked.eval_of, keys))
        counts = np.zeros(size, np.int64)
        counts[order] = _counted(Entries(keys[order], order, order), asked.eval_of)
        found.append(counts >= shared)
    return found[0], found[1], found[2]


def _whole(values: Hashes, at: Ints) -> Hashes:
    out = np.zeros(len(at) - 1, np.uint64)
    _hash_whole(values, at, out)
    return out


@compiled
def _hash_whole(values: Hashes, at: Ints, out: Hashes) -> None:
    room = np.empty(1, np.uint64)
    for item in range(out.size):
        if at[item + 1] > at[item]:
            _grams(values[at[item] : at[item + 1]], at[item + 1] - at[item], at[item + 1] - at[item], room)
            out[item] = room[0]


def _bigrams(asked: Asked, common: Bools, shared: int) -> tuple[Hashes, Ints, Ints]:
    """The distinct bigrams of each item that count, rarest first, where each item's begin, and rows of `dropped`."""
    values, at = asked.tokens.words, asked.tokens.word_at
    items = np.flatnonzero(asked.per_item(lambda each: each.active("bigram")))
    runs = _sorted(values, at, items, GUARD)
    count = _counted(runs, asked.eval_of)
    dead = np.zeros(len(values) + 1, np.int64)  # begins and ends of boilerplate, then how deep each word stands in it
    where = at[runs.item[count >= shared]] + runs.place[count >= shared]
    np.add.at(dead, where, 1)
    np.add.at(dead, where + GUARD - 1, -1)  # the last word of a run begins no bigram inside it
    found = _sorted(values, at, items[~common[items]], 2)
    live = np.cumsum(dead)[at[found.item] + found.place] == 0
    keys, item = found.keys[live], found.item[live]
    first = np.ones(len(keys), np.bool_)
    first[1:] = (keys[1:] != keys[:-1]) | (item[1:] != item[:-1])
    keys, item = keys[first], item[first]
    _, number, spread = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.lexsort((keys, spread[number], item))
    rows = _rows(runs, count >= shared, GUARD, count, asked.eval_of)
    return keys[order], _ends(np.bincount(item, minlength=len(asked.eval_of))), rows


def _allowed(asked: Asked, counts: Ints, least: Ints) -> Ints:
    """How many bigrams of each item may be missing; -1 where the bigram rule does not count them."""
    out = np.full(len(counts), -1, np.int64)
    for number, each in enumerate(asked.rules):
        if not each.active("bigram"):
            continue
        mine = np.flatnonzero((asked.eval_of == number) & (counts >= least) & (counts > 0))
        sizes, inverse = np.unique(counts[mine], return_inverse=True)
        most = np.array([size - needed(int(size), each.bigram.threshold) for size in sizes], np.int64)
        out[mine] = most[inverse]
    return out


def _rarest(bigrams: Hashes, at: Ints, most: Ints) -> Entries:
    """Of each item its `most` rarest bigrams."""
    item = np.repeat(np.arange(len(most)), np.diff(at))
    chosen = np.flatnonzero(np.arange(len(bigrams)) - at[item] < most[item])
    chosen = chosen[np.lexsort((item[chosen], bigrams[chosen]))]
    return Entries(bigrams[chosen], item[chosen], np.zeros(len(chosen), np.int64))


def _tails(tokens: Tokens, wanted: Bools) -> tuple[Entries, Ints]:
    """The last words of the items that are sought word for word, and which lengths these have."""
    items = np.flatnonzero(wanted)
    keys = np.zeros(len(items), np.uint64)
    _hash_tails(tokens.words, tokens.word_at, items, keys)
    order = np.lexsort((items, keys))
    lengths = np.zeros(TAIL + 1, np.int64)
    lengths[np.minimum(np.diff(tokens.word_at)[items], TAIL)] = 1
    lengths[0] = len(items) > 0
    return Entries(keys[order], items[order], np.zeros(len(items), np.int64)), lengths


@compiled
def _run_hashes(words: Hashes, at: Ints) -> Hashes:
    """The polynomial hash of each item's words, as the scan compares it."""
    out = np.zeros(at.size - 1, np.uint64)
    for item in range(at.size - 1):
        for place in range(at[item], at[item + 1]):
            out[item] = out[item] * POWER + words[place]
    return out


@compiled
def _hash_tails(values: Hashes, at: Ints, items: Ints, out: Hashes) -> None:
    room = np.empty(1, np.uint64)
    for k in range(items.size):
        size = min(at[items[k] + 1] - at[items[k]], TAIL)
        _grams(values[at[items[k] + 1] - size : at[items[k] + 1]], size, size, room)
        out[k] = room[0]
