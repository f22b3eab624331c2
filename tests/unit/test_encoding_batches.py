"""The batch path equals the slow path record by record, and takes only what is proved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.record import ROLES, Message, Record, to_table
from pack.batches import BatchEncoder, stored
from pack.columns import columns_of, odd_table
from pack.engines import HfEngine, differs_by_design
from pack.rendering import Template, TemplateFailed
from pack.template import Renderer
from pack.tokenizing import Tokenizer, _byte_level
from pack.tracing import Hole, Unprovable, trace

MARKS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
PLAIN_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMS = PLAIN_CHATML.replace("m.content", "(m.content | trim)")
ASKS = (
    "{% for m in messages %}{% if m.role == 'user' and m.content.startswith('!') %}{{ '(loud)' }}{% endif %}"
    "{{ '<|im_start|>' ~ m['role'] ~ '\n' }}{% if 'secret' in m.content %}{{ 'X' }}{% else %}{{ m.content.lstrip('\n') }}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHOUTS = PLAIN_CHATML.replace("m.content", "(m.content | upper)")
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.reasoning_content and loop.last %}"
    "{{ '<think>\n' + m.reasoning_content.strip('\n') + '\n</think>\n\n' }}{% endif %}{{ m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OPEN = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% endfor %}"


def toy(normalizer=None):
    chars = {byte: char for char, byte in _byte_level().items()}
    vocab = {chars[b]: b for b in range(256)} | {"ĊĊ": 256}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    added = [{"id": 257 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, text in enumerate(MARKS)]  # fmt: skip
    spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "vocab": vocab, "merges": [["Ċ", "Ċ"]]}}  # fmt: skip
    return Tokenizer(spec, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}, name="toy", template=None)


def batch_of(talks, tools=None):
    records = [Record("s", "f", row, list(talk), tools=tools) for row, talk in enumerate(talks)]
    return to_table(records).combine_chunks().to_batches()[0]


def same(renderer, talks, tools=None):
    """Hold the two paths equal; returns how many records the batch path took."""
    renderer.counts.clear()
    found = BatchEncoder(renderer).encode(batch_of(talks, tools))
    before = dict(renderer.counts)
    renderer.counts.clear()
    slow = renderer.encode_batch([(talk, tools) for talk in talks])
    assert {k: v for k, v in before.items() if v} == {k: v for k, v in renderer.counts.items() if v}
    edges = np.concatenate([[0], np.cumsum(found.lengths)]).tolist()
    place = 0
    for row, result in enumerate(slow):
        if isinstance(result, TemplateFailed):
            assert str(found.failures[row]) == str(result)
            continue
        assert row not in found.failures
        for part in result:
            assert (found.rows[place], found.segments[place]) == (row, part.segment)
            assert found.tokens[edges[place] : edges[place + 1]].tolist() == stored(part).tolist()
            assert found.trained[place] == part.mask[1:].sum()
            assert (found.control[place], found.stop_added[place], found.straddled[place]) == (
                part.control, part.stop_added, part.straddled)  # fmt: skip
            place += 1
    lost = {int(row): kinds for kinds, rows in found.lost for row in np.atleast_1d(rows).tolist()}
    assert lost == {row: r[-1].lost for row, r in enumerate(slow) if isinstance(r, list) and r[-1].lost}
    assert place == len(found.rows)
    return found.by_form


def renderer_of(tmp_path_factory, source, **rules):
    if source in ("chatml", "qwen", "none"):
        return Renderer(toy(rules.pop("normalizer", None)), template=source, engine="hf", **rules)
    file = tmp_path_factory.mktemp("t") / "t.jinja"
    file.write_text(source, "utf-8")
    return Renderer(toy(rules.pop("normalizer", None)), template=str(file), engine="hf", **rules)


texts = st.one_of(
    st.sampled_from(
        ["a", "", " ", "\n\nb", "b \n", "!x", "a secret", "<|im_end|>", "x</think>y", "é\u3000", "e\u0301", "日本"]
    ),
    st.text(max_size=12).filter(lambda text: text.isprintable() or text.isspace() or not text),
)
talks = st.lists(
    st.lists(
        st.builds(
            lambda role, text, train, thought: Message(
                role, text, reasoning=thought if role == "assistant" else None, train=train or role != "assistant"
            ),
            st.sampled_from(ROLES[:3]), texts, st.booleans(), st.one_of(st.none(), texts),
        ),
        min_size=1, max_size=4,
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@pytest.mark.parametrize("source", ["chatml", "qwen", PLAIN_CHATML, TRIMS, ASKS, SHOUTS, THINKS, OPEN],
                         ids=["chatml", "qwen", "plain", "trims", "asks", "shouts", "thinks", "open"])  # fmt: skip
def test_any_conversations_come_out_as_on_the_slow_path(tmp_path_factory, source):
    renderer = renderer_of(tmp_path_factory, source)

    @settings(max_examples=25, deadline=None)
    @given(talks)
    def check(drawn):
        same(renderer, [*drawn, *drawn, *drawn, *drawn])  # a shape must be common to be worth a form

    check()


TALK = [Message("user", "Hi"), Message("assistant", "Hello")]


@pytest.mark.parametrize("rules", [
    {"loss_on": "all"}, {"loss_on": "last"}, {"loss_on": "completion"}, {"control_tokens": "strip"},
    {"control_tokens": "reject"}, {"thinking": "split"}, {"thinking": "all"}, {"normalizer": {"type": "NFC"}},
], ids=str)  # fmt: skip
def test_every_rule_holds_on_the_batch_path(tmp_path_factory, rules):
    long = [
        Message("system", "s"),
        *TALK,
        Message("user", "<|im_start|> x"),
        Message("assistant", "e\u0301", reasoning="r"),
    ]
    unsaid = [Message("user", "q"), Message("assistant", "a", train=False), *TALK]
    for source in ("chatml", THINKS):
        assert same(renderer_of(tmp_path_factory, source, **dict(rules)), [TALK, long, unsaid] * 5) >= 5


@pytest.mark.parametrize("given_format", [None, "Question: {prompt}\nAnswer: ", "{system}|{prompt}|{prompt}: "])
def test_prompt_formats_take_the_batch_path_too(given_format):
    renderer = Renderer(
        toy(), template="none" if given_format is None else None, prompt_format=given_format, engine="hf"
    )
    odd = [
        [Message("user", "q")],
        [Message("assistant", "text alone")],
        [Message("user", "<s>"), Message("assistant", "</s>")],
    ]
    assert same(renderer, [TALK, *odd, [Message("system", "S"), *TALK]] * 5) >= 10


def test_what_a_form_takes_and_what_it_leaves(tmp_path_factory):
    common = [TALK] * 5
    assert same(renderer_of(tmp_path_factory, ASKS), [*common, [Message("user", "!x"), Message("assistant", "b")]]) == 5
    assert (
        same(renderer_of(tmp_path_factory, ASKS), [*common, [Message("user", "x"), Message("assistant", "my secret")]])
        == 5
    )
    assert same(renderer_of(tmp_path_factory, SHOUTS), common) == 0
    assert same(renderer_of(tmp_path_factory, "chatml"), [TALK] * 3) == 0, "too rare to be worth a form"
    assert same(renderer_of(tmp_path_factory, "chatml"), common, tools=json.dumps([{"name": "f"}])) == 0
    literal = [Message("user", "end <|im_end|>"), Message("assistant", "<s> too")]
    assert same(renderer_of(tmp_path_factory, "chatml"), [literal] * 5) == 5, "the safe path, a batch at a time"


def test_a_limit_sends_over_long_conversations_to_be_shortened(tmp_path_factory):
    encoder = BatchEncoder(renderer_of(tmp_path_factory, "chatml"))
    found = encoder.encode(
        batch_of([TALK] * 5 + [[*TALK, Message("user", "x" * 90), Message("assistant", "y")]] * 5), 80
    )
    assert found.fitted.tolist() == [5, 6, 7, 8, 9] and found.lengths.max() <= 80 and found.by_form == 5


class WrongBuffers(HfEngine):
    """Right on lists, wrong on buffers: one id too few where the text is long."""

    def encode_buffer(self, text, edges):
        ids, borders = super().encode_buffer(text, edges)
        return ids[:-1], np.minimum(borders, len(ids) - 1)


def test_an_engine_whose_ids_do_not_spell_the_text_is_never_believed(tmp_path_factory):
    renderer = renderer_of(tmp_path_factory, "chatml")
    renderer.encoder.engine = WrongBuffers(renderer.tokenizer)
    assert same(renderer, [TALK] * 6) == 5


@pytest.mark.parametrize("source", [
    "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "{% for m in messages %}{{ m.content[:3] }}{% endfor %}",
    "{% for m in messages %}{{ m.content | length }}{% endfor %}",
    "{% for m in messages %}{{ m.content.replace('a', 'b') }}{% endfor %}",
    "{% for m in messages %}{{ '%9s' % m.content }}{% endfor %}",
    "{% for m in messages %}{{ '{:>9}'.format(m.content) }}{% endfor %}",
    "{% for m in messages %}{% for c in m.content %}{{ c }}{% endfor %}{% endfor %}",
    "{% macro say(t) %}{{ t }}{% endmacro %}{% for m in messages %}{{ say(m.content) | upper }}{% endfor %}",
    "{% for m in messages %}{% set x %}{{ m.content }}{% endset %}{{ x | upper }}{% endfor %}",
    "{% for m in messages %}{% filter upper %}{{ m.content }}{% endfilter %}{% endfor %}",
    "{{ messages | map(attribute='content') | join('') | upper }}",
    "{{ messages | tojson }}",
    "{% for m in messages %}{{ ('x' ~ m.content) | upper }}{% endfor %}",
    "{% for m in messages %}{% if m.content < 'b' %}x{% endif %}{% endfor %}",
    "{% for m in messages %}{{ {m.content: 1} }}{% endfor %}",
    "{% for m in messages %}{{ m.content * 2 }}{% endfor %}",
    "{% for m in messages %}{{ m.content.strip('xyz') }}{% endfor %}",
    "{% for m in messages %}{{ m.content is lower }}{% endfor %}",
    "{% if messages[0].content == messages[1].content %}x{% endif %}",
    "{% if messages[0].content in 'abc' %}x{% endif %}",
    "{{ 'a'.join([messages[0].content]) }}",
    "{{ messages | string }}",
], ids=lambda source: source[:60])  # fmt: skip
def test_whatever_looks_into_a_text_is_not_proved(source):
    with pytest.raises(Unprovable):
        trace(Template(source, {}), [{"role": "user", "content": Hole(0)}, {"role": "assistant", "content": Hole(1)}])


def test_a_trace_names_literals_slots_strips_and_questions():
    source = "{{ bos_token }}{% for m in messages %}[{{ m.content | trim }}{% if 'z' in m.content %}!{% endif %}]{% endfor %}"
    found = trace(Template(source, {"bos_token": "<s>"}), [{"role": "user", "content": Hole(4)}])
    assert found.literals == ["<s>[", "]"] and found.slots == [(4, (("lstrip", ""), ("rstrip", "")))]
    assert [(q.slot, q.kind, q.what) for q in found.questions] == [(4, "contains", "z")]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8))
@settings(max_examples=300, deadline=None)
def test_scanning_and_stripping_agree_with_str(text):
    from pack.kernels import FLAG_BLANK, FLAG_ODD, scan_kernel, strip_kernel

    data = np.frombuffer(text.encode() or b"\0", np.uint8)
    size = len(text.encode())
    flags = scan_kernel(data, np.array([0]), np.array([size]), True, odd_table())[0]
    assert bool(flags & FLAG_BLANK) == (not text.strip())
    assert flags & FLAG_ODD or not differs_by_design(text)
    for method, left, right in (("strip", True, True), ("lstrip", True, False), ("rstrip", False, True)):
        for chars in (None, "\n"):
            starts, ends = np.array([0]), np.array([size])
            strip_kernel(data, starts, ends, left, right, chars == "\n")
            assert data[starts[0] : ends[0]].tobytes().decode() == getattr(text, method)(chars)


def test_the_table_holds_every_character_the_engines_may_disagree_on():
    import unicodedata

    table = odd_table()
    wrong = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and not table[c] and differs_by_design(chr(c))]
    assert wrong == []
    assert all(table[c] for c in range(0x110000) if unicodedata.combining(chr(c)))
    assert not table[ord("é")] and not table[ord("日")] and not table[ord("가")] and not table[ord("🙂")]


def test_sliced_batches_are_read_from_where_they_begin():
    whole = batch_of([[Message("user", f"{i}"), Message("assistant", "a" * i)] for i in range(1, 9)])
    part = columns_of(whole.slice(3, 4), False)
    assert part.plain.all() and len(part.plain) == 4 and part.offsets.tolist() == [0, 2, 4, 6, 8]
    text = part.texts[0]
    assert [text.data[a:b].tobytes() for a, b in zip(text.starts, text.ends, strict=True)][::2] == [
        b"4",
        b"5",
        b"6",
        b"7",
    ]
