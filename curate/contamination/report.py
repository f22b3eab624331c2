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

from curate.contamination.decide import Columns, Decision, covered
from curate.contamination.index import EvalIndex
from curate.contamination.rules import Rules
from curate.contamination.tokens import tokens
from curate.splitting import Ints
from curate.stages.decontaminate_settings import RULES
from curate.words import words

LISTED: Final = 200  # boilerplate phrases in the manifest
SHOWN: Final = 240  # characters of a phrase
Bools = NDArray[np.bool_]


def detectable(index: EvalIndex, rules: Mapping[str, Rules], decision: Decision) -> Bools:
    """Which items some active rule would find when a record holds their question word for word."""
    each = [rules[name] for name in index.evals]
    seen = np.zeros(len(index.eval_of), np.bool_)
    passed = np.isin(np.arange(len(seen)), decision.passed[:, 0])
    seen |= ((index.plan.allowed >= 0) | index.short) & ~passed
    live = ~np.isin(np.arange(len(index.plan.sets.keys)), decision.ignored[:, 0])
    owners = np.repeat(np.arange(len(index.plan.owner_at) - 1), np.diff(index.plan.owner_at))
    for number, entry in enumerate(index.tables):
        low, high = (int(index.plan.owner_at[index.plan.sets.key_at[number + k]]) for k in (0, 1))
        rows = np.flatnonzero(live[owners[low:high]]) + low
        item, place = np.asarray(index.plan.owner[rows]), np.asarray(index.place[rows])
        order = np.lexsort((place, item))
        same = np.zeros(len(rows), np.int64)
        grams = Columns({"record": same, "message": same, "item": item[order], "place": place[order]})
        share = covered(grams, entry[0]) / index.length(number)[item[order]]
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

    `verdicts` are the matches that became their record's verdict. `with_answer` counts the undetectable items that are
    found when their answer or all their choices follow them.
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
                "with_answer": int((index.answered | index.offered)[hidden].sum()),
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
    counts = Counter(
        (index.evals[index.eval_of[item]], source) for item, source in {*zip(items.tolist(), sources, strict=True)}
    )
    out: dict[str, dict[str, int]] = {}
    for (name, source), count in sorted(counts.items()):
        out.setdefault(name, {})[source] = count
    return out


def _boilerplate(index: EvalIndex, decision: Decision) -> dict[str, Any]:
    """What was left out: by records that hold it, then by items that share it; the commonest LISTED, and how many."""
    plan = index.plan
    texts = index.items.column("question")
    found: list[tuple[int, int, int, int | None, int | None]] = []  # item, place, size, items, records
    order = np.argsort(-index.dropped[:, 3], kind="stable")[:LISTED]
    found += [(item, place, size, items, None) for item, place, size, items in index.dropped[order].tolist()]
    for key, records in decision.ignored[np.argsort(-decision.ignored[:, 1], kind="stable")][:LISTED].tolist():
        owner = int(plan.owner_at[key])
        size, every = index.tables[int(np.searchsorted(plan.sets.key_at, key, side="right")) - 1]
        found.append((int(plan.owner[owner]), int(index.place[owner]), -size if every else size, None, records))
    found += [(item, 0, int(index.spoken[item]), None, records) for item, records in decision.passed.tolist()]
    rows = [
        {
            "eval": index.evals[index.eval_of[item]],
            "ngram": _phrase(texts[item].as_py(), place, size),
            "items": items,
            "records": records,
        }
        for item, place, size, items, records in found
    ]
    rows.sort(key=lambda row: (-(row["records"] or 0), -(row["items"] or 0), row["eval"], row["ngram"]))
    total = len(index.dropped) + len(decision.ignored) + len(decision.passed)
    return {"boilerplate": rows[:LISTED], "boilerplate_total": total}


def _phrase(text: str, place: int, size: int) -> str:
    """An n-gram as its words, or (a negative size) as its tokens, shortened."""
    found = tokens(text)[place : place - size] if size < 0 else words(text)[place : place + size]
    return " ".join(found)[:SHOWN]
