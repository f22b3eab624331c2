"""Write the card: README.md, card.json and figures/*.svg, from the manifest and card.yaml alone; same facts, same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from curate.cards import frontmatter, sidecar, text
from curate.cards.model import Card, Example, Fence, Figure, Table
from curate.foundation.errors import UsageError
from curate.foundation.store import replacing

README, FACTS, FIGURES = "README.md", "card.json", "figures"


def build(root: Path, manifest: Mapping[str, Any]) -> Card:
    """The card of a folder, with the human part joined in; raises `UsageError` for a kind without a card."""
    human = sidecar.read(root)
    title = human.texts.get("title") or root.resolve().name or "untitled"
    kind = manifest.get("kind")
    if kind == "records":
        from curate.cards.records import build as of_kind
    elif kind == "shards":
        from curate.cards.shards import build as of_kind
    elif kind == "run":
        from curate.cards.run import build as of_kind
        from curate.cards.run import curve

        manifest = {**manifest, "curve": manifest.get("curve") or curve(root)}
    else:
        raise UsageError(f"{root}: no card for a folder of kind {kind!r}", hint="name out/, shards/ or a run's folder")
    card = of_kind(manifest, human, title)
    card.numbers |= {"todos": human.todos, "human": human.texts}
    return card


def write_card(root: Path, manifest: Mapping[str, Any], *, gallery: Path | None = None) -> list[str]:
    """Write the card into `root` (and a copy into `gallery/<name>/`); returns the names written, relative to `root`.

    Makes `card.yaml` with TODO placeholders when there is none, and never changes one. Raises `UsageError` when it is broken.
    """
    sidecar.ensure(root)
    files = rendered(root, manifest)
    publish(root, files)
    if gallery is not None:
        publish(gallery / root.resolve().name, files)
    return sorted(files)


def rendered(root: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a card by relative name."""
    card = build(root, manifest)
    human = sidecar.read(root)
    files = {f"{FIGURES}/{figure.name}.svg": _encode(figure.svg) for figure in card.figures()}
    facts = {
        "format": 1,
        "kind": card.kind,
        "title": card.title,
        "headline": card.headline,
        "status": card.status,
        "warnings": card.warnings,
        "facts": card.numbers,
        "front_matter": card.front,
        "figures": {f"{FIGURES}/{figure.name}.svg": figure.alt for figure in card.figures()},
    }
    files[FACTS] = _encode(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False, default=str) + "\n")
    files[README] = _encode(_markdown(card, human))
    return files


def stale(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of a card that are not what the manifest and the sidecar render to, one line each."""
    return [
        f"{name}: not what the manifest renders to (curate card {root} renders it again)"
        for name, content in rendered(root, manifest).items()
        if not (root / name).is_file() or (root / name).read_bytes() != content
    ]


def publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files atomically, README last, and remove figures of an earlier card that this one has no more."""
    for name in sorted(files, key=lambda name: (name == README, name)):
        with replacing(folder / name) as temp:
            temp.write_bytes(files[name])
    for old in sorted((folder / FIGURES).glob("*.svg")) if (folder / FIGURES).is_dir() else []:
        if f"{FIGURES}/{old.name}" not in files:
            old.unlink()


def render_terminal(root: Path, manifest: Mapping[str, Any]) -> str:
    """The card for a terminal, coloured where stdout is one and NO_COLOR is not set."""
    from curate.cards.terminal import draw

    return draw(build(root, manifest))


def _encode(shown: str) -> bytes:
    return shown.encode("utf-8", "replace")


def _markdown(card: Card, human: sidecar.Sidecar) -> str:
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    env.filters["block"] = _block
    body = env.get_template("card.md.jinja").render(
        card=card, human=human, questions=sidecar.QUESTIONS, raw=text.Markdown, anchor=_anchor, sidecar=sidecar.SIDECAR
    )
    lines = (f"{part.rstrip()}\n" for part in body.strip().split("\n"))
    return frontmatter.dump(card.front) + "\n" + "".join(lines)


def _safe(value: Any) -> Any:
    return value if hasattr(value, "__html__") else text.prose(text.show(value))


def _anchor(title: str) -> text.Markdown:
    return text.Markdown("".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-"))


def _block(block: Any) -> text.Markdown:
    """One block as Markdown."""
    if isinstance(block, Table):
        return text.Markdown(_table(block))
    if isinstance(block, Figure):
        return text.Markdown(f"![{text.prose(block.alt)}]({FIGURES}/{block.name}.svg)")
    if isinstance(block, Fence):
        return text.fence(block.text, block.language)
    if isinstance(block, Example):
        caption = "".join(
            _safe(part) if not isinstance(part, str) or hasattr(part, "__html__") else part for part in block.caption
        )
        quoted = "\n".join(f"> {row}".rstrip() for row in text.fence(block.text).split("\n"))
        return text.Markdown(f"> {caption}\n>\n{quoted}")
    return text.Markdown(_safe(block))


def _table(table: Table) -> str:
    right = [
        bool(table.rows)
        and all(row[i] is None or isinstance(row[i], (int, float)) or str(row[i]).endswith("%") for row in table.rows)
        for i in range(len(table.headers))
    ]
    rows: Iterable[str] = (" | ".join(str(_safe(cell)) for cell in row) for row in table.rows)
    marks = " | ".join("---:" if flag else ":---" for flag in right)
    head = " | ".join(str(text.prose(name)) for name in table.headers)
    return "\n".join(f"| {row} |" for row in (head, marks, *rows))
