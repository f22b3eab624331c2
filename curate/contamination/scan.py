"""One pass over texts: which n-grams, bigram windows and whole runs of words of evaluation items they hold.

A text is split into tokens and words once, in scratch memory that stays in cache. Its n-grams are asked of the hash sets
of the index. For the bigram rule each item has a few bigrams, its rarest, of which a text must hold SOME to hold more than
the threshold of all (a prefix filter: Chaudhuri et al. 2006); only then are the others counted, rarest first, giving up
as soon as too many are missing, and only then the best window is sought. Short items and questions with answers are found
by the hash of their last words and then compared word by word.

Cost: linear in the text, a few nanoseconds a byte, about the same for a thousand and for a million items; memory is the
index and 50 bytes a word of the longest text.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.compiled import compiled
from curate.contamination.lookup import Sets, find, passing
from curate.contamination.tokens import (
    NO_WIDE,
    PLAIN,
    SIGNS,
    canonical,
    operator_table,
    scratch_for,
    split_tokens,
)
from curate.splitting import Bytes, Hashes, Ints
from curate.stages.text import buffers

BIGRAM: Final = 100  # kinds of hits; below these, the number of an n-gram table
RUN: Final = 101
POWER: Final = np.uint64(0x9E3779B97F4A7C15)  # the odd multiplier of the polynomial
MULTIPLY: Final = np.uint64(0xC4CEB9FE1A85EC53)
HALF: Final = np.uint64(32)
NO_SIGNS: Final = np.zeros(0, np.uint64)
NO_SIGNS.flags.writeable = False
SOME: Final = 2  # of an item's rarest bigrams that a text must hold before the others are counted
TAIL: Final = 3  # words at the end of a run that are looked up
PLAIN_RUN: Final = 16  # a run of more words is compared only where its hash agrees
MOST_RUNS: Final = 4_096  # of one item in one text; one that is there more often is there
WIDTH: Final = 6  # of a hit: message, kind, key or item, value, first word, last word + 1


class Plan(NamedTuple):
    """What a scan looks for; the sets are the n-gram tables, then rare bigrams, then tails.

    `size` and `every` are of the n-gram tables: tokens an n-gram, and 1 where operators count. Key k of any set stands
    for the items `owner[owner_at[k]:owner_at[k+1]]`. Item i has the distinct bigrams `bigrams[bigram_at[i]:...]`, rarest
    first; `allowed[i]` may be missing (-1: no such rule) from a window of `window[i]` words: a text must hold `some[i]` of the
    first `allowed[i] + some[i]`. `runs[i]` says whether its words `words[word_at[i]:word_at[i+1]]`, whose polynomial hash is
    `run_hash[i]`, are sought as a run. `tails` has 1 where runs end in that many words.
    """

    sets: Sets
    size: Ints
    every: Ints
    owner_at: Ints
    owner: Ints
    bigram_at: Ints
    bigrams: Hashes
    allowed: Ints
    some: Ints
    window: Ints
    runs: NDArray[np.bool_]
    word_at: Ints
    words: Hashes
    run_hash: Hashes
    tails: Ints


class Scratch(NamedTuple):
    """Memory that a scan reuses from text to text, for texts of at most `grams.size` tokens."""

    grams: Hashes
    slots: NDArray[np.int32]
    following: NDArray[np.int32]
    passed: Ints
    seen: Ints
    places: Ints
    owners: Ints
    counts: Ints
    met: Ints
    times: Ints
    held: Ints


@compiled
def _mix(value: np.uint64) -> np.uint64:
    value = (value ^ (value >> HALF)) * MULTIPLY
    return value ^ (value >> HALF)


@compiled
def _grams(tokens: Hashes, count: int, size: int, out: Hashes) -> int:
    """Hash every run of `size` tokens; returns how many there are."""
    if count < size:
        return 0
    total = np.uint64(0)
    leave = np.uint64(1)
    for item in range(size):
        total = total * POWER + tokens[item]
        if item:
            leave *= POWER
    out[0] = _mix(total)
    for item in range(1, count - size + 1):
        total = (total - tokens[item - 1] * leave) * POWER + tokens[item + size - 1]
        out[item] = _mix(total)
    return count - size + 1


@compiled
def _put(out: Any, at: int, message: int, kind: int, key: int, value: int, start: int, stop: int) -> int:
    """Add a hit; past the end of `out` hits are only counted."""
    if at < out.shape[0]:
        out[at, 0], out[at, 1], out[at, 2], out[at, 3], out[at, 4], out[at, 5] = message, kind, key, value, start, stop
    return at + 1


@compiled
def _chain(bigrams: Hashes, count: int, slots: NDArray[np.int32], following: NDArray[np.int32]) -> np.uint64:
    """Index the bigrams of a text: `slots` holds the first place of each, `following` the next one of the same.

    Of equal bigrams in a row only the first and the last are there: a window between them holds no other.
    """
    room = 16
    while room < 2 * count:
        room *= 2
    mask = np.uint64(room - 1)
    slots[:room] = -1
    for item in range(count - 1, -1, -1):  # from the end, so that chains run forward
        if 0 < item < count - 1 and bigrams[item - 1] == bigrams[item] and bigrams[item + 1] == bigrams[item]:
            continue
        at = bigrams[item] & mask
        while slots[at] >= 0 and bigrams[slots[at]] != bigrams[item]:
            at = (at + np.uint64(1)) & mask
        following[item] = slots[at]
        slots[at] = item
    return mask


@compiled
def _first(bigrams: Hashes, slots: NDArray[np.int32], mask: np.uint64, key: np.uint64) -> int:
    """The first place of a bigram in a text, -1 when it is not there."""
    at = key & mask
    while slots[at] >= 0:
        if bigrams[slots[at]] == key:
            return int(slots[at])
        at = (at + np.uint64(1)) & mask
    return -1


@compiled
def _window(plan: Plan, item: int, scratch: Scratch, mask: np.uint64) -> tuple[int, int, int]:
    """The most distinct bigrams of an item in one window of a text, and the first and last place among them."""
    begin, end = plan.bigram_at[item], plan.bigram_at[item + 1]
    missing = 0
    found = 0
    for k in range(begin, end):
        at = _first(scratch.grams, scratch.slots, mask, plan.bigrams[k])
        if at < 0:
            missing += 1
            if missing > plan.allowed[item]:
                return 0, 0, 0
        while at >= 0:
            scratch.places[found] = at
            scratch.owners[found] = k - begin
            found += 1
            at = np.int64(scratch.following[at])
    order = np.argsort(scratch.places[:found])
    counts = scratch.counts
    counts[: end - begin] = 0
    left = 0
    distinct = 0
    best, first, last = 0, 0, 0
    for right in range(found):
        place, owner = scratch.places[order[right]], scratch.owners[order[right]]
        distinct += counts[owner] == 0
        counts[owner] += 1
        while place - scratch.places[order[left]] > plan.window[item] - 2:
            other = scratch.owners[order[left]]
            counts[other] -= 1
            distinct -= counts[other] == 0
            left += 1
        while counts[scratch.owners[order[left]]] > 1:  # a repeat at the left edge adds nothing
            counts[scratch.owners[order[left]]] -= 1
            left += 1
        if distinct > best:
            best, first, last = distinct, scratch.places[order[left]], place
    return best, first, last


@compiled
def _bigrams(plan: Plan, which: int, count: int, some: int, message: int, scratch: Scratch, out: Any, at: int) -> int:
    """Add the items whose bigrams a text holds closely enough; `some` of the `count` in `scratch.grams` may be rare."""
    grams, passed = scratch.grams, scratch.passed
    mask = np.uint64(0)
    for one in range(some):
        place = passed[one]
        key = grams[place]
        if place and grams[place - 1] == key:
            continue
        number = find(plan.sets, which, key)
        if number < 0:
            continue
        for k in range(plan.owner_at[number], plan.owner_at[number + 1]):
            item = plan.owner[k]
            if scratch.seen[item] != message:
                scratch.seen[item] = message
                scratch.held[item] = 0
            scratch.held[item] += 1  # one that the text holds twice may count twice: the window decides
            if scratch.held[item] != plan.some[item]:
                continue
            if plan.bigram_at[item + 1] - plan.bigram_at[item] - plan.allowed[item] > count:
                continue  # fewer bigrams in the text than must be found
            if mask == 0:
                mask = _chain(scratch.grams, count, scratch.slots, scratch.following)
            best, first, last = _window(plan, item, scratch, mask)
            if best and plan.bigram_at[item + 1] - plan.bigram_at[item] - best <= plan.allowed[item]:
                at = _put(out, at, message, BIGRAM, item, best, first, last + 2)
    return at


@compiled
def _power(exponent: int) -> np.uint64:
    """POWER to the `exponent`."""
    out, base = np.uint64(1), POWER
    while exponent:
        if exponent & 1:
            out *= base
        base *= base
        exponent >>= 1
    return out


@compiled
def _prefixes(words: Hashes, count: int) -> Hashes:
    """The polynomial hash of the first n words, for every n."""
    out = np.empty(count + 1, np.uint64)
    out[0] = 0
    for item in range(count):
        out[item + 1] = out[item] * POWER + words[item]
    return out


@compiled
def _same(plan: Plan, item: int, words: Hashes, start: int, length: int, prefixes: Hashes) -> bool:
    """Whether a text's words from `start` are those of an item; long ones are compared only where their hash agrees."""
    begin = plan.word_at[item]
    if length > PLAIN_RUN:
        for j in range(length - PLAIN_RUN, length):
            if words[start + j] != plan.words[begin + j]:
                return False
        if prefixes[start + length] - prefixes[start] * _power(length) != plan.run_hash[item]:
            return False
    for j in range(length - 1, -1, -1):  # noqa: SIM110 - compiled: a loop is what numba takes
        if words[start + j] != plan.words[begin + j]:
            return False
    return True


