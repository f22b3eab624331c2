"""The cheap first looks never miss what the exact rule would find."""

import numpy as np
import pyarrow as pa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate import kernels, prefilters
from curate.stages import rules, text

PHRASES = [
    "i'm sorry, but I",
    "I am unable to",
    "I can’t help",
    "As an AI, I cannot",
    "I won't do that",
    "i apologize, but I",
]
PIECES = st.sampled_from(
    [*PHRASES, "\u0130", "\u0131'm unable to", "a\u017f an AI cannot", "ski", "X", "é", " ", ".", "\n", "words and "]
)
TALK = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=400, deadline=None)
@given(TALK)
@example("x" * 190 + " I am unable to")
def test_no_refusal_is_left_out(value):
    texts = pa.array(["before", value, "after"], pa.large_string())
    found = np.zeros(3, np.bool_)
    flags = text.measure(texts).flags
    prefilters.speaking_heads(*text.buffers(texts), flags, np.ones(3, np.bool_), rules.HEAD, found)
    assert found[1] or rules.head(rules.REFUSAL_RE, value) is None


def test_plain_answers_are_left_out():
    texts = pa.array(["The ski is said to be aid in rain. " * 9, "Basis and asian taxi"], pa.large_string())
    found = np.ones(2, np.bool_)
    prefilters.speaking_heads(*text.buffers(texts), text.measure(texts).flags, np.ones(2, np.bool_), 200, found)
    assert found.tolist() == [False, False]


LINES = st.lists(
    st.sampled_from(["a line of words that says little", "é" * 9 + "z", "\tshort", "\r", "", "x" * 700]), max_size=14
)


@settings(max_examples=400, deadline=None)
@given(LINES, st.sampled_from(["\n", "\r\n", " \n", "\u00a0\n"]), st.integers(2, 5), st.integers(1, 40))
def test_no_repeated_paragraph_is_left_out(lines, end, times, least):
    value = end.join(lines)
    texts = pa.array(["before\n" * 3, value], pa.large_string())
    found = np.zeros(2, np.bool_)
    prefilters.repeated_lines(*text.buffers(texts), np.array([False, True]), times, least, found)
    assert found[1] or rules.repeated(value, times, least) is None
    assert not found[0]


def test_different_lines_are_no_repeats():
    value = "\n".join(f"line {'x' * n} of a text of many lines" for n in range(40))
    found = np.zeros(1, np.bool_)
    prefilters.repeated_lines(*text.buffers(pa.array([value], pa.large_string())), np.ones(1, np.bool_), 4, 20, found)
    assert not found[0]


LONG = st.lists(
    st.sampled_from(
        ["word", " ", "  ", "\n\n", "\t", "é", "\u3000", "\u2003", "漢字かな", "\x7f", "\x01", "longer-words-still"]
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(LONG.map("".join))
def test_long_texts_collapse_and_measure_as_python_does(value):
    data, at = text.buffers(pa.array([value], pa.large_string()))
    out = np.zeros(len(value.encode()) + 8, np.uint8)
    size = kernels.collapse(data, at[0], at[1], kernels.SPACE, out, 0)
    assert bytes(out[:size]).decode() == " ".join(value.split())
    found = text.measure(pa.array([value], pa.large_string()))
    assert (found.chars[0], found.stripped[0]) == (len(value), len(value.strip()))
    assert bool(found.flags[0] & kernels.C0_CONTROL) == any(c in value for c in "\x7f\x01")
    assert bool(found.flags[0] & kernels.NON_ASCII) == (not value.isascii())
