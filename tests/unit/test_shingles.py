"""Words and shingles: the kernels agree with plain Python on any text, and odd texts have defined results."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate.placed import load_shingles, longest_placed, place
from curate.shingles import (
    NO_WIDE,
    permutations,
    shingle_hash,
    shingle_hash64,
    shingles_of,
    signatures,
    whole_texts,
)
from curate.splitting import room_for
from curate.words import wide_table, words

A, B = permutations(24, seed=1)
LETTERS = "aZ09_ -.,\n\t'İıſΣσςßﬁﬃÅÅé́½²…“”—你好かなカナｶﾅ한ㅎᄒ각שלוםمرحبا😀👩‍🚀🇩🇪ไทยदिव𝐀𐐀\u00a0\u200b\u0301\u3099"


def kernel_sets(texts: list[str], ngram: int) -> tuple[list[set[int]], list[int]]:
    """What the kernels find, by way of the counts that the signatures report."""
    import numpy as np

    array = whole_texts(pa.array(texts, pa.large_string()))
    _, counts = signatures(array, ngram, A, B)
    placed = place([(array, np.arange(len(texts)), np.arange(len(texts)))], len(texts))
    found = []
    for item, count in enumerate(counts.tolist()):
        out = np.zeros(max(count, 1), np.uint64)
        for table in (NO_WIDE, wide_table(), wide_table()):
            room = room_for(int(longest_placed(placed.size, placed.bounds, item, item + 1)))  # canonical may be longer
            lists = placed.address, placed.size, placed.bounds, placed.plain
            made = load_shingles(lists, item, table, ngram, room, out)
            if made == -2:
                placed.rewrite(item)
        assert made == count
        found.append(set(out[:count].tolist()))
    return found, counts.tolist()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(alphabet=LETTERS, max_size=60), st.text(max_size=40)), max_size=6), st.integers(1, 6))
@example(["", " ", "ΑΣ ΑΣΑ", "e\u0301 \u0301", "ﬁn ½ Å", "\u1100\u1161\u11a8", "中文 and 한국어", "İstanbul"], 2)
def test_kernels_find_the_shingles_of_the_reference(texts, ngram):
    found, _ = kernel_sets(texts, ngram)
    assert found == shingles_of(texts, ngram)


def test_every_character_below_the_wide_limit_splits_as_the_reference_does():
    texts = []
    for start in range(0, 0x20000, 64):
        chars = [chr(point) for point in range(start, start + 64) if not 0xD800 <= point < 0xE000]
        texts.append(" ".join(f"x{char}Y" for char in chars))
    found, _ = kernel_sets(texts, 1)
    wrong = [hex(i * 64) for i, (one, two) in enumerate(zip(found, shingles_of(texts, 1), strict=True)) if one != two]
    assert not wrong


def test_the_word_rule():
    assert words("Don't PANIC_42 — ﬁne") == ["don", "t", "panic_42", "fine"]
    assert words("我爱NLP，カナ ok") == ["我", "爱", "nlp", "カ", "ナ", "ok"]
    assert words("한국어 문장") == ["한국어", "문장"]
    assert words("שלום עולם") == ["שלום", "עולם"]
    assert words("!?… 😀 ***") == []


def test_short_texts_are_one_shingle_of_their_own_length():
    found, counts = kernel_sets(["one two three", "One, two; THREE!", "one two"], 5)
    assert counts == [1, 1, 1]
    assert found[0] == found[1] == {shingle_hash64(b"one two three")} != found[2]


@pytest.mark.parametrize("text", ["", "...!?", "😀 🎉", "\u200f\u200e", "\n\t "])
def test_a_text_without_words_has_no_shingles_and_an_empty_signature(text):
    values, counts = signatures(whole_texts(pa.array([text], pa.large_string())), 5, A, B)
    assert counts.tolist() == [0]
    assert (values == 0xFFFFFFFF).all()


def test_ten_megabytes_of_one_word_are_one_distinct_shingle():
    found, counts = kernel_sets(["word " * 2_000_000, "x" * 10_000_000], 5)
    assert counts == [1_999_996, 1]
    assert [len(one) for one in found] == [1, 1]


def test_the_exported_hash_is_the_low_half():
    assert shingle_hash(b"a b") == shingle_hash64(b"a b") & 0xFFFFFFFF


def test_a_slice_of_an_array_is_read_from_its_offset():
    array = pa.array(["zero", "one two", "drei vier", "fünf"], pa.large_string())
    whole, _ = signatures(whole_texts(array), 2, A, B)
    part, _ = signatures(whole_texts(array.slice(1, 3)), 2, A, B)
    assert (whole[1:] == part).all()
