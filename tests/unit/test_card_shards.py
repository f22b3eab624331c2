"""The card of shards says what a trainer must know first, from the manifest alone."""

import pytest

from curate.cards.render import build, rendered, write_card

SOURCE = {
    "licence": "mit",
    "records": 10,
    "packed": 6,
    "eval": 1,
    "overlong": 1,
    "template_failed": 2,
    "not_drawn": 0,
    "documents": 12,
    "tokens": 1_000,
    "trained": 250,
    "epochs": 2.0,
    "lost": {"system": 3},
    "control": 5,
    "control_records": 2,
}
SPLIT = {"ctx": 64, "rows": 20, "lower_bound": 19, "fill": 0.78125, "segments": 12, "tokens": 1_000, "trained": 250}
MANIFEST = {
    "kind": "shards",
    "ctx": 64,
    "sources": {"a": SOURCE},
    "totals": {"records": 10, "tokens": 1_000, "trained": 250, "overlong": 1, "template_failed": 2},
    "splits": {"eval": {**SPLIT, "rows": 1}, "train": SPLIT},
    "stages": [],
    "template_failed": {"role-alternation": 2},
    "engine": {"engine": "gigatoken", "reason": "equal on both", "torture": 797, "sample": 258, "differing": 0},
    "rendering": {"loss_on": "assistant", "control_tokens": "text"},
    "template_digest": "ab" * 16,
    "samples": [{"source": "a", "text": "key sk-abcdefghijklmnopqrstuvwxyz0123456789ABCDEF"}],
    "recipe": {"pack": {"ctx": 64, "overlong": "drop"}},
    "tokenizer": {"name": "some/model", "vocab_size": 300},
}
STAGED = {
    **MANIFEST,
    "splits": {"eval": SPLIT, "long": {**SPLIT, "ctx": 128}, "short": SPLIT},
    "stages": [
        {"name": "short", "split": "short", **SPLIT, "sources": {"a": SOURCE}},
        {"name": "long", "split": "long", **SPLIT, "ctx": 128, "sources": {"a": {**SOURCE, "documents": 0}}},
    ],
}


@pytest.fixture
def card(tmp_path):
    def text(manifest):
        write_card(tmp_path, manifest)
        return rendered(tmp_path, manifest)["README.md"].decode()

    return text


@pytest.mark.parametrize(
    "said",
    [
        "21 packed rows of exactly 64 tokens. 78.12 % of the training tokens are text",
        "gigatoken (equal on both); 797 nasty texts and 258 texts of the records encoded by both engines, 0 differ",
        "does not show every text of source a: system 3",
        "| Segments a row | 0.6 |",
        "| Share with loss | 25.0 % |",
        "| template failed | `role-alternation` | 2 |",
        "| text not printed, source a | `system` | 3 |",
        "| `a` | 12 | 1,000 | 100.0 % | 250 | 25.0 % | 2 |",
        "| `a` | 5 | 2 | 20.0 % |",
        "`" + "ab" * 16 + "`",
        "pack build out/ shards/ --tokenizer some/model --ctx 64 --overlong drop",
    ],
)
def test_the_card_of_shards_says(card, said):
    assert said in card(MANIFEST)


def test_samples_of_trained_text_are_redacted(card):
    assert "sk-abcdefgh" not in card(MANIFEST)


def test_a_curriculum_has_the_rows_and_fill_of_each_stage_in_the_headline_and_its_epochs_in_a_table(tmp_path):
    made = build(tmp_path, STAGED)
    assert made.headline == (
        "2 stages in order. short: 20 rows of 64 tokens, 78.12 % filled; long: 20 rows of 128 tokens, 78.12 % filled."
    )
    assert dict(made.facts)["Tokens a row"] == "64, 128"
    section = next(part for part in made.sections if part.title == "Stages")
    assert [row[0] for row in section.blocks[1].rows] == ["`short`"]  # a source that a stage does not draw is no line
    order = next(part for part in made.sections if part.title == "How the rows are packed").blocks[-1]
    assert [row[0] for row in order.rows] == ["`short`", "`long`", "`eval`"]


def test_a_card_without_control_tokens_says_so(card):
    none = {**MANIFEST, "sources": {"a": {**SOURCE, "control": 0, "control_records": 0}}}
    assert "No text of these records holds a literal control token." in card(none)
