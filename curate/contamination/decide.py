"""Hits of all records -> which items each record matches, by which rule, how strongly.

First the boilerplate of the user's own data is found: n-grams, and items of the bigram rule, that too many records hold
without holding the rest of the item. What is left is scored: the share of an item's tokens that lie in n-grams shared
with one message, the share of its bigrams in the best window of one message.

Cost: sorting the hits; nothing a record that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curate.contamination.index import EvalIndex
from curate.contamination.rules import Rules
from curate.contamination.scan import BIGRAM
from curate.contamination.sketching import ALONE, ANSWER, SHORT
from curate.splitting import Ints
from curate.stages.decontaminate_settings import RULES, Boilerplate

WHOLE: Final = 0.9  # of an item: a record that holds so much of it holds the item, not a phrase of it
FEW: Final = 3  # words of a short item that are enough to remove what has them among others
STRONGEST: Final = ("answer", "ngram", "bigram", "semantic", "any13")
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows as arrays of one length."""

    values: dict[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.values[name]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def take(self, rows: NDArray[Any]) -> Columns:
        """Some rows."""
        return Columns({name: value[rows] for name, value in self.values.items()})


@dataclass(frozen=True, slots=True)
class Decision:
    """What was found.

    `matches`: record, item, rule (its place in RULES), score, threshold, flag, message, start and stop (words), best
    first within a record. `ignored` (n, 2): keys of n-grams that are boilerplate of the records, and how many hold
    them; `passed` (n, 2): the same for items of the bigram rule.
    """

    matches: Columns
    ignored: Ints
    passed: Ints


def decide(
    index: EvalIndex,
    rules: Mapping[str, Rules],
    hits: Columns,
    records: int,
    guard: Boilerplate,
    close: Mapping[str, NDArray[Any]] | None = None,
) -> Decision:
    """Decide on the hits of `records` records: rows of record, message, kind, key, value, start, stop.

    `close` are the pairs of the semantic rule: record, message, item and score.
    """
    limit = max(guard.share * records, guard.records)
    each = [rules[name] for name in index.evals]
    parts: list[dict[str, NDArray[Any]]] = []
    ignored = []
    for number, entry in enumerate(index.tables):
        grams = _expanded(index, hits.take(hits["kind"] == number))
        size, length = entry[0], index.length(number)
        dead = _common(grams, covered(grams, size) / length[grams["item"]] >= WHOLE, limit)
        ignored.append(dead)
        grams = grams.take(~np.isin(grams["key"], dead[:, 0]))
        share = covered(grams, size) / length[grams["item"]]
        for rule in ("ngram", "any13"):
            bound = np.array(
                [getattr(one, rule).threshold if rule == "ngram" else 0.0 for one in each]
            )  # any n-gram at all
            uses = np.array([one.tables().get(rule) == entry for one in each], np.bool_)
            chosen = uses[index.eval_of[grams["item"]]] & (share > bound[index.eval_of[grams["item"]]])
            parts.append(_rows(grams.take(chosen), rule, share[chosen], bound, index))
    passed = [_frequent(index, hits, limit)]
    parts += _bigram_parts(index, each, hits, passed[0][:, 0])
    answers = hits.take(hits["kind"] == ANSWER)
    parts.append(_rows(_keyed(answers), "answer", np.ones(len(answers)), np.ones(len(each)), index))
    if close is not None:
        bound = np.array([one.semantic.threshold for one in each])
        parts.append(_rows(Columns(dict(close)), "semantic", close["score"], bound, index))
    matches = Columns({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    flags = np.array([[one.flags(rule) for rule in RULES] for one in each], np.bool_).reshape(len(each), len(RULES))
    matches.values["flag"] = matches["unsure"] | flags[index.eval_of[matches["item"]], matches["rule"]]
    return Decision(_best(matches), np.concatenate([*ignored, np.empty((0, 2), np.int64)]), passed[0])


def _expanded(index: EvalIndex, hits: Columns) -> Columns:
    """N-gram hits, each message's once, as rows of record, message, key, item and place in it."""
    order = np.lexsort((hits["key"], hits["message"], hits["record"]))
    hits = hits.take(order)
    new = _changes(hits["record"], hits["message"], hits["key"])
    hits = hits.take(np.flatnonzero(new))
    at = index.plan.owner_at
    sizes = at[hits["key"] + 1] - at[hits["key"]]
    row = np.repeat(np.arange(len(hits)), sizes)
    begin = np.cumsum(sizes) - sizes
    owner = at[hits["key"]][row] + np.arange(len(row)) - begin[row]
    item, place = np.asarray(index.plan.owner[owner]), np.asarray(index.place[owner])
    found = {name: hits[name][row] for name in ("record", "message", "key")} | {"item": item, "place": place}
    order = np.lexsort((place, item, found["message"], found["record"]))
    return Columns(found).take(order)


def _changes(*columns: NDArray[Any]) -> Bools:
    """Where a sorted row differs from the one before, the first one included."""
    out = np.ones(len(columns[0]), np.bool_)
    if len(out):
        out[1:] = False
        for column in columns:
            out[1:] |= column[1:] != column[:-1]
    return out


def covered(grams: Columns, size: int) -> Ints:
    """For each row: how many tokens of its item lie in n-grams that its message shares with the item."""
    new = _changes(grams["record"], grams["message"], grams["item"])
    if not len(new):
        return np.zeros(0, np.int64)
    step = np.full(len(new), size, np.int64)
    step[:-1] = np.where(new[1:], size, np.minimum(grams["place"][1:] - grams["place"][:-1], size))
    group = np.cumsum(new) - 1
    totals = np.bincount(group, weights=step).astype(np.int64)
    found: Ints = totals[group]
    return found


def _common(grams: Columns, whole: Bools, limit: float) -> Ints:
    """Keys that more than `limit` records hold without any of the items whole, and how many records do."""
    if not len(grams):
        return np.empty((0, 2), np.int64)
    order = np.lexsort((grams["record"], grams["key"]))
    key, record = grams["key"][order], grams["record"][order]
    new = np.flatnonzero(_changes(key, record))
    alone = ~np.maximum.reduceat(whole[order], new)
    keys, counts = np.unique(key[new][alone], return_counts=True)
    return np.stack([keys[counts > limit], counts[counts > limit]], axis=1).astype(np.int64)


def _frequent(index: EvalIndex, hits: Columns, limit: float) -> Ints:
    """Items that more than `limit` records hold in part, or being short among other words, and how many records do."""
    distinct = index.distinct
    kind, item = hits["kind"], hits["key"]
    chosen = (kind == SHORT) & (hits["value"] != ALONE)
    chosen[chosen] = index.short[item[chosen]]
    bigram = np.flatnonzero(kind == BIGRAM)
    chosen[bigram] = hits["value"][bigram] < WHOLE * distinct[item[bigram]]
    pairs = np.unique(np.stack([item[chosen], hits["record"][chosen]], axis=1), axis=0)
    items, counts = np.unique(pairs[:, 0], return_counts=True)
    return np.stack([items[counts > limit], counts[counts > limit]], axis=1).astype(np.int64)


def _keyed(hits: Columns) -> Columns:
    return Columns(hits.values | {"item": hits["key"]})


def _bigram_parts(index: EvalIndex, each: list[Rules], hits: Columns, passed: Ints) -> list[dict[str, NDArray[Any]]]:
    """The matches of the bigram rule: windows, and short items word for word."""
    bound = np.array([one.bigram.threshold for one in each])
    sure = np.array([one.bigram.sure for one in each])
    live = ~np.isin(hits["key"], passed)
    windows = _keyed(hits.take((hits["kind"] == BIGRAM) & live))
    distinct = index.distinct[windows["item"]]
    some = _rows(windows, "bigram", windows["value"] / np.maximum(distinct, 1), bound, index)
    some["unsure"] = distinct < sure[index.eval_of[windows["item"]]]  # a sure match is among the short ones
    short = _keyed(hits.take((hits["kind"] == SHORT) & live))
    more = _rows(short, "bigram", np.ones(len(short)), bound, index)
    more["unsure"] = (index.spoken[short["item"]] < FEW) & (short["value"] != ALONE)
    return [some, more]


def _rows(
    found: Columns, rule: str, score: NDArray[Any], bound: NDArray[np.float64], index: EvalIndex
) -> dict[str, NDArray[Any]]:
    size = len(found)
    spans = {name: found.values.get(name, np.full(size, -1)) for name in ("start", "stop")}
    return {
        "record": found["record"],
        "item": found["item"],
        "rule": np.full(size, RULES.index(rule)),
        "score": np.asarray(score, np.float64),
        "threshold": bound[index.eval_of[found["item"]]],
        "unsure": np.zeros(size, np.bool_),
        "message": found["message"],
        **spans,
    }


def _best(found: Columns) -> Columns:
    """Each record's items, once a rule with the best score, strongest first: removals, then by score, then by rule."""
    order = np.lexsort(
        (found["message"], -found["score"], found["flag"], found["rule"], found["item"], found["record"])
    )
    found = found.take(order)
    found = found.take(np.flatnonzero(_changes(found["record"], found["item"], found["rule"])))
    rank = np.array([STRONGEST.index(rule) for rule in RULES])[found["rule"]]
    return found.take(np.lexsort((found["item"], rank, -found["score"], found["flag"], found["record"])))
