"""A card is complete, deterministic, and never loses what a person wrote."""

import copy
import json
import xml.etree.ElementTree as ET

import pytest

from curate.cards import sidecar
from curate.cards.gallery import compare
from curate.cards.model import Card
from curate.cards.render import build, render_terminal, write_card
from curate.cards.terminal import draw
from curate.foundation.errors import UsageError

EVIL = "<script>x</script> [l](http://e.vil) \x1b[31m\n---\nconfigs: []\n---\n# no"


def records(sources=("chat", "math")):
    place = {"rows": 110, "records": 100, "quarantined": 10, "kept": 90, "removed": {"exact": 10}, "licence": "mit"}
    count = len(sources)
    totals = {"rows": 110, "records": 100, "quarantined": 10, "kept": 90, "removed": 10, "characters_kept": 9}
    stage = {
        "name": "exact",
        "records_in": 100 * count,
        "removed": 10 * count,
        "rules": {"exact.copy": {"removed": 10}},
    }
    return {
        "kind": "records",
        "totals": {key: value * count for key, value in totals.items()},
        "sources": {name: copy.deepcopy(place) for name in sources},
        "stages": [stage],
        "quarantine": {"broken JSON": 10 * count},
        "lengths": {"edges": [0, 1, 8], "user": [0, 5, 1]},
        "examples": {"exact.copy": [{"file": "a\nb", "row": 3, "text": f"{EVIL} bob@example.com", "value": 0.9}]},
        "decontamination": "OFF",
        "files": {"records/a.parquet": {}, "removed/exact/a.parquet": {}},
    }


RUN = {
    "kind": "run",
    "model": "tiny",
    "progress": {"step": 3},
    "results": {"eval_loss_first": 2.0, "eval_loss_last": 1.0},
}
SHARDS = {
    "kind": "shards",
    "ctx": 64,
    "splits": {"train": {"rows": 5, "fill": 0.99}, "eval": {"rows": 1, "fill": 0.9}},
    "sources": {"chat": {"records": 9, "packed": 7, "eval": 1, "overlong": 1, "lost": {"system": 2}}},
    "embedded_tokenizer": True,
    "tokenizer": {"name": "embedded"},
}


@pytest.mark.parametrize("manifest", [records(), SHARDS, RUN, {"kind": "records"}, {"kind": "shards"}, {"kind": "run"}])
def test_the_same_manifest_gives_the_same_bytes_and_sparse_ones_still_a_card(tmp_path, manifest):
    names = write_card(tmp_path / "out", manifest)
    first = {name: (tmp_path / "out" / name).read_bytes() for name in names}
    assert {"README.md", "card.json"} <= set(names)
    assert write_card(tmp_path / "out", manifest) == names
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in names}
    for name in names:
        if name.endswith(".svg"):
            assert name in first["README.md"].decode()
            assert ET.fromstring(first[name]).find("{*}title").text
    assert render_terminal(tmp_path / "out", manifest)


def test_the_headline_the_law_and_decontamination_off_are_said_plainly(tmp_path):
    write_card(tmp_path, records())
    shown = (tmp_path / "README.md").read_text()
    assert "180 of 200 records kept" in shown
    assert "> Decontamination: OFF" in shown
    assert "180 kept  +  20 removed   (holds)" in shown
    assert "bob@example.com" not in shown


def test_a_broken_law_is_said(tmp_path):
    manifest = records()
    manifest["totals"]["kept"] += 1
    write_card(tmp_path, manifest)
    assert "(BROKEN)" in (tmp_path / "README.md").read_text()


def test_an_unknown_licence_is_called_unknown(tmp_path):
    manifest = records()
    manifest["sources"]["math"]["licence"] = None
    write_card(tmp_path, manifest)
    facts = json.loads((tmp_path / "card.json").read_text())
    assert facts["front_matter"]["license"] == "unknown"
    assert "| `math` | unknown |" in (tmp_path / "README.md").read_text()


def test_the_human_part_survives_every_rendering_and_open_todos_are_counted(tmp_path):
    write_card(tmp_path, records())
    assert "**7 open TODOs**" in (tmp_path / "README.md").read_text()
    mine = "# my comment\ntitle: Grain\nmotivation: |\n  Because of *bread*.\nbias: TODO ask\n"
    (tmp_path / "card.yaml").write_text(mine)
    write_card(tmp_path, records())
    shown = (tmp_path / "README.md").read_text()
    assert (tmp_path / "card.yaml").read_text() == mine
    assert "# Grain" in shown and "Because of *bread*." in shown and "**6 open TODOs**" in shown


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("title: a\ntitle: b\n", "line 2"),
        ("title: [a\nbias: x\n", "line"),
        ("motivaton: x\n", "motivaton"),
        ("- a\n", "mapping"),
        ("language: [no]\n", "language"),
        ("bias: [a]\n", "bias"),
    ],
)
def test_a_broken_sidecar_is_a_usage_error_that_says_where(tmp_path, text, named):
    (tmp_path / "card.yaml").write_text(text)
    with pytest.raises(UsageError, match=named):
        sidecar.read(tmp_path)


def test_a_sidecar_that_is_not_utf8_names_the_line(tmp_path):
    (tmp_path / "card.yaml").write_bytes(b"title: a\nbias: \xff\n")
    with pytest.raises(UsageError, match="line 2"):
        sidecar.read(tmp_path)


def test_a_figure_that_is_no_longer_made_is_removed(tmp_path):
    write_card(tmp_path, records())
    write_card(tmp_path, {"kind": "records"})
    assert not (tmp_path / "figures/lengths.svg").exists()


@pytest.mark.parametrize(
    "sources", [["solo"], [f"source-{i}" for i in range(40)], ["x" * 300, "長い名前" * 40], [EVIL]]
)
def test_odd_sources_are_drawn_inside_the_picture(tmp_path, sources):
    card = build(tmp_path, records(sources))
    for figure in card.figures():
        for node in ET.fromstring(figure.svg).iter("{*}text"):
            assert len(node.text) <= 60


def test_the_terminal_gets_no_escape_of_the_data_even_in_colour():
    card = Card("records", EVIL, EVIL, status=[EVIL], warnings=[EVIL], facts=[("rows", EVIL)], numbers={})
    plain = draw(card, colour=False, width=80)
    assert "\x1b" not in plain
    assert "\x1b[31m\n" not in draw(card, colour=True, width=80)


def test_the_gallery_gets_a_copy_and_the_comparison_names_each_difference(tmp_path):
    for name in ("one", "two"):
        write_card(tmp_path / "out", records(), gallery=tmp_path / name)
    assert compare(tmp_path / "one", tmp_path / "two") == []
    (tmp_path / "two/out/README.md").write_text("other")
    (tmp_path / "two/out/figures/funnel.svg").unlink()
    assert [line.split(":")[0] for line in compare(tmp_path / "one", tmp_path / "two")] == [
        "out/figures/funnel.svg",
        "out/README.md",
    ]
