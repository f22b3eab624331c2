"""How much of each source is drawn: epochs, budgets, totals that a source fills up, shares of tokens.

In this order: sources with epochs or a budget are settled, those measured against others after those; then whoever
fills up to a total, from the smallest total up, each counting all that is settled by then (sources with the same total
are drawn equally often); then weights share what `total` leaves, or, without one, as much as draws no source more than
once. A draw is a number of whole passes over a source and the prefix of its seeded order that comes nearest to the rest.

Cost: one cumulative sum of each source.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curate.foundation.errors import DataError, UsageError
from pack.config import Amount, Mixed, Rule

MOST = 1_000  # epochs of one source
_SAID = {"tokens": "tokens", "trained": "trained tokens"}
SLACK = 0.005  # how far settled sources may pass a total: a prefix is only as exact as a document is short


@dataclass(frozen=True, slots=True)
class Draw:
    """Every record of a pool `whole` times and its first `extra` once more; what that comes to."""

    whole: int = 0
    extra: int = 0
    tokens: int = 0
    trained: int = 0


class Pool:
    """The records of one source that may be drawn, in draw order, int64 [records], and their running sums."""

    def __init__(
        self, name: str, records: npt.NDArray[Any], tokens: npt.NDArray[Any], trained: npt.NDArray[Any]
    ) -> None:
        self.name, self.records = name, records
        self.sums = {
            "tokens": np.concatenate(([0], np.cumsum(tokens[records]))),
            "trained": np.concatenate(([0], np.cumsum(trained[records]))),
        }

    def size(self, unit: str) -> int:
        """All its tokens, or trained tokens."""
        return int(self.sums[unit][-1])

    def epochs(self, epochs: float) -> Draw:
        """Draw it so often: a fraction is a share of its records."""
        return self._drawn(int(epochs), round((epochs - int(epochs)) * len(self.records)))

    def amount(self, unit: str, amount: float) -> Draw:
        """Draw so many tokens or trained tokens, to the nearest record. Raises DataError, UsageError."""
        size = self.size(unit)
        if amount <= 0:
            return Draw()
        if not size:
            raise DataError(
                f"source {self.name} has nothing to draw {amount:,.0f} {_SAID[unit]} from",
                hint="look at what is over-long or outside its window: pack build --dry-run",
            )
        whole = int(amount // size)
        if whole > MOST:
            raise UsageError(
                f"source {self.name} would be drawn {amount / size:,.0f} times to give {amount:,.0f} {_SAID[unit]}",
                hint="lower its budget, its weight or the total",
            )
        sums, rest = self.sums[unit], amount - whole * size
        extra = int(np.searchsorted(sums, rest))
        if extra and (extra == len(sums) or rest - sums[extra - 1] <= sums[extra] - rest):
            extra -= 1
        return self._drawn(whole, extra)

    def _drawn(self, whole: int, extra: int) -> Draw:
        tokens, trained = (whole * self.size(unit) + int(self.sums[unit][extra]) for unit in ("tokens", "trained"))
        return Draw(whole, extra, tokens, trained)


def known(name: str, names: Sequence[str], key: str) -> int:
    """The place of a source's name; an unknown one is a UsageError that names the nearest."""
    if name in names:
        return list(names).index(name)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"sources here: {', '.join(names[:10])}"
    raise UsageError(f"{key} names {name!r}, which is not a source of this folder", hint=hint)


def rules_of(names: Sequence[str], mixed: Mixed) -> list[Rule]:
    """The rule of each source, `*` for those without one; raises UsageError for an unknown source."""
    given = mixed.rules()
    for name in given:
        if name != "*":
            known(name, names, "pack.epochs" if name in mixed.epochs else "pack.mixture")
    rules = [given.get(name, given.get("*", Rule())) for name in names]
    bare = [rule == Rule(quality=rule.quality, clusters=rule.clusters) for rule in rules]
    weighed = any(rule.weight for rule in rules)
    if weighed and any(bare):
        raise UsageError(
            f"pack.mixture weighs some sources, but not {names[bare.index(True)]!r}",
            hint='give it a weight, or leave the others out: "*": {epochs: 0}',
        )
    if weighed and any(rule.fill_to for rule in rules):
        raise UsageError("pack.mixture has both weight and fill_to", hint="use one of them; total: goes with weights")
    default = {"fill_to": mixed.total} if mixed.total is not None else {"epochs": 1.0}
    return [rule.model_copy(update=default) if free else rule for rule, free in zip(rules, bare, strict=True)]


