"""Exact cosine search: what float64 brute force finds, whatever the blocks; and who stays, as `survivors` says."""

from __future__ import annotations

import numpy as np
import pytest

from curate.clusters import survivors
from curate.embedding.search import cosines, pairs, settle


def crowded(seed: int, size: int, dimensions: int, spread: float = 0.35) -> np.ndarray:
    """Unit vectors in crowds around a few centres, a row of zeros now and then."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(size // 5, dimensions))
    found = centres[draw.integers(0, len(centres), size)] + spread * draw.normal(size=(size, dimensions))
    found[::50] = 0
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.divide(found, norms, out=found, where=norms > 0).astype(np.float32)


def brute(vectors: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    wide = vectors.astype(np.float64)
    norms = np.sqrt((wide * wide).sum(axis=1))
    found = []
    for late in range(len(wide)):
        for early in range(late):
            both = norms[early] * norms[late]
            if both and float((wide[early] * wide[late]).sum()) / both >= threshold:
                found.append((early, late))
    return found


@pytest.mark.parametrize("device", [None, "cpu"])
def test_pairs_are_those_of_brute_force_for_any_block(device):
    vectors = crowded(1, 250, 16)
    wanted = brute(vectors, 0.8)
    assert len(wanted) > 100
    for block in (1, 7, 100, 4_096):
        left, right, cosine = pairs(vectors, threshold=0.8, block=block, device=device)
        assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == sorted(wanted)
        assert np.array_equal(cosine, cosines(vectors[left], vectors[right]))
        assert (cosine >= 0.8).all()


def test_pairs_between_two_sets():
    ours, theirs = crowded(2, 130, 12), crowded(3, 90, 12)
    both = np.concatenate([ours, theirs])
    wanted = {(i, j - 130) for i, j in brute(both, 0.6) if i < 130 <= j}
    left, right, _ = pairs(ours, theirs, threshold=0.6, block=33)
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == wanted
    assert wanted


@pytest.mark.parametrize("threshold", [0.6, 0.8, 1.0])
@pytest.mark.parametrize("block", [1, 16, 100, 4_096])
def test_who_stays_and_the_twin_of_who_goes_are_those_of_all_verified_pairs(threshold, block):
    vectors = crowded(4, 300, 24)
    rows = np.random.default_rng(5).integers(0, len(vectors), 400)  # several records share a text
    left, right, cosine = pairs(vectors[rows], threshold=threshold)
    wanted = survivors(len(rows), left, right, cosine)
    found = settle(vectors, rows, threshold, block=block)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1], equal_nan=True)
    assert 50 < (found[0] >= 0).sum() < 390


def test_what_is_safe_stays_and_still_sends_others_away():
    vectors = np.array([[1, 0], [1, 0.01], [1, 0.3], [1, 0.31]], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    twin, _ = settle(vectors, np.arange(4), 0.99)
    assert twin.tolist() == [-1, 0, -1, 2]
    twin, _ = settle(vectors, np.arange(4), 0.99, safe=3)
    assert twin.tolist() == [-1, -1, -1, 2]


def test_the_threshold_is_inclusive_and_equal_texts_reach_one():
    draw = np.random.default_rng(6)
    vectors = draw.normal(size=(50, 384)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (cosines(vectors, vectors) == 1.0).all()
    value = float(cosines(vectors[:1], vectors[1:2])[0])
    if value < 0:
        vectors[1], value = -vectors[1], -value
    assert len(pairs(vectors[:2], threshold=value)[0]) == 1
    assert len(pairs(vectors[:2], threshold=float(np.nextafter(value, 1)))[0]) == 0


def test_a_crowd_of_rewrites_costs_no_quadratic_time():
    draw = np.random.default_rng(7)
    vectors = draw.normal(size=(1, 64)) + 0.02 * draw.normal(size=(60_000, 64))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    twin, cosine = settle(vectors.astype(np.float32), np.arange(60_000), 0.95)  # 1.8 billion pairs would not fit
    assert twin[0] == -1
    assert (twin[1:] == 0).all()
    assert (cosine[1:] >= 0.95).all()