@compiled
def _runs(plan: Plan, which: int, words: Hashes, count: int, message: int, scratch: Scratch, out: Any, at: int) -> int:
    """Add the items whose words stand in a text one after the other."""
    prefixes = np.empty(0, np.uint64)
    grams, passed = scratch.grams, scratch.passed
    for size in range(1, TAIL + 1):
        if not plan.tails[size]:
            continue
        made = _grams(words, count, size, grams)
        some = passing(
            plan.sets.filter, np.uint64(plan.sets.filter_at[which]), plan.sets.mask[which], grams, made, passed
        )
        for one in range(some):
            place = passed[one]
            number = find(plan.sets, which, grams[place])
            if number < 0:
                continue
            for k in range(plan.owner_at[number], plan.owner_at[number + 1]):
                item = plan.owner[k]
                length = plan.word_at[item + 1] - plan.word_at[item]
                start = place + size - length
                if start < 0 or (size < TAIL and size != length):
                    continue
                if length > PLAIN_RUN and prefixes.size == 0:
                    prefixes = _prefixes(words, count)
                if scratch.met[item] != message:
                    scratch.met[item] = message
                    scratch.times[item] = 0
                if scratch.times[item] < MOST_RUNS and _same(plan, item, words, start, length, prefixes):
                    scratch.times[item] += 1
                    at = _put(out, at, message, RUN, item, length, start, start + length)
    return at


