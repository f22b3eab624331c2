"""What is said of duplicates is what the rows say, for any order of them, and its figures hold whatever the names."""

import random
import re
import xml.etree.ElementTree as ET

import pyarrow as pa
import pytest

from curate.cards.duplicates import duplicate_blocks, near_state
from curate.cards.matrix import heatmap
from curate.cards.model import Figure
from curate.cards.render import _block
from curate.stages.duplicates import PAIRS, SIZES, bin_edges, duplicate_facts

EVIL = '<script>"&|`[x](http://e.vil)\x1b[31m'


def resolved(twins):
    """Rows (source, kept record's number, kept record's source, similarity)."""
    return pa.table(
        {
            "source": [source for source, *_ in twins],
            "twin_id": [f"{kept:032x}" for _, kept, *_ in twins],
            "twin_source": [source for *_, source, _ in twins],
            "twin_file": ["f.jsonl"] * len(twins),
            "twin_row": pa.array([kept for _, kept, *_ in twins], pa.int64()),
            "similarity": [similarity for *_, similarity in twins],
        }
    )


ROWS = [("a", 1, "a", 0.8), ("b", 1, "a", 0.8999), ("b", 1, "a", 1.0), ("b", 2, "c", 0.95), ("b", 3, "c", 0.801)]


def test_clusters_similarities_and_pairs_of_sources_are_counted():
    facts = duplicate_facts(resolved(ROWS), key="prompt", threshold=0.8, counts={"candidates": 9})
    clusters = facts["clusters"]
    assert clusters["count"] == 3 and clusters["edges"] == [2, 3, 4] and clusters["counts"] == [2, 0, 1]
    assert clusters["largest"][0] == {"id": f"{1:032x}", "source": "a", "file": "f.jsonl", "row": 1, "size": 4}
    listed = [(pair["removed"], pair["kept"], pair["records"]) for pair in facts["pairs"]["listed"]]
    assert listed == [("b", "a", 2), ("b", "c", 2), ("a", "a", 1)] and facts["pairs"]["rest"] == 0
    similar = dict(zip(facts["similarity"]["edges"], facts["similarity"]["counts"], strict=True))
    assert {edge: n for edge, n in similar.items() if n} == {0.8: 2, 0.89: 1, 0.95: 1, 1.0: 1}
    assert facts["candidates"] == {"candidates": 9} and facts["key"] == "prompt"


def test_facts_do_not_depend_on_the_order_of_rows():
    draw = random.Random(3)
    rows = [(f"s{draw.randrange(9)}", k := draw.randrange(60), f"s{k % 9}", draw.uniform(0.8, 1)) for _ in range(500)]
    wanted = duplicate_facts(resolved(rows), key="prompt", threshold=0.8)
    for _ in range(3):
        draw.shuffle(rows)
        assert duplicate_facts(resolved(rows), key="prompt", threshold=0.8) == wanted
    assert sum(wanted["clusters"]["counts"]) == wanted["clusters"]["count"]
    assert sum(wanted["similarity"]["counts"]) == 500


def test_many_pairs_of_sources_are_bounded_and_the_rest_is_counted():
    facts = duplicate_facts(resolved([(f"s{n}", n, "t", 0.9) for n in range(PAIRS + 50)]), key="k", threshold=0.8)
    assert len(facts["pairs"]["listed"]) == PAIRS and facts["pairs"]["rest"] == 50


def test_no_duplicates_no_chapter():
    facts = duplicate_facts(resolved([]).cast(resolved(ROWS).schema), key="k", threshold=0.8)
    assert facts["clusters"] == {"count": 0, "edges": [], "counts": [], "largest": []}
    assert duplicate_blocks({"stages": [{"name": "minhash", "facts": facts}, {"name": "exact"}]}) == []


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 0.83, 0.9, 0.95, 0.999, 1.0])
def test_bins_go_from_the_threshold_to_one(threshold):
    edges = bin_edges(threshold)
    assert edges[0] == threshold and edges[-1] == 1.0 and list(edges) == sorted(set(edges)) and len(edges) <= 26


@pytest.mark.parametrize("stage", ["exact", "minhash", "embedding"])
def test_the_chapter_is_inert_bounded_and_its_pictures_well_formed(stage):
    rows = [(f"{EVIL}{n % 30}", n % 40, f"{EVIL}{n % 17}", 0.8 + n % 20 / 100) for n in range(900)]
    facts = duplicate_facts(resolved(rows), key="prompt", threshold=None if stage == "exact" else 0.8)
    blocks = duplicate_blocks({"stages": [{"name": stage, "removed": 900, "facts": facts}]})
    figures = [block for block in blocks if isinstance(block, Figure)]
    assert [figure.name.split("-")[1] for figure in figures] == (
        ["clusters", "sources"] if stage == "exact" else ["clusters", "similarity", "sources"]
    )
    for figure in figures:
        ET.fromstring(figure.svg)
        assert "900" in figure.svg or figure.name.endswith(("clusters", "sources"))
    text = "\n".join(str(_block(block)) for block in blocks)
    assert not re.search(r"(?<![\\`])<script", text) and "\x1b" not in text
    assert "all other pairs of sources" in text


def test_a_heatmap_sums_what_it_does_not_name():
    cells = {(f"r{n}", f"c{n}"): n + 1 for n in range(40)}
    figure = heatmap("h", "who", cells, rows="from", columns="to", rest=7)
    shown = [title.text for title in ET.fromstring(figure.svg).iter("{http://www.w3.org/2000/svg}title")]
    counts = [int(title.rsplit(": ", 1)[1].replace(",", "")) for title in shown[1:]]
    assert sum(counts) == sum(cells.values()) + 7 and len(counts) == 13
    assert "all others" in figure.svg


def test_the_status_line_names_every_stage_that_looks_for_near_duplicates():
    settings = {"minhash": {"key": "prompt", "threshold": 0.8, "bands": 40}, "embedding": {"threshold": 0.95}}
    assert near_state({"config": {"stages": ["exact"], **settings}, "near_duplicates": "OFF"}) == "OFF"
    told = near_state({"config": {"stages": ["minhash", "embedding"], **settings}})
    assert told == "ON (minhash: key prompt, threshold 0.8, bands 40; embedding: threshold 0.95)"
    assert SIZES[:5] == (2, 3, 4, 5, 9)
