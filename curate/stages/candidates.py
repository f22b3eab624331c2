"""Which texts a quality rule may apply to: one vectorised superset a rule, so that clean text is read once or twice.

Each function gives a bool a message. Property tests hold that no text outside the superset breaks the exact rule.
Cost: flags come with the measuring pass; literal searches run at several GB/s; regular expressions see only texts
that a flag, a kernel or a literal let through.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.stages.damage import CANDIDATE
from curate.stages.text import Messages

Mask = NDArray[np.bool_]


class Texts:
    """The contents of a batch as a polars series, made once."""

    def __init__(self, messages: Messages) -> None:
        import polars as pl

        self.messages = messages
        self.series = pl.Series("content", messages.fields["content"])

    def flagged(self, bit: int) -> Mask:
        """Texts whose measuring pass raised a flag."""
        return np.asarray((self.messages.content.flags & bit) != 0)

    def literal(self, word: str, where: Mask) -> Mask:
        """Texts among `where` that hold a word, as spelled."""
        return self._among(where, lambda texts: texts.str.contains(word, literal=True))

    def regex(self, pattern: str, where: Mask) -> Mask:
        """Texts among `where` that a regular expression (linear time) matches."""
        return self._among(where, lambda texts: texts.str.contains(pattern))

    def head(self, pattern: str, where: Mask, chars: int) -> Mask:
        """Texts among `where` whose first characters match."""
        return self._among(where, lambda texts: texts.str.head(chars).str.contains(pattern))

    def _among(self, where: Mask, test: Any) -> Mask:
        import polars as pl

        found = np.zeros(len(where), np.bool_)
        at = np.flatnonzero(where)
        if len(at):
            texts = self.series if len(at) == len(where) else self.series.gather(pl.Series(at))
            found[at] = test(texts).fill_null(False).to_numpy()
        return found


def mojibake(texts: Texts) -> Mask:
    """A lead character beside a continuation character."""
    from curate import kernels

    return texts.regex(CANDIDATE, texts.flagged(kernels.LATIN_LEAD))


def replacement(texts: Texts) -> Mask:
    """U+FFFD."""
    from curate import kernels

    return texts.literal("\ufffd", texts.flagged(kernels.LAST_BLOCK))


def control(texts: Texts) -> Mask:
    """A C0 control, DEL, or the lead byte of the C1 controls and of a C1 control itself."""
    from curate import kernels

    return texts.flagged(kernels.C0_CONTROL) | texts.regex("[\u0080-\u009f]", texts.flagged(kernels.C1_LEAD))


def heads(texts: Texts, pattern: str, where: Mask, chars: int) -> Mask:
    """Texts whose first characters match a pattern of refusals, all of which begin with "I" or "as an"."""
    from curate import prefilters
    from curate.stages.text import buffers

    content = texts.messages.fields["content"]
    found = np.zeros(len(where), np.bool_)
    prefilters.speaking_heads(*buffers(content), texts.messages.content.flags, where, chars, found)
    return texts.head(pattern, found, chars)


def repeats(messages: Messages, where: Mask, times: int, min_chars: int) -> Mask:
    """Two or more long lines with one hash, counted by a kernel."""
    from curate import prefilters
    from curate.stages.text import buffers

    data, at = buffers(messages.fields["content"])
    wanted = where & (messages.content.chars >= times * (min_chars + 1) - 1)
    found = np.zeros(len(where), np.bool_)
    prefilters.repeated_lines(data, at, wanted, times, min_chars, found)
    return found


def role_faults(messages: Messages) -> NDArray[np.int64]:
    """The first message of each row that breaks the order of roles, -1 where none does.

    A system message comes first or not at all; then user and assistant in turn; tool results follow tool calls or
    other results, and the assistant (or the user) speaks after them.
    """
    start = 4
    allowed = np.zeros((5, 4), np.bool_)  # [role before, role]
    allowed[[start, start, 0, 1, 2, 2, 3, 3, 3], [0, 1, 1, 2, 1, 3, 1, 2, 3]] = True
    roles = messages.roles.astype(np.int64)
    before = np.concatenate([[start], roles[:-1]]) if len(roles) else roles
    firsts = messages.starts[:-1][np.diff(messages.starts) > 0]
    before[firsts] = start
    called = np.concatenate([[False], messages.calls[:-1]]) if len(roles) else messages.calls
    bad = ~allowed[before, roles] | ((roles == 3) & (before == 2) & ~called)
    found = np.full(len(messages.starts) - 1, -1, np.int64)
    rows, first = np.unique(messages.rows[bad], return_index=True)
    found[rows] = np.flatnonzero(bad)[first]
    return found


def mask_of(size: int, at: NDArray[np.int64]) -> Mask:
    """A bool a message, True at some positions; negative positions are left out."""
    mask = np.zeros(size, np.bool_)
    mask[at[at >= 0]] = True
    return mask
