"""Text from data is inert wherever a card shows it."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from curate.cards import figures, text
from curate.cards.model import Example, Fence, Table
from curate.cards.render import _block

PARSER = MarkdownIt("commonmark").enable("table")
INERT = {"inline", "text", "paragraph_open", "paragraph_close", "text_special", "softbreak"}
NASTY = st.text(st.sampled_from("`|\\*_[]()<>#!-=+~&;:@$^\"'\n\r\t ax1./wh\x1b\x00\u202e\ud800\U000e0041"), max_size=60)
HOSTILE = [
    "<script>alert(1)</script>",
    "[x](http://e.vil) ![y](z.png) <http://e.vil>",
    "\n# heading\n---\nconfigs: []\n---\n",
    "```\n~~~\n</details>",
    "a | b \\| c `|` ``|",
    "\x1b]0;title\x07\x1b[2J",
    "&lt;b&gt; &#35;",
]


def tokens(source):
    for token in PARSER.parse(source):
        yield token
        yield from token.children or []


def hostile(test):
    for sample in HOSTILE:
        test = example(sample)(test)
    return test


@hostile
@given(NASTY)
def test_prose_makes_no_markup_in_a_paragraph(data):
    assert {token.type for token in tokens(f"x {text.prose(data)}")} <= INERT


@hostile
@given(NASTY)
def test_a_code_span_holds_all_of_the_text_and_nothing_else_is_markup(data):
    found = list(tokens(f"x {text.code(data)} y"))
    assert {token.type for token in found} <= INERT | {"code_inline"}
    assert sum(token.type == "code_inline" for token in found) == bool(text.line(data))


@hostile
@given(NASTY)
def test_a_fence_cannot_be_left_from_inside(data):
    for block in (Fence(data), Example([text.code(data)], data)):
        kinds = [token.type for token in PARSER.parse(_block(block))]
        assert kinds.count("fence") == 1
        assert not {"heading_open", "html_block", "hr", "table_open"} & set(kinds)


@hostile
@given(NASTY)
def test_a_table_keeps_its_shape(data):
    table = _block(Table(("a", data), [[text.code(data), data], [data, 1]]))
    found = list(tokens(table))
    assert [token.type for token in found].count("td_open") == 4
    assert not {"link_open", "html_inline", "image", "em_open", "strong_open"} & {token.type for token in found}


@pytest.mark.parametrize("data", ["http://e.vil", "www.e.vil", "WWW.e.vil", "a@b", "#12", "mailto:a", "ftp://x"])
def test_nothing_is_left_that_github_links_by_itself(data):
    shown = text.prose(data).replace("\\", "")
    assert data not in shown
    assert text.JOINER in shown


@given(NASTY)
def test_terminals_get_no_control_characters(data):
    for shown in (text.plain(data), text.plain(text.code(data)), text.fence(data)):
        assert not any(ord(char) < 32 and char not in "\n\t" for char in shown)
        assert not any(char in shown for char in "\u202e\ud800\U000e0041\x7f")
        shown.encode()


@hostile
@given(NASTY)
def test_figures_stay_well_formed_whatever_a_source_is_called(data):
    for figure in (
        figures.funnel([(data, 5, 0, 3), (data, 3, 2, -1)]),
        figures.shares({data: {"kept": 1, data: 2}}),
        figures.ribbon([{"source": data, "start": 0, "length": 4}], 8, [[1, 2]]),
        figures.curves({data: [(1, 2.0), (2, 1.0)]}),
        figures.histogram("h", data, [0, 1], {data: [1, 2]}),
    ):
        root = ET.fromstring(figure.svg)
        assert not [node for node in root.iter() if node.tag.endswith("script")]


@pytest.mark.parametrize(("part", "whole", "shown"), [(0, 9, "0.0 %"), (1, 9999, "< 0.1 %"), (9999, 10000, "> 99.9 %")])
def test_a_share_is_never_rounded_to_nothing_or_all(part, whole, shown):
    assert text.percent(part, whole) == shown
