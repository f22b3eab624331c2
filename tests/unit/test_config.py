"""Recipes: layers, origins, and errors that name the key and the nearest known one."""

import pytest
from pydantic import BaseModel, ConfigDict

from curate.config import load_yaml, parse_sets, resolve
from curate.foundation.errors import UsageError


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    threshold: float = 0.8
    words: tuple[str, ...] = ()


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    ctx: int = 4096
    name: str | None = None
    near: Inner = Inner()


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_text("name: mine\npack: {ctx: 512, near: {threshold: 5e-1}}\ntrain: {lr: 1}\n")
    return str(path)


def test_flag_beats_set_beats_recipe_beats_inherited_beats_default(recipe):
    inherited = {"pack": {"ctx": 1, "name": "old", "near": {"words": ["a"]}}}
    found = resolve("pack", Config, recipe=recipe, sets=["near.threshold=0.7"], flags={"ctx": 99}, inherited=inherited)
    assert (found.config.ctx, found.config.name, found.config.near.threshold) == (99, "old", 0.7)
    assert found.origins == {"ctx": "flag", "name": "inherited", "near.threshold": "--set", "near.words": "inherited"}
    assert found.recipe["train"] == {"lr": 1}
    assert found.name == "mine"
    assert "pack.ctx: 99  (flag)" in found.lines("pack")


def test_scientific_notation_is_a_number(recipe):
    assert resolve("pack", Config, recipe=recipe).config.near.threshold == 0.5


def test_an_ambient_recipe_is_found(recipe, tmp_path):
    (tmp_path / "gristmill.yaml").write_text("pack: {ctx: 7}")
    assert resolve("pack", Config).config.ctx == 7


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        (["ctxx=1"], r"pack.ctxx: unknown key; did you mean 'ctx'"),
        (["near.treshold=1"], r"near.treshold: unknown key; did you mean 'threshold'"),
        (["ctx=many"], r"pack.ctx: .*integer"),
        (["ctx"], "must be KEY=VALUE"),
        (["ctx=[1"], "--set ctx"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest_one(recipe, sets, match):
    with pytest.raises(UsageError, match=match):
        resolve("pack", Config, sets=sets)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("pack: {ctx: 1, ctx: 2}", "duplicate key 'ctx'"),
        ("pakc: {}", "did you mean 'pack'"),
        ("- 1", "mapping"),
        ("a: [", "line"),
    ],
)
def test_bad_recipes_are_refused_with_their_place(tmp_path, text, match):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=match):
        resolve("pack", Config, recipe=str(path))


def test_unknown_recipes_are_refused():
    with pytest.raises(UsageError, match="no such recipe"):
        resolve("pack", Config, recipe="nope")


def test_sets_may_name_another_section():
    assert parse_sets(["train.lr=1e-3", "ctx=4"], "pack") == {"train": {"lr": 0.001}, "pack": {"ctx": 4}}


def test_yaml_never_builds_objects():
    with pytest.raises(UsageError):
        load_yaml("!!python/object/apply:os.system [ls]", "x")