def settle(pools: Sequence[Pool], mixed: Mixed, scale: float = 1.0) -> list[Draw]:
    """The draw of each pool; absolute amounts are multiplied by `scale` (for a measured sample).

    Raises UsageError for rules that cannot hold together, DataError for a source that has nothing to give.
    """
    names = [pool.name for pool in pools]
    rules = rules_of(names, mixed)
    drawn: dict[int, Draw] = {}

    def value(amount: Amount) -> float:
        if amount.times is None:
            return scale * (amount.tokens or amount.trained or 0)
        found = [known(name, names, "of:") for name in amount.of]
        late = next((name for code, name in zip(found, amount.of, strict=True) if code not in drawn), None)
        if late is not None:
            raise UsageError(
                f"an amount is measured against {late}, which is not settled before it",
                hint="`of:` names sources with epochs or a budget, and not in a circle",
            )
        return float(amount.times * sum(getattr(drawn[code], amount.unit) for code in found))

    _fixed(pools, rules, drawn, value)
    _fills(pools, rules, drawn, value)
    _weights(pools, rules, drawn, mixed.total, value)
    return [drawn[code] for code in range(len(pools))]


def _fixed(pools: Sequence[Pool], rules: Sequence[Rule], drawn: dict[int, Draw], value: Any) -> None:
    names = [pool.name for pool in pools]
    pending = [code for code, rule in enumerate(rules) if rule.epochs is not None or rule.budget]
    while pending:
        waiting = {names[code] for code in pending}
        ready = [code for code in pending if not waiting.intersection(b.of if (b := rules[code].budget) else ())]
        for code in ready or pending:  # with none ready, the first raises and names the circle
            rule, pool = rules[code], pools[code]
            if rule.budget:
                drawn[code] = pool.amount(rule.budget.measure, value(rule.budget))
            else:
                drawn[code] = pool.epochs(rule.epochs or 0.0)
        pending = [code for code in pending if code not in drawn]


def _fills(pools: Sequence[Pool], rules: Sequence[Rule], drawn: dict[int, Draw], value: Any) -> None:
    totals: dict[tuple[float, str], list[int]] = {}
    for code, rule in enumerate(rules):
        if rule.fill_to:
            totals.setdefault((value(rule.fill_to), rule.fill_to.measure), []).append(code)
    if len({unit for _, unit in totals}) > 1:
        raise UsageError("pack.mixture fills up to totals of tokens and of trained tokens", hint="use one of them")
    for (total, unit), codes in sorted(totals.items()):
        room = total - sum(getattr(draw, unit) for draw in drawn.values())
        named = ", ".join(pools[code].name for code in codes)
        if room < -SLACK * total:
            raise UsageError(
                f"{named} cannot fill up to {total:,.0f} {_SAID[unit]}: the other sources give {total - room:,.0f} already",
                hint="raise that total, or lower the epochs or budgets of the others",
            )
        size = sum(pools[code].size(unit) for code in codes)
        if room > 0 and not size:
            pools[codes[0]].amount(unit, room)  # raises: it has nothing to give
        for code in codes:
            drawn[code] = pools[code].amount(unit, room * pools[code].size(unit) / max(1, size))


def _weights(
    pools: Sequence[Pool], rules: Sequence[Rule], drawn: dict[int, Draw], total: Amount | None, value: Any
) -> None:
    weights = {code: rule.weight for code, rule in enumerate(rules) if rule.weight}
    if not weights:
        return
    shares = {code: weight / sum(weights.values()) for code, weight in weights.items()}
    if empty := [pools[code].name for code in shares if not pools[code].size("tokens")]:
        raise DataError(f"source {empty[0]} has a weight and no record to draw", hint="leave it out of pack.mixture")
    if total is None:
        whole = min(pools[code].size("tokens") / share for code, share in shares.items())
    else:
        unit = total.measure
        room = value(total) - sum(getattr(draw, unit) for draw in drawn.values())
        if room <= 0:
            raise UsageError(
                "the total leaves nothing for the sources with weights",
                hint="raise pack.total, or lower the epochs and budgets of the other sources",
            )
        ratio = {code: pools[code].size(unit) / pools[code].size("tokens") for code in shares}
        whole = room / sum(share * ratio[code] for code, share in shares.items())
    for code, share in shares.items():
        drawn[code] = pools[code].amount("tokens", whole * share)
