"""Word problems with worked answers, by level, and the rule that holds operand pairs out.

Level 1: one step, operands to 20. Level 2: one step, operands to 99. Level 3: two steps, to 20. Level 4: two steps, to 99.
An answer works column by column, ones before tens with the carry written out, because a small model learns single-digit
facts in minutes and whole sums only in hours. A pair of operands is held out unordered: a+b, b+a, a-b and b-a go together,
and a problem of two steps is kept from raw data when either of its steps uses a held-out pair. The number after `####`
is the answer, as in GSM8K (Cobbe et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import xxhash

from curate.sample.draw import Draw
from curate.sample.scenes import NAMES, SCENES, THINGS, Scene

LEVELS: Final = {1: (1, 20), 2: (1, 99), 3: (2, 20), 4: (2, 99)}
_SCORED, _LEAKED = 10, 12  # of 100 digests: the first are scored, the next two leak into raw data on purpose


@dataclass(frozen=True, slots=True)
class Problem:
    """A question, its worked answer, the final number, and what it was made from."""

    level: int
    question: str
    work: str
    answer: int
    pairs: tuple[tuple[int, int], ...]


def set_of(first: int, second: int) -> str:
    """Where an unordered pair of operands belongs: `raw`, `scored` or `leaked`; by digest, whatever the seed."""
    low, high = sorted((first, second))
    place = xxhash.xxh3_64_intdigest(f"{low},{high}".encode()) % 100
    return "scored" if place < _SCORED else "leaked" if place < _LEAKED else "raw"


def worked(first: int, second: int, sign: str) -> tuple[str, int]:
    """One step of work, `47+35: 7+5=12, 4+3+1=8, so 82.`, and its result; a borrow is a ten lent to the ones."""
    (tens, ones), (other_tens, other_ones) = divmod(first, 10), divmod(second, 10)
    if sign == "+":
        result, total = first + second, ones + other_ones
        carry, lent = total // 10, ones
    else:
        carry = int(ones < other_ones)
        lent = ones + 10 * carry
        result, total = first - second, lent - other_ones
    columns = f"{lent}{sign}{other_ones}={total}, {tens}{sign}{other_tens}{sign}{carry}"
    high = tens + other_tens + carry if sign == "+" else tens - other_tens - carry
    return f"{first}{sign}{second}: {columns}={high}, so {result}.", result


def problem(draw: Draw, level: int, scenes: tuple[Scene, ...] = SCENES, pairs_from: str = "raw") -> Problem:
    """Draw one problem whose first pair belongs to `pairs_from`; problems for `raw` use no held-out pair at all."""
    steps, top = LEVELS[level]
    while True:
        numbers, signs, pairs = [draw.between(1, top)], [], []
        total = numbers[0]
        for _ in range(steps):
            sign = "+" if draw.chance(0.5) else "-"
            number = draw.between(1, top)
            pairs.append((total, number))
            total = total + number if sign == "+" else total - number
            numbers.append(number)
            signs.append(sign)
            if total < 0 or (len(signs) < steps and total > 99):
                break
        else:
            wanted = pairs if pairs_from == "raw" else pairs[:1]
            if all(set_of(*pair) == pairs_from for pair in wanted):
                return _tell(draw, level, draw.pick(scenes), numbers, signs, tuple(pairs))


def _tell(
    draw: Draw, level: int, scene: Scene, numbers: list[int], signs: list[str], pairs: tuple[tuple[int, int], ...]
) -> Problem:
    who, what = draw.pick(NAMES), draw.pick(THINGS)
    sentences = [scene.opening.format(n=numbers[0], who=who, what=what)]
    work, total = [], numbers[0]
    for number, sign in zip(numbers[1:], signs, strict=True):
        event = draw.pick(scene.gains if sign == "+" else scene.losses)
        sentences.append(event.format(n=number, who=who, what=what))
        step, total = worked(total, number, sign)
        work.append(step)
    sentences.append(scene.question.format(who=who, what=what))
    return Problem(level, " ".join(sentences), f"{' '.join(work)} #### {total}", total, pairs)
