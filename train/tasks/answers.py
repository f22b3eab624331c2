"""What an answer comes down to, and whether it is right: numbers behind `####`, LaTeX in `\\boxed{}`.

Only the *first* marker counts, so a model that runs on into a second question is not credited for it. Numbers are equal
within 1e-6 of the reference, whatever their thousands commas, dollar signs, percent signs, zeros and full stops;
LaTeX is equal as text after what does not change its meaning is taken out (the rules of Hendrycks et al. 2021, "Measuring
Mathematical Problem Solving", widened by intervals, units and mixed forms seen in that set), or by value where both are
plain numbers or fractions. Cost: microseconds an answer.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

MARKER: Final = re.compile(r"####")
NUMBER: Final = re.compile(
    r"[-+\u2212]?\s?[$\u20ac\u00a3]?\s?[-+\u2212]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+\b)?"
)
TOLERANCE: Final = 1e-6
LARGEST: Final = 400  # digits; a longer one is not a number anybody meant


def number(text: str) -> Decimal | None:
    """The number that `text` is, with its sign, thousands commas, currency and percent sign; None for anything else."""
    text = text.strip().removesuffix(".").removesuffix("%").removesuffix("\\%").strip()
    found = NUMBER.fullmatch(text)
    return _value(found.group()) if found else None


def _value(text: str) -> Decimal | None:
    plain = re.sub(r"[\s,$\u20ac\u00a3+]", "", text.replace("\u2212", "-")).replace("e", "E")
    try:
        value = Decimal(plain) if len(plain) <= LARGEST else None
    except InvalidOperation:
        return None
    return value if value is None or abs(value.adjusted()) <= LARGEST else None


def written(value: Decimal) -> str:
    """A number as one writes it: no exponent, no zeros behind the point, no minus before 0."""
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def after(text: str, marker: re.Pattern[str] = MARKER) -> str | None:
    """What follows the first marker, up to the end of its line; None without a marker."""
    found = marker.search(text)
    return text[found.end() :].strip().split("\n", 1)[0] if found else None


def marked_number(text: str, marker: re.Pattern[str] = MARKER) -> str | None:
    """The first number behind the first marker, as written here; None where there is none."""
    tail = after(text, marker)
    found = NUMBER.search(tail) if tail is not None else None
    value = _value(found.group()) if found else None
    return None if value is None else written(value)


def runs_on(text: str, marker: re.Pattern[str] = MARKER) -> bool:
    """Whether an answer goes on behind the line of its first marker."""
    found = marker.search(text)
    return bool(found and "\n" in text[found.end() :].strip())


def close(ours: Decimal | Fraction, theirs: Decimal | Fraction) -> bool:
    """Whether two numbers are equal within `TOLERANCE` of the second."""
    a, b = Fraction(ours), Fraction(theirs)
    return a == b or abs(a - b) <= Fraction(TOLERANCE) * abs(b)


def equal_numbers(ours: str | None, theirs: str) -> bool:
    """Whether both are numbers, and the same one."""
    a, b = number(ours) if ours else None, number(theirs)
    return a is not None and b is not None and close(a, b)


def boxed(text: str, *, last: bool = False) -> str | None:
    """What the first (or last) `\\boxed{}` or `\\fbox{}` holds, braces balanced; None where there is none that closes."""
    found = list(BOX.finditer(text))
    if not found:
        return None
    box = found[-1 if last else 0]
    if box["bare"] is not None:
        return str(box["bare"]).rstrip(".,")
    start, depth = box.end(), 1
    for place in range(start, len(text)):
        escaped = text[place - 1] == "\\" and text[place - 2] != "\\"
        if text[place] in "{}" and not escaped:
            depth += 1 if text[place] == "{" else -1
        if not depth:
            return text[start:place].strip()
    return None


BOX: Final = re.compile(r"\\(?:fbox|boxed)\s*(?:\{| (?P<bare>[^\s$]+))")
DROPPED: Final = re.compile(
    r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|displaystyle|limits)(?![a-zA-Z])|(?<!\\)\\[!,;: ]|~|\\?\$|\^\{?\\circ\}?"
    r"|\\text(?:bf|it|rm)?\{\s*(?:and|or)?\s*\}"
)
TEXT: Final = re.compile(r"\\(?:text|mathrm|textbf|textit|textrm|mbox|mathbf)\s*\{([^{}]*)\}")
UNIT: Final = re.compile(r"(?<=[\d}])\s*\\(?:text|mathrm|mbox)\s*\{\s*[^{}\d]*\}(?:\^\{?\d\}?)?$")
BARE_FRACTION: Final = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|(\d|[a-z]))\s*(?:\{([^{}]*)\}|(\d|[a-z]))")
BARE_ROOT: Final = re.compile(r"\\sqrt\s*(\d|[a-z](?![a-z]))")
NAMED: Final = re.compile(r"^\\?[a-zA-Z](?:\([a-z]\))?\s*(?:=|\\in(?![a-z]))\s*")
PLAIN_FRACTION: Final = re.compile(r"(?<![\d\\a-zA-Z}])(-?\d+)/(\d+)(?!\d)")


def tidy(latex: str) -> str:
    """An answer without what does not change its meaning: spacing, sizes, units, `x =`, spelling of fractions."""
    text = DROPPED.sub("", latex.strip().rstrip(".").replace("\\%", "").replace("%", ""))
    text = UNIT.sub("", text)
    text = TEXT.sub(lambda found: found[1].strip(), text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = BARE_FRACTION.sub(lambda f: f"\\frac{{{f[1] or f[2] or ''}}}{{{f[3] or f[4] or ''}}}", text)
    text = BARE_ROOT.sub(r"\\sqrt{\1}", text)
    text = NAMED.sub("", re.sub(r"\s+", "", text)) if text.count("=") <= 1 else re.sub(r"\s+", "", text)
    text = PLAIN_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = text.replace("\\frac{-", "-\\frac{").replace("\\cdot", "*").replace("\\times", "*")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|\\\(|\\\)|\{,\}", "", text) if not re.search(r"[(\[{]", text) else text
    text = re.sub(r"(?<![\d])\.(?=\d)", "0.", text)
    text = re.sub(r"(\d)\.0+(?!\d)", r"\1", text)
    return text.replace("\\{", "{").replace("\\}", "}").rstrip(".,")


def value_of(tidied: str) -> Fraction | None:
    """The value of a plain number or fraction; None for anything else."""
    found = re.fullmatch(r"(-?)(\d*)\\frac\{(-?\d+)\}\{(\d+)\}", tidied)
    if found and len(tidied) <= LARGEST and int(found[4]):
        part = Fraction(int(found[3]), int(found[4])) + int(found[2] or 0)
        return -part if found[1] else part
    plain = number(tidied)
    return None if plain is None else Fraction(plain)


def equal_latex(ours: str | None, theirs: str) -> bool:
    """Whether two answers are the same text once tidied, or the same value."""
    if ours is None:
        return False
    a, b = tidy(ours), tidy(theirs)
    if a == b or a.lower() == b.lower():
        return True
    left, right = value_of(a), value_of(b)
    return left is not None and right is not None and close(left, right)
