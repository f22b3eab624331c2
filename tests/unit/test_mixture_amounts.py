"""How much of each source is drawn, from sizes alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.config import validate
from curate.foundation.errors import DataError, UsageError
from pack.budgets import Pool, settle
from pack.config import PackConfig
from pack.mixture import in_pass


def pools(seed=0, trained=0.5, **sizes):
    """Pools of so many documents of 50 to 150 tokens each."""
    out, rng = [], np.random.default_rng(seed)
    for name, count in sizes.items():
        tokens = rng.integers(50, 151, count)
        out.append(Pool(name, np.arange(count), tokens, (tokens * trained).astype(np.int64)))
    return out


def drawn(sources, **settings):
    config = validate(PackConfig, settings, "pack")
    return {pool.name: draw for pool, draw in zip(sources, settle(sources, config), strict=True)}


MU_TIMES_10 = {"mu": 10}
CAMEL = {"camel": {"fill_to": {"times": 4, "of": "mu"}}}
HERMES = {"hermes": {"fill_to": {"times": 16, "of": "mu"}}}
NONE = {"epochs": 0}
MIXES = {
    1: {**MU_TIMES_10, "camel": NONE, "hermes": NONE},
    4: {**MU_TIMES_10, **CAMEL, "hermes": NONE},
    16: {**HERMES, **CAMEL, **MU_TIMES_10},  # the order in which they are written says nothing
}


@pytest.mark.parametrize("times", MIXES)
def test_math_mix_comes_out_at_its_multiple_of_the_tokens_within_1_percent(times):
    sources = pools(mu=1_600, camel=50_000, hermes=1_000_000)
    out = drawn(sources, mixture=MIXES[times])
    base = 10 * sources[0].size("tokens")
    assert out["mu"].tokens == base
    assert sum(draw.tokens for draw in out.values()) / base == pytest.approx(times, rel=0.01)
    if times == 16:
        assert out["camel"].tokens == pytest.approx(3 * base, rel=0.01)
        assert out["hermes"].tokens == pytest.approx(12 * base, rel=0.01)


def test_weights_are_shares_of_tokens_and_draw_the_scarcest_source_once():
    sources = pools(web=5_000, code=2_000)
    out = drawn(sources, mixture={"web": {"weight": 60}, "code": {"weight": 40}})
    assert out["code"].whole == 1 and out["code"].extra == 0
    assert out["web"].tokens / (out["web"].tokens + out["code"].tokens) == pytest.approx(0.6, abs=0.001)


@pytest.mark.parametrize("unit", ["tokens", "trained"])
def test_a_total_is_met_in_tokens_or_trained_tokens(unit):
    rng = np.random.default_rng(1)
    sources = pools(web=5_000) + pools(code=2_000, trained=0.9, seed=2)
    total = int(rng.integers(100_000, 200_000))
    for mixture in ({"web": {"weight": 3}, "code": {"weight": 1}}, {}, {"code": 0.5}):
        out = drawn(sources, mixture=mixture, total={unit: total})
        assert sum(getattr(draw, unit) for draw in out.values()) == pytest.approx(total, abs=151)


def test_weights_share_what_epochs_and_budgets_leave():
    sources = pools(web=5_000, code=2_000, gsm=100)
    mixture = {"web": {"weight": 1}, "code": {"weight": 1}, "gsm": {"epochs": 3}}
    out = drawn(sources, mixture=mixture, total=200_000)
    assert out["gsm"].tokens == 3 * sources[2].size("tokens")
    assert out["web"].tokens == pytest.approx(out["code"].tokens, abs=151)
    assert sum(draw.tokens for draw in out.values()) == pytest.approx(200_000, abs=300)


def test_a_budget_is_met_to_the_nearest_document_whatever_it_is_measured_in():
    sources = pools(a=1_000, b=1_000, c=1_000)
    mixture = {
        "a": {"budget": "20k"},
        "b": {"budget": {"trained": 7_000}},
        "c": {"budget": {"times": 2.5, "of": ["a", "b"]}},
    }
    out = drawn(sources, mixture=mixture)
    assert out["a"].tokens == pytest.approx(20_000, abs=75)
    assert out["b"].trained == pytest.approx(7_000, abs=38)
    assert out["c"].tokens == pytest.approx(2.5 * (out["a"].tokens + out["b"].tokens), abs=75)


def test_a_source_drawn_more_often_than_it_has_documents_repeats_evenly():
    out = drawn(pools(a=10), mixture={"a": {"budget": {"tokens": 4_000}}})["a"]
    assert out.whole in (3, 4) and out.tokens == pytest.approx(4_000, abs=75)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=50), st.floats(0.1, 1_000))
def test_no_prefix_comes_nearer_to_a_budget_than_the_one_drawn(lengths, amount):
    tokens = np.array(lengths)
    pool = Pool("a", np.arange(len(tokens)), tokens, tokens)
    whole, rest = divmod(amount, int(tokens.sum()))
    found = pool.amount("tokens", amount)
    best = min(abs(rest - int(tokens[:k].sum())) for k in range(len(tokens) + 1))
    assert abs(found.tokens - amount) <= best + 1e-6
    assert found.whole == whole


REFUSED = {
    "circle": ({"a": {"budget": {"times": 1, "of": "b"}}, "b": {"budget": {"times": 1, "of": "a"}}}, "not settled"),
    "against a fill": ({"a": {"fill_to": 9_000}, "b": {"budget": {"times": 1, "of": "a"}}}, "not settled"),
    "a total that is passed": ({"a": 2, "b": {"fill_to": {"times": 0.5, "of": "a"}}}, "cannot fill up"),
    "weight and nothing": ({"a": {"weight": 1}}, "weighs some sources"),
    "weight and fill": ({"a": {"weight": 1}, "b": {"fill_to": 1_000}}, "both weight and fill_to"),
    "unknown source": ({"aa": 1}, "not a source"),
    "unknown of": ({"a": {"budget": {"times": 1, "of": "mu"}}}, "not a source"),
    "too often": ({"a": {"budget": "1B"}}, "would be drawn"),
    "two amounts": ({"a": {"epochs": 1, "weight": 1}}, "one of epochs"),
    "times of nothing": ({"a": {"budget": {"times": 2}}}, "belong together"),
    "no number": ({"a": {"budget": "much"}}, "integer"),
    "nearest key": ({"a": {"epoch": 1}}, "did you mean 'epochs'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mixture_that_cannot_hold_is_refused_with_its_reason(name):
    mixture, message = REFUSED[name]
    with pytest.raises(UsageError, match=message) as raised:
        drawn(pools(a=50, b=50), mixture=mixture)
    assert raised.value.hint


def test_epochs_and_mixture_may_not_both_speak_for_a_source():
    with pytest.raises(UsageError, match="say it once"):
        drawn(pools(a=5), epochs={"a": 1}, mixture={"a": 2})


def test_an_empty_source_with_a_weight_is_named():
    with pytest.raises(DataError, match="source b"):
        drawn(pools(a=5, b=0), mixture={"a": {"weight": 1}, "b": {"weight": 1}})


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32))
def test_repeats_lie_in_distinct_passes_evenly_spread_and_in_order(passes, seed):
    rng = np.random.default_rng(seed)
    times = rng.integers(1, passes + 1, 50)
    offset = rng.integers(0, passes, 50)
    found = [in_pass(offset, times, passes, number) for number in range(passes)]
    for record in range(50):
        there = [(number, int(repeat[record])) for number, (inside, repeat) in enumerate(found) if inside[record]]
        assert [repeat for _, repeat in there] == list(range(times[record]))
        gaps = np.diff([number for number, _ in there])
        if len(gaps):
            assert gaps.max() - gaps.min() <= 1 or min(passes - gaps.sum(), gaps.min()) >= passes // times[record]
