"""`card.yaml`: the human part of a card. Made once with TODO placeholders, then only read; a card never rewrites it.

The questions follow Datasheets for Datasets (Gebru et al., 2021, doi:10.1145/3458723).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from curate.cards.text import clean
from curate.config import load_yaml
from curate.foundation.errors import UsageError
from curate.foundation.store import replacing

SIDECAR: Final = "card.yaml"
QUESTIONS: Final = {
    "motivation": ("Motivation", "why was this made, by whom, and for which task?"),
    "composition": ("Composition", "what are the rows, where do they come from, what is missing?"),
    "bias": ("Bias and limits", "which people, topics, languages or errors are over- or under-represented?"),
    "sensitive": ("Sensitive content", "personal data, unsafe or offensive text: is there any, how was it looked for?"),
    "intended_use": ("Intended use", "what should this be used for?"),
    "out_of_scope": ("Out-of-scope use", "what should this not be used for?"),
    "maintenance": ("Maintenance and contacts", "who answers questions and takes-down requests, and how?"),
}
TEXTS: Final = ("title", "licence", "licence_name", "licence_link", *QUESTIONS)
LISTS: Final = ("language", "tags", "task_categories")


@dataclass(slots=True, frozen=True)
class Sidecar:
    """The human part: `texts` by key (absent when empty) and `lists` (language, tags, task_categories)."""

    texts: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)

    @property
    def todos(self) -> list[str]:
        """The questions that are still open: absent, empty, or beginning with TODO."""
        return [key for key in QUESTIONS if not self.answered(key)]

    def answered(self, key: str) -> bool:
        """Whether a question has an answer."""
        text = self.texts.get(key, "").strip()
        return bool(text) and not text.upper().startswith("TODO")


def ensure(root: Path) -> None:
    """Make `card.yaml` with its placeholders when there is none; one that is there is left alone."""
    path = root / SIDECAR
    if path.exists():
        return
    lines = [
        "# The human part of the card. Yours: it is read at every rendering, and never rewritten.",
        "# Texts may hold Markdown. A text that begins with TODO counts as open on top of the card.",
        "",
        'title: ""          # shown as the heading; empty: the folder\'s name',
        'licence: ""        # a hub id (apache-2.0, cc-by-4.0, ...); empty: what the sources say',
        "language: []       # ISO 639 codes, for example [en, de]",
        "tags: []",
        "",
    ]
    for key, (_, question) in QUESTIONS.items():
        lines += [f"{key}: |", f"  TODO: {question}"]
    with replacing(path) as temp:
        temp.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(root: Path) -> Sidecar:
    """Read `card.yaml`; absent is an empty one, broken YAML or an unknown key a `UsageError` that names the line."""
    path = root / SIDECAR
    if not path.exists():
        return Sidecar()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}, line {line}: not UTF-8", hint="save it as UTF-8 and run again") from error
    data = load_yaml(text, str(path))
    if data is None:
        return Sidecar()
    if not isinstance(data, dict):
        raise UsageError(f"{path}: must be a mapping of keys to texts", hint=f"keys: {', '.join(TEXTS + LISTS)}")
    texts: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for key, value in data.items():
        _check(path, key, value)
        if key in TEXTS and value is not None and str(value).strip():
            texts[key] = clean(str(value)).strip()
        elif key in LISTS and value:
            lists[key] = [clean(str(item)) for item in (value if isinstance(value, list) else [value])]
    return Sidecar(texts, lists)


def _check(path: Path, key: Any, value: Any) -> None:
    if key not in TEXTS + LISTS:
        near = get_close_matches(str(key), TEXTS + LISTS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(TEXTS + LISTS)}"
        raise UsageError(f"{path}: unknown key {key!r}", hint=hint)
    if key in TEXTS and isinstance(value, (dict, list)):
        raise UsageError(f"{path}: {key} must be a text", hint=f"write {key}: | and the text below it, indented")
    if key in LISTS and not (
        value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    ):
        raise UsageError(
            f"{path}: {key} must be a list of texts", hint=f"write {key}: [one, two]; quote no, on and yes"
        )
