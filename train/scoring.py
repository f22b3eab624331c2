"""Answers judged: what each comes down to, which kind of mistake it is, and the shares with their intervals.

Every answer falls into one bucket: `correct`; `cut off` (no final answer when the tokens ran out); `no marker` (it ended
without one); `runs on` (a wrong one, and more text behind it); `wrong number` or `wrong answer`. How many run on in all, right or
wrong, is counted apart. Code falls into the outcomes of its program. Shares have 95 % Wilson intervals (Wilson 1927).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from train.tasks import answers, programs
from train.tasks.items import Item

Z95: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as it came: its text, whether the model ended it, whether a stop string did."""

    text: str
    ended: bool
    halted: bool = False


@dataclass(frozen=True, slots=True)
class Response:
    """One judged answer; `correct` is None where nothing was judged. `fenced` and `parses` are of code."""

    item: str
    prompt: str
    reference: str
    response: str
    extracted: str | None
    correct: bool | None
    outcome: str
    stopped: bool
    runs_on: bool = False
    level: str | None = None
    fenced: bool | None = None
    parses: bool | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """What a set of responses comes down to; `buckets` count all of them, `by_level` the right and all of each level."""

    correct: int
    total: int
    stopped: int
    judged: bool = True
    runs_on: int = 0
    fenced: int | None = None
    parses: int | None = None
    buckets: tuple[tuple[str, int], ...] = ()
    by_level: tuple[tuple[str, int, int], ...] = ()

    @property
    def accuracy(self) -> float:
        """The share answered right."""
        return self.correct / max(1, self.total)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson score interval (Wilson 1927)."""
        return wilson(self.correct, self.total)

    def facts(self) -> dict[str, Any]:
        """For `--json` and manifests."""
        low, high = self.interval
        levels = {}
        for name, right, total in self.by_level:
            bounds = wilson(right, total)
            levels[name] = {"correct": right, "total": total, "low": bounds[0], "high": bounds[1]}
        kept = {key: value for key, value in asdict(self).items() if value is not None}
        shares = {"accuracy": self.accuracy, "low": low, "high": high} if self.judged else {}
        return {**kept, **shares, "buckets": dict(self.buckets), "by_level": levels}


def wilson(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a share."""
    if not total:
        return 0.0, 1.0
    share, square = correct / total, z * z
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = z * math.sqrt(share * (1 - share) / total + square / (4 * total * total)) / (1 + square / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def extract(text: str) -> str:
    """What an answer of any task comes down to: the number after the first `####`, else the whole text, tidied.

    Thousands commas, a dollar sign, a trailing full stop and zero decimals do not count.
    """
    tail = answers.after(text)
    if tail is not None:
        return answers.marked_number(text) or " ".join(tail.split())
    value = answers.number(text)
    return " ".join(text.split()) if value is None else answers.written(value)


def judge(item: Item, said: Said) -> Response:
    """Judge one answer; of code only whether it is there and parses, until it is run."""
    text = said.text
    base = Response(item.ident, item.prompt, item.answer, text, None, None, "not judged", said.ended, level=item.level)
    if item.kind == "code":
        block = programs.block(text)
        code = text if block is None else block
        fits = item.code is not None and bool(code.strip()) and programs.parses(item.code.program(code))
        outcome = "no code" if not code.strip() else "parses" if fits else "does not parse"
        return replace(base, extracted=code, outcome=outcome, fenced=block is not None, parses=fits)
    if item.kind == "open":
        return base
    found, right, marked = _compared(item, said)
    more = said.halted or (marked and answers.runs_on(text))
    wrong = "wrong number" if item.kind == "number" else "wrong answer"
    bucket = "correct" if right else "runs on" if marked and more else wrong if marked else ""
    bucket = bucket or ("no marker" if said.ended or said.halted else "cut off")
    return replace(base, extracted=found, correct=right, outcome=bucket, runs_on=more)


def _compared(item: Item, said: Said) -> tuple[str | None, bool, bool]:
    """What an answer comes down to, whether it is right, and whether it has a final answer at all."""
    text = said.text
    if item.kind == "number":
        found = answers.marked_number(text)
        return found, answers.equal_numbers(found, answers.marked_number(item.answer) or ""), found is not None
    if item.kind == "latex":
        boxed = answers.boxed(text)
        found = answers.after(text) if boxed is None else boxed
        return found, answers.equal_latex(found, answers.boxed(item.answer, last=True) or ""), found is not None
    found, wanted = extract(text), extract(item.answer)
    right = found == wanted or answers.equal_numbers(found, wanted)
    given = answers.MARKER.search(text) is not None or answers.number(text) is not None
    return found, right, given or (said.ended and answers.number(wanted) is None)


def executed(items: Sequence[Item], responses: Sequence[Response]) -> tuple[list[Response], str]:
    """Run every program that parses against its checks; also which layers held it."""
    from train.tasks.sandbox import execute

    runnable = [n for n, (item, told) in enumerate(zip(items, responses, strict=True)) if item.code and told.parses]
    jobs = [code.job(responses[n].extracted or "") for n in runnable if (code := items[n].code)]
    outcomes, layers = execute(jobs)
    done = [replace(told, correct=False) if told.parses is not None else told for told in responses]
    for number, outcome in zip(runnable, outcomes, strict=True):
        done[number] = replace(done[number], correct=outcome == "passed", outcome=outcome)
    return done, layers


def score(responses: Sequence[Response]) -> Score:
    """Count."""
    levels: dict[str, list[bool]] = {}
    for told in responses:
        if told.level is not None:
            levels.setdefault(told.level, []).append(bool(told.correct))
    code = any(told.fenced is not None for told in responses)
    buckets = Counter("error" if told.outcome.startswith("error ") else told.outcome for told in responses)
    return Score(
        correct=_count(told.correct for told in responses),
        total=len(responses),
        stopped=_count(told.stopped for told in responses),
        judged=all(told.correct is not None for told in responses),
        runs_on=_count(told.runs_on for told in responses),
        fenced=_count(told.fenced for told in responses) if code else None,
        parses=_count(told.parses for told in responses) if code else None,
        buckets=tuple(sorted(buckets.items(), key=lambda pair: (-pair[1], pair[0]))),
        by_level=tuple((name, sum(found), len(found)) for name, found in sorted(levels.items())),
    )


def _count(flags: Iterable[bool | None]) -> int:
    return sum(map(bool, flags))


def lines(told: Score) -> list[str]:
    """A score in words."""
    code, out = told.fenced is not None, []
    what = "passed" if code else "exact match"
    if told.judged:
        low, high = told.interval
        share = f"{told.accuracy:.1%} ({told.correct:,} of {told.total:,}; 95 % interval {low:.1%} to {high:.1%})"
        out.append(f"{what} {share}")
    elif not code:
        out.append(
            f"{told.total:,} answers, {told.correct:,} right of those that have a reference; the rest is for hand grading"
        )
    for name, count in (("a block of code", told.fenced), ("syntax", told.parses)):
        if count is not None:
            low, high = wilson(count, told.total)
            out.append(
                f"{name} {count / max(1, told.total):.1%} ({count:,} of {told.total:,}; {low:.1%} to {high:.1%})"
            )
    out.append("; ".join(f"{name} {count:,}" for name, count in told.buckets))
    if told.by_level and told.judged:
        parts = [f"{name}: {right:,} of {total:,} ({right / total:.1%})" for name, right, total in told.by_level]
        out.append("by level: " + ", ".join(parts))
    out.append(f"stopped by itself {told.stopped:,}; ran on {told.runs_on:,}")
    return out


def row_of(task: str, model: str, told: Score, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """One flat row of the card's table; `model` says which one was asked ("before", "after")."""
    low, high = (round(share, 4) for share in told.interval)
    row: dict[str, Any] = {"task": task, "model": model, "items": told.total, **(extra or {})}
    if told.judged:
        row |= {"exact match" if told.fenced is None else "passed": round(told.accuracy, 4), "low": low, "high": high}
    if told.fenced is not None and told.parses is not None:
        row |= {"code block": round(told.fenced / max(1, told.total), 4)}
        row |= {"syntax": round(told.parses / max(1, told.total), 4)}
    elif told.judged:
        counts = dict(told.buckets)
        row |= {name: counts.get(name, 0) for name in ("no marker", "runs on", "cut off")}
        row["wrong"] = counts.get("wrong number", 0) + counts.get("wrong answer", 0)
    return {**row, "stopped": told.stopped}