@compiled
def _known(plan: Plan, table: int, made: int, some: int, message: int, scratch: Scratch, out: Any, at: int) -> int:
    """Add the n-grams of a table among the `some` of the `made` in `scratch.grams` that its filter let through."""
    grams, passed = scratch.grams, scratch.passed
    for k in range(some):
        place = passed[k]
        if 0 < place < made - 1 and grams[place - 1] == grams[place] and grams[place + 1] == grams[place]:
            continue  # one symbol over and over: its ends say all there is to say
        number = find(plan.sets, table, grams[place])
        if number >= 0:
            at = _put(out, at, message, table, number, 1, place, place + plan.size[table])
    return at


@compiled
def _scan(
    plan: Plan, data: Bytes, at: Ints, todo: Ints, wide: Any, signs: Hashes, scratch: Scratch, failed: Ints, out: Any
) -> int:
    """The hits in the texts `todo`; returns their number, which may be more than `out` has room for."""
    longest = 0
    for message in todo:
        longest = max(longest, at[message + 1] - at[message])
    room = scratch_for(longest)
    words, every, grams, passed = room[3], room[4], scratch.grams, scratch.passed
    filters, bases, masks = plan.sets.filter, plan.sets.filter_at, plan.sets.mask
    sizes, operators, tables = plan.size, plan.every, plan.size.size
    runs, bigrams = plan.tails[0] > 0, plan.bigrams.size > 0
    found = 0
    for message in todo:
        said, count = split_tokens(data, at[message], at[message + 1], wide, signs, room)
        failed[message] = min(said, 0)
        for table in range(tables):
            size = sizes[table]
            made = _grams(every, count, size, grams) if operators[table] else _grams(words, said, size, grams)
            some = passing(filters, np.uint64(bases[table]), masks[table], grams, made, passed)
            if some:
                found = _known(plan, table, made, some, message, scratch, out, found)
        if runs and said > 0:
            found = _runs(plan, tables + 1, words, said, message, scratch, out, found)
        if bigrams and said > 1:
            made = _grams(words, said, 2, grams)
            some = passing(filters, np.uint64(bases[tables]), masks[tables], grams, made, passed)
            if some:
                found = _bigrams(plan, tables, made, some, message, scratch, out, found)
    return int(found)


