"""`gristmill sweep`: one dial at a time, and every run of the grid sees the same trained tokens."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from curate.foundation.console import Console
from curate.foundation.errors import UsageError
from train import sweeping
from train.resolving import resolve

DIALS = {"trained": "6k", "size": [0.25, 1.0], "quality": [{"low": 0.0}, {"low": 0.5}], "sources": [1, 2]}


def answer(name, n):
    words = hashlib.blake2b(f"{name}{n}".encode(), digest_size=24).hexdigest()
    return f"The {name} number {n} is written {words}."


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    sources = {}
    for name in ("oats", "rye"):
        lines = [{"question": f"{name} {n}?", "answer": answer(name, n), "grade": n / 120} for n in range(120)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        sources[name] = {"path": str(root / f"{name}.jsonl"), "score_field": "grade"}
    recipe = {
        "name": "grain",
        "sources": sources,
        "curate": {"stages": ["exact"]},
        "pack": {"ctx": 256, "tokenizer": "embedded", "eval_fraction": 0.0},
        "train": {"tiny": {"layers": 1, "hidden": 32, "heads": 2}, "batch": 4, "max_steps": 3},
        "sweep": DIALS,
    }
    (root / "grain.yaml").write_text(yaml.safe_dump(recipe))
    return root / "grain.yaml"


@pytest.fixture(scope="module")
def built(recipe):
    folder = recipe.parent / "grid"
    data, _ = sweeping.sweep(resolve(str(recipe)), folder, Console(quiet=True))
    return folder, {row["cell"]: row for row in data["cells"]}


def test_every_dial_stands_against_every_other(built):
    _, cells = built
    names = {f"size-{s}_quality-{q}-1_sources-{k}" for s in ("0.25", "1") for q in ("0", "0.5") for k in (1, 2)}
    assert set(cells) == names


def test_all_runs_see_the_same_trained_tokens(built):
    _, cells = built
    seen = [row["trained_seen"] for row in cells.values()]
    assert max(abs(tokens - 6_000) for tokens in seen) <= 0.03 * 6_000  # to the nearest record


def test_a_size_is_distinct_data_and_diversity_a_number_of_sources(built):
    _, cells = built
    for name, row in cells.items():
        assert row["packed"] == (1_500 if "size-0.25" in name else 6_000)
        assert row["epochs"] == (4.0 if "size-0.25" in name else 1.0)
        assert row["sources_drawn"] == int(name[-1])


def test_quality_draws_from_the_better_half_alone(built, recipe):
    folder, _ = built
    import pyarrow as pa
    import pyarrow.parquet as pq

    grade = {}
    for file in (folder / "out" / "records").glob("*.parquet"):
        for row in pq.read_table(file, columns=["id", "score"]).to_pylist():
            grade[row["id"]] = row["score"]

    def grades(cell):
        tables = [pa.ipc.open_file(path).read_all() for path in (folder / "shards" / cell / "train").glob("*.arrow")]
        return [grade[s["id"]] for table in tables for row in table.column("segments").to_pylist() for s in row]

    assert min(grades("size-0.25_quality-0.5-1_sources-2")) >= 0.5
    assert min(grades("size-0.25_quality-0-1_sources-2")) < 0.5


def test_the_printed_command_trains_a_cell_on_the_tokens_of_the_plan(built):
    from train.commands import plan, settings

    _, cells = built
    row = cells["size-0.25_quality-0-1_sources-2"]
    shards = Path(row["train"].split()[2])
    facts, _ = plan(shards, settings(shards, None, [], {}))
    assert facts["epochs"] == pytest.approx(4.0, abs=0.05)


def test_a_dry_run_prints_the_grid_and_writes_nothing(recipe, tmp_path):
    found = resolve(str(recipe))
    data, text = sweeping.plan(found, tmp_path / "grid")
    assert len(data["cells"]) == 8 and "nothing was written" in text and not (tmp_path / "grid").exists()
    assert all(round(cell["packed"] * cell["epochs"]) == 6_000 for cell in data["cells"])


def test_clusters_are_a_dial_in_place_of_sources(recipe):
    clusters = ["sweep.sources=[]", "sweep.clusters={source: rye, by: topic, count: [2, 5]}", "sweep.quality=[]"]
    grid = sweeping.cells(resolve(str(recipe), clusters))
    assert [cell.name for cell in grid][:2] == ["size-0.25_clusters-2", "size-0.25_clusters-5"]
    assert grid[0].pack["mixture"]["rye"]["clusters"] == {"by": "topic", "count": 2}
    with pytest.raises(UsageError, match="not both"):
        sweeping.cells(resolve(str(recipe), clusters[1:]))


def test_a_recipe_without_dials_says_how_to_give_them():
    with pytest.raises(UsageError) as caught:
        sweeping.cells(resolve("math-instruct-7b"))
    assert "--set sweep.trained=" in caught.value.hint
