"""What the manifest and the card say of a comparison: hits by eval, rule and source, what no rule could see, boilerplate.

Cost: linear in the matches and in what was left out as boilerplate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from curate.contamination.decide import Decision, _covered
from curate.contamination.index import EvalIndex
from curate.contamination.rules import Rules
from curate.splitting import Ints
from curate.stages.decontaminate_settings import RULES

LISTED: Final = 200  # boilerplate phrases in the manifest
SHOWN: Final = 240  # characters of a phrase
Bools = NDArray[np.bool_]


def detectable(index: EvalIndex, rules: Mapping[str, Rules], decision: Decision) -> Bools:
    """Which items some active rule would find when a record holds their question, or question and answer, verbatim."""
    each = [rules[name] for name in index.evals]
    seen = np.zeros(len(index.eval_of), np.bool_)
    passed = np.isin(np.arange(len(seen)), decision.passed[:, 0])
    seen |= ((index.plan.allowed >= 0) | index.short) & ~passed
    seen |= index.answered
    live = ~np.isin(np.arange(len(index.plan.sets.keys)), decision.ignored[:, 0])
    owners = np.repeat(np.arange(len(index.plan.owner_at) - 1), np.diff(index.plan.owner_at))
    for number, entry in enumerate(index.tables):
        from curate.contamination.decide import Columns

        low, high = (int(index.plan.owner_at[index.plan.sets.key_at[number + k]]) for k in (0, 1))
        rows = np.flatnonzero(live[owners[low:high]]) + low
        item, place = np.asarray(index.plan.owner[rows]), np.asarray(index.place[rows])
        order = np.lexsort((place, item))
        same = np.zeros(len(rows), np.int64)
        grams = Columns({"record": same, "message": same, "item": item[order], "place": place[order]})
        share = _covered(grams, entry[0]) / index.length(number)[item[order]]
        for rule in ("ngram", "any13"):
            uses = np.array([one.tables().get(rule) == entry for one in each], np.bool_)[index.eval_of[item[order]]]
            bound = np.array([one.ngram.threshold if rule == "ngram" else 0.0 for one in each])
            seen[item[order][uses & (share > bound[index.eval_of[item[order]]])]] = True
    return seen


def facts(
    index: EvalIndex,
    about: Mapping[str, Mapping[str, Any]],
    decision: Decision,
    seen: Bools,
    verdicts: Bools,
    sources: Sequence[str],
) -> dict[str, Any]:
    """The manifest's facts but for the samples; `about` is what is known of each eval set, `sources` of each match.

    `verdicts` are the matches that became their record's verdict.
    """
    found = decision.matches
    names = index.items.column("item")
    evals = index.eval_of[found["item"]]
    listed = []
    for number, name in enumerate(index.evals):
        own = about[name]
        mine = evals == number
        hidden = np.flatnonzero((index.eval_of == number) & ~seen)
        chosen = mine & verdicts
        listed.append(
            {
                "name": name,
                "items": int(own["items"]),
                "digest": own["digest"],
                "origin": own["origin"],
                "licence": own["licence"],
                "undetectable": len(hidden),
                "undetectable_items": names.take(pa.array(hidden)).to_pylist(),
                "hit_items": len(np.unique(found["item"][mine])),
                "removed": int((chosen & ~found["flag"]).sum()),
                "flagged": int((chosen & found["flag"]).sum()),
                "by_rule": _by_rule(found["rule"][mine], found["flag"][mine], found["record"][mine]),
            }
        )
    return {"evals": listed, "heatmap": _heatmap(index, found["item"], sources), **_boilerplate(index, decision)}


def _by_rule(rules: Ints, flags: Bools, records: Ints) -> dict[str, dict[str, int]]:
    """Records that match by each rule, whatever rule their verdict names."""
    out = {}
    for number, rule in enumerate(RULES):
        mine = rules == number
        if mine.any():
            removed = np.unique(records[mine & ~flags])
            flagged = np.setdiff1d(records[mine & flags], removed)
            out[rule] = {"removed": len(removed), "flagged": len(flagged)}
    return out


def _heatmap(index: EvalIndex, items: Ints, sources: Sequence[str]) -> dict[str, dict[str, int]]:
    """Distinct items hit, by eval and source."""
    counts = Counter((index.evals[index.eval_of[item]], source) for item, source in {*zip(items.tolist(), sources, strict=True)})
    out: dict[str, dict[str, int]] = {}
    for (name, source), count in sorted(counts.items()):
        out.setdefault(name, {})[source] = count
    return out


def _boilerplate(index: EvalIndex, decision: Decision) -> dict[str, Any]:
    """What was left out: by items that share it, then by records that hold it; the commonest LISTED, and how many."""
    found: dict[tuple[str, str], list[int | None]] = {}
    texts = index.items.column("question")
    runs = _merged(index.dropped)
    order = np.lexsort((runs[:, 1], runs[:, 0], -runs[:, 3]))[: 20 * LISTED]
    for item, place, stop, sharing in runs[order].tolist():
        phrase = _phrase(texts[item].as_py(), place, stop)
        entry = found.setdefault((index.evals[index.eval_of[item]], phrase), [0, None])
        entry[0] = max(entry[0] or 0, sharing)
    plan = index.plan
    for key, records in decision.ignored[np.argsort(-decision.ignored[:, 1], kind="stable")][:LISTED].tolist():
        owner = int(plan.owner_at[key])
        item, place = int(plan.owner[owner]), int(index.place[owner])
        size = index.tables[int(np.searchsorted(plan.sets.key_at, key, side="right")) - 1][0]
        entry = found.setdefault((index.evals[index.eval_of[item]], _phrase(texts[item].as_py(), place, place + size)), [None, 0])
        entry[1] = max(entry[1] or 0, records)
    for item, records in decision.passed.tolist():
        entry = found.setdefault((index.evals[index.eval_of[item]], texts[item].as_py()[:SHOWN]), [None, 0])
        entry[1] = max(entry[1] or 0, records)
    rows = [
        {"eval": name, "ngram": phrase, "items": items, "records": records}
        for (name, phrase), (items, records) in found.items()
    ]
    rows.sort(key=lambda row: (-(row["records"] or 0), -(row["items"] or 0), row["eval"], row["ngram"]))
    total = len(np.unique(runs[:, :3], axis=0)) + len(decision.ignored) + len(decision.passed)
    return {"boilerplate": rows[:LISTED], "boilerplate_total": total}


def _merged(dropped: Ints) -> Ints:
    """Overlapping n-grams of an item as runs of words: item, first word, last + 1, the most items that share a part."""
    words = dropped[dropped[:, 2] > 0]
    words = words[np.lexsort((words[:, 1], words[:, 0]))]
    if not len(words):
        return np.empty((0, 4), np.int64)
    ends = words[:, 1] + words[:, 2]
    reach = np.maximum.accumulate(ends + words[:, 0] * (1 << 32)) - words[:, 0] * (1 << 32)
    new = np.ones(len(words), np.bool_)
    new[1:] = (words[1:, 0] != words[:-1, 0]) | (words[1:, 1] > reach[:-1])
    first = np.flatnonzero(new)
    last = np.maximum.reduceat(ends, first)
    sharing = np.maximum.reduceat(words[:, 3], first)
    return np.stack([words[first, 0], words[first, 1], last, sharing], axis=1)


def _phrase(text: str, start: int, stop: int) -> str:
    """Words [start, stop) of a text as they stand there, shortened."""
    from curate.contamination.sketching import located

    _, where = located(text)
    part = where[start:stop]
    return " ".join(text[part[0][0] : part[-1][1]].split())[:SHOWN] if part else ""