def scan(plan: Plan, texts: Any) -> NDArray[np.int32]:
    """The hits in a large_string array, int32 (n, WIDTH), by message, and within one in the order found."""
    data, at = buffers(texts)
    size = len(at) - 1
    failed = np.zeros(size, np.int64)
    signs = SIGNS if plan.every.any() else NO_SIGNS
    parts = [_grown(plan, data, at, np.arange(size), NO_WIDE, signs, failed)]
    todo = np.flatnonzero(failed == -1)
    if len(todo):
        parts.append(_grown(plan, data, at, todo, operator_table(), signs, failed))
    slow = np.flatnonzero(failed == -2)
    if len(slow):
        simple = [canonical(text) for text in texts.take(pa.array(slow)).to_pylist()]
        data, at = buffers(pa.array(simple, pa.large_string()))
        found = _grown(plan, data, at, np.arange(len(slow)), PLAIN, signs, np.zeros(len(slow), np.int64))
        found[:, 0] = slow[found[:, 0]]
        parts.append(found)
    hits = np.concatenate(parts)
    return hits[np.argsort(hits[:, 0], kind="stable")]


def _grown(plan: Plan, data: Bytes, at: Ints, todo: Ints, wide: Any, signs: Hashes, failed: Ints) -> NDArray[np.int32]:
    """What `_scan` finds; asked again with more room when there was too little."""
    room = 1 << 14
    scratch = _scratch(plan, 3 * int((at[todo + 1] - at[todo]).max(initial=0)) + 1)
    while True:
        scratch.seen[:] = -1
        scratch.met[:] = -1
        out = np.empty((room, WIDTH), np.int32)
        found = _scan(plan, data, at, todo, wide, signs, scratch, failed, out)
        if found <= room:
            return out[:found]
        room = int(found)


def _scratch(plan: Plan, room: int) -> Scratch:
    slots = 16
    while slots < 2 * room:
        slots *= 2
    most = int(np.diff(plan.bigram_at).max(initial=1))
    return Scratch(
        np.empty(room, np.uint64),
        np.empty(slots, np.int32),
        np.empty(room, np.int32),
        np.empty(room, np.int64),
        np.full(len(plan.allowed), -1, np.int64),
        np.empty(room, np.int64),
        np.empty(room, np.int64),
        np.empty(most, np.int64),
        np.full(len(plan.allowed), -1, np.int64),
        np.zeros(len(plan.allowed), np.int64),
        np.zeros(len(plan.allowed), np.int64),
    )
