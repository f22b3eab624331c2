"""Every rule of `decontaminate` in plain Python: sets, loops and lists of strings. The oracle of the kernels."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from curate.contamination.tokens import tokens
from curate.words import words

GUARD = 5


def grams(values, size):
    return [tuple(values[i : i + size]) for i in range(len(values) - size + 1)]


def boilerplate(items, size, split, shared):
    """By eval: the n-grams that `shared` or more of its items hold. `items`: (eval, question, answer)."""
    holders = defaultdict(Counter)
    for name, question, _ in items:
        holders[name].update(set(grams(split(question), size)))
    return {name: {gram for gram, count in found.items() if count >= shared} for name, found in holders.items()}


def ngram_matches(items, texts, size, threshold, split, shared=3, ignored=frozenset()):
    """(text, item) -> share of the item's tokens in n-grams that the text has too, where it is above the threshold."""
    dead = boilerplate(items, size, split, shared)
    where = defaultdict(list)
    lengths = []
    for number, (name, question, _) in enumerate(items):
        own = split(question)
        lengths.append(len(own))
        for place, gram in enumerate(grams(own, size)):
            if gram not in dead[name] and gram not in ignored:
                where[gram].append((number, place))
    found = {}
    for at, text in enumerate(texts):
        covered = defaultdict(set)
        for gram in set(grams(split(text), size)):
            for number, place in where.get(gram, ()):
                covered[number].update(range(place, place + size))
        for number, places in covered.items():
            if len(places) / lengths[number] > threshold:
                found[at, number] = len(places) / lengths[number]
    return found


def live_bigrams(items, shared=3):
    """For each item its distinct bigrams that are not inside boilerplate; none for one that is boilerplate as a whole."""
    dead = boilerplate(items, GUARD, words, shared)
    whole = Counter((name, tuple(words(question))) for name, question, _ in items)
    out = []
    for name, question, _ in items:
        own = words(question)
        inside = set()
        for place, run in enumerate(grams(own, GUARD)):
            if run in dead[name]:
                inside.update(range(place, place + GUARD - 1))
        common = whole[name, tuple(own)] >= shared
        live = {gram for place, gram in enumerate(grams(own, 2)) if place not in inside}
        out.append(set() if common else live)
    return out


def bigram_matches(items, texts, threshold=0.7, window=1.5, least=4, shared=3):
    """(text, item) -> share of the item's live bigrams in the best window, where it is above the threshold."""
    live = live_bigrams(items, shared)
    found = {}
    for at, text in enumerate(texts):
        here = grams(words(text), 2)
        for number, (_, question, _) in enumerate(items):
            own = live[number]
            if len(own) < max(least, 1) or len(own & set(here)) / len(own) <= threshold:
                continue
            reach = max(1, math.ceil(window * len(words(question))) - 1)
            best = max(len(own & set(here[start : start + reach])) for start in range(max(1, len(here) - reach + 1)))
            if best / len(own) > threshold:
                found[at, number] = best / len(own)
    return found


def answer_matches(items, texts, answers, least=5, shared=3):
    """(text, item) where the item's question is followed by its answer, in the text or across into its answer text."""
    pairs = Counter((name, tuple(words(q)), tuple(words(a or ""))) for name, q, a in items)
    found = set()
    for at, (text, reply) in enumerate(zip(texts, answers, strict=True)):
        said = words(text)
        both = said + words(reply or "")
        for number, (name, question, answer) in enumerate(items):
            asked, told = words(question), words(answer or "")
            common = pairs[name, tuple(asked), tuple(told)] >= shared
            if not asked or not told or common or len(asked) + len(told) < least:
                continue
            for start in range(len(said) - len(asked) + 1):
                if said[start : start + len(asked)] != asked:
                    continue
                rest = both[start + len(asked) :]
                bare = rest[1:] if rest and rest[0] in ("answer", "a", "solution") else rest
                if told in (rest[: len(told)], bare[: len(told)]):
                    found.add((at, number))
    return found


__all__ = ["answer_matches", "bigram_matches", "grams", "ngram_matches", "tokens", "words"]
