import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pack.binning import ALGORITHMS, _largest_kernel, _pair_kernel, assign, lower_bound

CAPACITY = 300
lengths_of = st.lists(st.integers(1, CAPACITY), max_size=200).map(lambda values: np.array(values, dtype=np.int64))


@settings(max_examples=150, deadline=None)
@given(lengths_of, st.sampled_from(ALGORITHMS), st.sampled_from([0, 7, 50]))
def test_every_item_lies_in_exactly_one_bin_and_no_bin_overflows(lengths, algorithm, window):
    bins = assign(lengths, CAPACITY, algorithm, window)
    assert sorted(bins.items.tolist()) == list(range(len(lengths)))
    for b in range(len(bins)):
        items = bins.bin(b)
        assert len(items) >= 1
        assert lengths[items].sum() <= CAPACITY
        assert items.tolist() == sorted(items.tolist())


@settings(max_examples=60, deadline=None)
@given(lengths_of, st.sampled_from(ALGORITHMS))
def test_no_packing_beats_the_lower_bound(lengths, algorithm):
    bound = lower_bound(lengths, CAPACITY)
    assert bound >= -(-int(lengths.sum()) // CAPACITY)
    assert len(assign(lengths, CAPACITY, algorithm)) >= bound


@settings(max_examples=40, deadline=None)
@given(lengths_of, st.sampled_from([0, 7]))
def test_the_same_lengths_give_the_same_bins(lengths, window):
    first, second = assign(lengths, CAPACITY, "bfd", window), assign(lengths.copy(), CAPACITY, "bfd", window)
    assert np.array_equal(first.items, second.items)
    assert np.array_equal(first.starts, second.starts)


@pytest.mark.parametrize(
    ("lengths", "capacity", "bins"),
    [
        ([6, 4, 5, 5], 10, 2),  # 6+4, 5+5: the pair of equal halves
        ([7, 2, 1, 6, 3, 1], 10, 2),  # 7+2+1: completed by two items, not by the 3 that fits best
        ([8, 1, 1, 5, 3, 2], 10, 2),
        ([10], 10, 1),
        ([64, 64, 63, 1], 128, 2),  # word borders of the bitmap
        ([1] * 300, 256, 2),
    ],
)
def test_bins_are_completed_exactly(lengths, capacity, bins):
    assert len(assign(np.array(lengths), capacity)) == bins


def test_two_items_over_half_never_share_so_the_bound_counts_them():
    assert lower_bound(np.array([6, 6, 6]), 10) == 3
    assert lower_bound(np.array([], dtype=np.int64), 10) == 0


def chat_lengths(count, seed=0):
    values = np.random.default_rng(seed).lognormal(np.log(190), 0.95, count)
    return np.clip(np.round(values), 1, 4096).astype(np.int64)


def test_chat_lengths_pack_within_a_hair_of_the_bound():
    lengths = chat_lengths(200_000)
    bound = lower_bound(lengths, 4096)
    for window in (0, 50_000):
        assert len(assign(lengths, 4096, "bfd", window)) <= bound + max(2, bound * 0.0002)


def test_reasoning_lengths_fill_at_least_997_in_a_thousand():
    values = np.random.default_rng(1).lognormal(np.log(1350), 0.83, 110_000)
    lengths = np.round(values[values <= 4096]).astype(np.int64)
    assert (lengths > 2048).mean() > 0.2
    assert lengths.sum() / (len(assign(lengths, 4096)) * 4096) >= 0.997


@pytest.mark.parametrize("capacity", [256, 4096, 131_072])
def test_any_context_length_packs(capacity):
    lengths = np.random.default_rng(2).integers(1, capacity + 1, 3_000)
    bins = assign(lengths, capacity)
    assert np.add.reduceat(lengths[bins.items], bins.starts[:-1]).max() <= capacity


def test_lengths_outside_the_bin_are_refused():
    with pytest.raises(ValueError, match="from 1 to 10"):
        assign(np.array([11]), 10)
    with pytest.raises(ValueError, match="from 1 to 10"):
        assign(np.array([0]), 10)


def reasoning_lengths(count, ctx, seed=3):
    values = np.random.default_rng(seed).lognormal(np.log(0.45 * ctx), 0.9, 3 * count)
    return np.maximum(1, np.round(values[values <= ctx][:count])).astype(np.int64)


@pytest.mark.parametrize("ctx", [256, 4096, 32_768, 65_536, 131_072])
@pytest.mark.parametrize("count", [10_000, 100_000])
def test_lengths_with_a_third_over_half_a_row_pack_at_the_bound_whatever_the_row(ctx, count):
    lengths = reasoning_lengths(count, ctx)
    bound = lower_bound(lengths, ctx)
    bins = len(assign(lengths, ctx))
    assert (lengths > ctx // 2).mean() > 0.31
    assert bins <= bound + max(2, bound * 0.0002)
    assert lengths.sum() / (bins * ctx) >= 0.997


@pytest.mark.parametrize("ctx", [256, 512, 1024, 4096, 32_768, 131_072])
@pytest.mark.parametrize("count", [300, 1_000, 3_000, 52_000])
def test_chat_lengths_pack_at_the_bound_whatever_the_row(ctx, count):
    lengths = chat_lengths(3 * count, seed=ctx)
    lengths = lengths[lengths <= ctx][:count]
    bound = lower_bound(lengths, ctx)
    assert len(assign(lengths, ctx)) <= bound + max(2, bound * 0.0002)


def test_under_full_bins_are_carried_into_the_next_window():
    """Halves of rows in the first window wait for their other halves in the second."""
    lengths = np.concatenate([np.full(50, 60), np.full(50, 40)])
    assert len(assign(lengths, 100, "bfd", 50)) == 50
    alone = sum(len(assign(part, 100, "bfd", 0)) for part in np.split(lengths, 2))
    assert alone == 50 + 25


exact = st.lists(st.integers(1, CAPACITY - 2), min_size=1, max_size=40)


@settings(max_examples=100, deadline=None)
@given(exact, st.integers(0, 2**32))
def test_lengths_made_by_cutting_full_rows_in_two_pack_into_those_rows(cuts, seed):
    pairs = np.array([length for cut in cuts for length in (cut, CAPACITY - cut)], dtype=np.int64)
    lengths = np.random.default_rng(seed).permutation(pairs)
    assert len(assign(lengths, CAPACITY)) == len(cuts)


def pair_by_brute_force(lengths, room):
    """The smallest length over or at half of `room` that sums to it with another one, 0 when there is none."""
    left = sorted(lengths)
    for place, larger in enumerate(left):
        if 2 * larger >= room and room - larger in left[:place]:
            return larger
    return 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, CAPACITY), min_size=1, max_size=30), st.integers(2, CAPACITY))
def test_the_bitmaps_find_the_pair_and_the_largest_that_brute_force_finds(lengths, room):
    count = np.bincount(lengths, minlength=CAPACITY + 1)
    bits, mirror = np.zeros((CAPACITY >> 6) + 3, np.uint64), np.zeros(2 * (CAPACITY >> 6) + 4, np.uint64)
    for length in lengths:
        for words, place in ((bits, length), (mirror, CAPACITY - length)):
            words[place >> 6] |= np.uint64(1 << (place & 63))
    assert _pair_kernel(bits, mirror, count, room, CAPACITY, max(lengths)) == pair_by_brute_force(lengths, room)
    assert _largest_kernel(bits, room) == max((length for length in lengths if length <= room), default=0)
