"""`--overlong truncate-turns`: whole turns go, and what is left ends with the assistant and fits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.record import Message
from pack.template import Renderer, Tokenizer
from pack.truncate import fit


@pytest.fixture(scope="module")
def render(root):
    return Renderer(Tokenizer.load(root / "tests/data/bytes_tokenizer"), engine="hf")


def talk(*turns):
    """Messages of (role, length): `u5 a9 s3` as ("u", 5), ("a", 9), ("s", 3)."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return [Message(roles[role], f"{place}".ljust(size, role)) for place, (role, size) in enumerate(turns)]


def truncated(render, messages, limit):
    """What is left of the messages, as text without markers; None when nothing fits."""
    results = render.encode_batch([(messages, None)])
    places = fit(render, [(messages, None)], results, limit)
    if not places:
        return None
    assert all(len(part.ids) <= limit for part in results[0])
    return render.tokenizer.decode(results[0][0].ids.tolist())


def whole(render, messages):
    return render.tokenizer.decode(render.encode(messages)[0].ids.tolist())


CHAT = talk(("s", 10), ("u", 20), ("a", 20), ("u", 20), ("a", 20), ("u", 20), ("a", 20))


@pytest.mark.parametrize("exchanges", [1, 2])
def test_trailing_turns_go_first_and_the_longest_head_that_fits_stays(render, exchanges):
    head = CHAT[: 1 + 2 * exchanges]
    size = len(render.encode(head)[0].ids)
    assert truncated(render, CHAT, size) == whole(render, head)
    longer = len(render.encode(CHAT[: 3 + 2 * exchanges])[0].ids)
    assert truncated(render, CHAT, longer - 1) == whole(render, head)


def test_a_question_without_an_answer_at_the_end_goes(render):
    asked = [*CHAT[:3], Message("user", "x" * 300)]
    assert truncated(render, asked, 200) == whole(render, CHAT[:3])


def test_leading_exchanges_go_where_the_first_does_not_fit_and_the_system_message_stays(render):
    long = talk(("s", 10), ("u", 20), ("a", 500), ("u", 20), ("a", 20), ("u", 20), ("a", 20))
    left = [long[0], *long[3:]]
    assert truncated(render, long, 260) == whole(render, left)
    size = len(render.encode(left)[0].ids)
    assert truncated(render, long, size - 1) == whole(render, [long[0], *long[5:]])


def test_an_answer_is_never_cut(render):
    single = talk(("u", 5), ("a", 500))
    results = render.encode_batch([(single, None)])
    before = results[0]
    assert fit(render, [(single, None)], results, 100) == []
    assert results[0] is before  # still over-long: dropped and counted by the plan


def test_what_fits_is_left_alone_and_only_changed_places_are_told(render):
    batch = [(talk(("u", 5), ("a", 5)), None), (CHAT, None), ([Message("user", "?")], None), (CHAT[:3], None)]
    results = render.encode_batch(batch)
    kept = list(results)
    assert fit(render, batch, results, 160) == [1]
    assert [result is was for result, was in zip(results, kept, strict=True)] == [True, False, True, True]


turns = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 90)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(turns, st.integers(30, 500), st.booleans())
def test_what_is_left_is_the_longest_run_of_exchanges_that_the_rule_allows(render, sizes, limit, system):
    lead = [("s", 7)] * system
    messages = talk(*lead, *(turn for user, answer in sizes for turn in (("u", user), ("a", answer))))
    if len(render.encode(messages)[0].ids) <= limit:
        return
    body = messages[len(lead) :]
    heads = [messages[: len(lead) + 2 * n] for n in range(len(sizes) - 1, 0, -1)]
    tails = [[*messages[: len(lead)], *body[2 * n :]] for n in range(1, len(sizes))]
    fitting = (choice for choice in [*heads, *tails] if len(render.encode(choice)[0].ids) <= limit)
    wanted = next(fitting, None)
    assert truncated(render, messages, limit) == (whole(render, wanted) if wanted else None)


def test_a_build_counts_the_truncated_and_drops_what_cannot_be(root, tmp_path):
    import pyarrow.parquet as pq

    from curate.config import resolve
    from curate.foundation.console import Console
    from curate.foundation.executor import Inline
    from curate.foundation.store import Store
    from curate.record import Record, to_table
    from pack.build import Build, build, open_records
    from pack.config import PackConfig
    from pack.verify import problems

    chats = [CHAT, talk(("u", 5), ("a", 500)), talk(("u", 5), ("a", 5))]
    records = [Record("a", "f", row, messages) for row, messages in enumerate(chats)]
    store = Store(tmp_path / "out", "records")
    with store.writing("records/a.parquet") as temp:
        pq.write_table(to_table(records), temp)
    store.commit({"recipe": {}, "sources": {}, "alarms": [], "config_digest": "c"}, ["records/a.parquet"])
    flags = {"ctx": 160, "tokenizer": str(root / "tests/data/bytes_tokenizer"), "tokenizer_engine": "hf"}
    flags |= {"eval_fraction": 0.0, "overlong": "truncate-turns"}
    resolved = resolve("pack", PackConfig, flags=flags)
    job = Build(tmp_path / "out", tmp_path / "shards", open_records(tmp_path / "out"), resolved)
    totals = build(job, Inline(), Console(quiet=True))["totals"]
    assert (totals["packed"], totals["overlong"], totals["truncated"]) == (2, 1, 1)
    assert problems(tmp_path / "shards")[0] == []
