"""The one escaper: text that comes from data is inert in Markdown, HTML, SVG, YAML and terminals.

Three doors, all through `clean`: `code` (a code span: names and identifiers), `fence` (a code block: examples) and
`prose` (anything else). Templates escape by default: whatever is not `Markdown`, a type that only our own code makes,
goes through `prose`. Cost: linear in the text, and every text shown is a short snippet.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final

from curate.foundation.console import printable, redact

JOINER: Final = "\N{WORD JOINER}"
REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
_RUN: Final = re.compile(r"`+")
_SPACE: Final = re.compile(r"\s+")
# What means something anywhere, then what means something only where a block begins: prose may stand there.
_PUNCTUATION: Final = re.compile(r"[\\`*_{}\[\]<>|~&@$]|:(?=[\w+-])|^[-+#=!]|^\d{1,9}[.)](?=\s|$)")
# What GitHub turns into links, mentions and references without any markup, escaped or not.
_AUTOLINK: Final = re.compile(r"(?<=[@#])|(?<=:)(?=/)|(?i:(?<=www)(?=\.))|(?i:(?<=mailto)(?=:))|(?i:(?<=xmpp)(?=:))")
_ESCAPED: Final = re.compile(r"\\([!-/:-@\[-`{-~])")
_TAG: Final = re.compile(r"`|\*\*|</?[a-z]+>")


class Markdown(str):
    """Markdown that our own code wrote; everything else is escaped when a template prints it."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


def clean(text: str) -> str:
    """Text with secrets masked and with control, bidirectional, invisible and unpaired characters made visible."""
    shown = printable(redact(text).replace("\r\n", "\n"))
    return "".join(REPLACED if _unseen(char) else char for char in shown)


def _unseen(char: str) -> bool:
    if char.isascii():
        return False
    kind = unicodedata.category(char)
    return kind in ("Cs", "Zl", "Zp", "Cn", "Co") or (kind == "Cf" and char not in "\u200c\u200d")


def line(text: str) -> str:
    """`clean` text on one line, white space collapsed."""
    return _SPACE.sub(" ", clean(text)).strip()


def prose(text: str) -> Markdown:
    """Inert inline Markdown: punctuation escaped, and nothing left that a renderer links by itself."""
    joined = _AUTOLINK.sub(JOINER, line(text))
    return Markdown(_PUNCTUATION.sub(_escape, joined))


def _escape(match: re.Match[str]) -> str:
    found = match.group()
    return f"{found[:-1]}\\{found[-1]}"


def code(text: str) -> Markdown:
    """An inert code span, also inside a table: a bar is shown as its look-alike, since tables split on it anywhere."""
    shown = line(text).replace("|", "\N{DIVIDES}")
    if not shown:
        return Markdown("(empty)")
    ticks = "`" * (1 + max((len(run) for run in _RUN.findall(shown)), default=0))
    pad = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return Markdown(f"{ticks}{pad}{shown}{pad}{ticks}")


def fence(text: str, language: str = "text") -> Markdown:
    """An inert fenced code block that keeps the line breaks."""
    shown = clean(text).strip("\n")
    ticks = "`" * max(3, 1 + max((len(run) for run in _RUN.findall(shown)), default=0))
    return Markdown(f"{ticks}{language}\n{shown}\n{ticks}")


def xml(text: str) -> str:
    """Text for an SVG element or attribute."""
    shown = line(text)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        shown = shown.replace(char, entity)
    return shown


def plain(value: Any) -> str:
    """A cell for a terminal: our own markup taken off, data made printable."""
    if isinstance(value, Markdown):
        return _ESCAPED.sub(r"\1", _TAG.sub("", value)).replace(JOINER, "")
    return line(show(value)) if not isinstance(value, str) else line(value)


def show(value: Any) -> str:
    """A value as people read it: 1,234 for counts, four significant digits for floats, yes and no, a dash for None."""
    if value is None or value == "":
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def percent(part: float, whole: float) -> str:
    """A share in percent: one decimal, but never 0 for something and never 100 for less than all."""
    if not whole:
        return "\N{EN DASH}"
    share = 100 * part / whole
    if 0 < share < 0.1:
        return "< 0.1 %"
    if 99.9 < share < 100:
        return "> 99.9 %"
    return f"{share:.1f} %"


def shorten(text: str, width: int) -> str:
    """Text in at most `width` characters, the middle taken out."""
    if len(text) <= width:
        return text
    head = (width - 1) * 2 // 3
    return f"{text[:head]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (width - 1 - head) :]}"


def compact(value: float) -> str:
    """A count for an axis or a headline: 950, 12.3k, 4.1M, 2B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
