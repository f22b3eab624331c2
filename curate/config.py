"""Settings: one recipe file, `--set`, flags; every value knows where it came from.

A recipe is one YAML file with sections `sources`, `curate`, `pack`, `train`, `eval`, and two that `gristmill run` and
`gristmill sweep` read: a `smoke` overlay and a `sweep`. Each command resolves its own section: flag > --set > recipe >
inherited > default. What a command resolved is recorded in its output and inherited downstream, so three bare commands
fit one model. Unknown keys are errors that name the nearest known key; duplicate YAML keys are errors too.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from curate.foundation.errors import UsageError

SECTIONS = ("sources", "curate", "pack", "train", "eval")
META = ("name", "about", "smoke", "sweep")
AMBIENT = "gristmill.yaml"
RECIPES = Path(__file__).parent / "recipes"

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Resolved(Generic[Model]):
    """A section's settings, where each came from, and the sparse recipe to hand downstream."""

    config: Model
    origins: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def lines(self, section: str) -> list[str]:
        """`key: value  (origin)` for each setting, as `--print-config` shows it."""
        out = []
        for key, value in _flatten(self.config.model_dump(mode="json")):
            out.append(f"{section}.{key}: {_show(value)}  ({self.origins.get(key, 'default')})")
        return out


class _StrictLoader(yaml.SafeLoader):
    """safe_load that refuses duplicate keys."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    pairs: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return pairs


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads `5e-5` as text; every recipe writes learning rates that way.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(text: str, where: str) -> Any:
    """Parse YAML safely: duplicate keys refused, errors name file and line."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise UsageError(f"{where}{line}: {problem}", hint="mend the YAML and run again") from error


def recipe_names() -> list[str]:
    """The names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name: str | None) -> tuple[str, dict[str, Any]]:
    """The recipe called `name` (shipped, or a file); with None, `gristmill.yaml` of this folder when there is one."""
    if name is None:
        path = Path(AMBIENT)
        if not path.is_file():
            return "", {}
    else:
        path = RECIPES / f"{name}.yaml"
        if not path.is_file():
            path = Path(name)
    if not path.is_file():
        near = _nearest(str(name), recipe_names())
        raise UsageError(f"--recipe {name}: no such recipe or file", hint=f"shipped: {', '.join(recipe_names())}{near}")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path}: not readable as UTF-8 text ({error})", hint="name a YAML recipe") from error
    data = load_yaml(text, str(path)) or {}
    if not isinstance(data, dict):
        raise UsageError(f"{path}: a recipe is a mapping of sections", hint=f"sections: {', '.join(SECTIONS)}")
    for key in data:
        if key not in SECTIONS + META:
            near = _nearest(str(key), SECTIONS + META)
            raise UsageError(f"{path}: unknown section {key!r}{near}", hint=f"sections: {', '.join(SECTIONS)}")
        if key in SECTIONS and not isinstance(data[key] or {}, dict):
            raise UsageError(f"{path}: section {key!r} must be a mapping", hint=f"write {key}: and keys below it")
    return data.get("name") or path.stem, {key: value or {} for key, value in data.items()}


def parse_sets(sets: Iterable[str], section: str) -> dict[str, Any]:
    """`KEY=VALUE` assignments as a nested recipe; KEY is dotted, relative to `section` unless it names one."""
    out: dict[str, Any] = {}
    for item in sets:
        key, equals, value = item.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise UsageError(f"--set {item}: must be KEY=VALUE", hint="for example --set length.max_chars=4096")
        if parts[0] not in SECTIONS:
            parts = [section, *parts]
        if SECTIONS.index(parts[0]) < SECTIONS.index(section) and (parts[0], section) != ("sources", "curate"):
            hint = f"set it where {parts[0]} runs, then run this again"
            raise UsageError(f"--set {item}: the section {parts[0]} was decided before {section}", hint=hint)
        place = out
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise UsageError(f"--set {item}: {part} was already set to a value", hint="leave one of the two out")
        place[parts[-1]] = load_yaml(value, f"--set {key}")
        if len(parts) == 1 and not isinstance(place[parts[0]], dict):
            raise UsageError(f"--set {item}: {key} is a section", hint=f"set one key of it: --set {key}.KEY=VALUE")
    return out


def resolve(
    section: str,
    model: type[Model],
    *,
    recipe: str | None = None,
    sets: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
    inherited: Mapping[str, Any] | None = None,
) -> Resolved[Model]:
    """Resolve one section of a recipe into its frozen model.

    `flags` maps dotted keys of the section to values; None means "not given". Raises `UsageError` naming the key, the
    layer it came from and the nearest known key.
    """
    name, file = load_recipe(recipe)
    given: dict[str, Any] = {}
    for key, value in (flags or {}).items():
        if value is not None:
            _plant(given, [section, *key.split(".")], value)
    layers = [
        ("inherited", dict(inherited or {})),
        (f"recipe {name}", {key: value for key, value in file.items() if key in SECTIONS + META}),
        ("--set", parse_sets(sets, section)),
        ("flag", given),
    ]
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, layer in layers:
        merged = merge(merged, layer)
        for key, _ in _flatten(layer.get(section) or {}):
            origins[key] = origin
    config = validate(model, merged.get(section) or {}, section)
    return Resolved(config, origins, merged, name or str((inherited or {}).get("name") or ""))


def validate(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Build a frozen settings model; errors are `UsageError`s that name key, problem and nearest known key."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = _nearest(str(first["loc"][-1]), _known(model, first["loc"][:-1]))
            known = ", ".join(_known(model, first["loc"][:-1]))
            raise UsageError(f"{where}.{path}: unknown key{near}", hint=f"known here: {known}") from error
        said = re.sub("a valid (dictionary|mapping)( or instance of \\w+)?", "a mapping of keys", first["msg"])
        said = said.replace("a valid tuple", "a list")
        raise UsageError(
            f"{where}{'.' if path else ''}{path}: {said} (got {_show(first.get('input'))})",
            hint="see every setting and its origin with --print-config",
        ) from error


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge two mappings; `high` wins, lists are replaced."""
    out = dict(low)
    for key, value in high.items():
        out[key] = merge(out[key], value) if isinstance(value, Mapping) and isinstance(out.get(key), Mapping) else value
    return out


def _plant(tree: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
    tree[parts[-1]] = value


def _known(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in path:
        fields = getattr(current, "model_fields", {})
        current = fields[part].annotation if part in fields else current
        current = next((kind for kind in get_args(current) if hasattr(kind, "model_fields")), current)  # Model | None
    return list(getattr(current, "model_fields", {}))


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            out.extend(_flatten(value, f"{prefix}{key}."))
        else:
            out.append((f"{prefix}{key}", value))
    return out


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    text = text.removesuffix("...").strip()
    return text if len(text) <= 120 else text[:117] + "..."
