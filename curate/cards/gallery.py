"""The gallery: published cards, held to freshly rendered ones. `python -m curate.cards.gallery GALLERY FRESH` for CI."""

from __future__ import annotations

import sys
from pathlib import Path


def compare(gallery: Path, fresh: Path) -> list[str]:
    """One line for each file that is missing, extra or different between two galleries; empty when they agree."""
    old, new = _files(gallery), _files(fresh)
    problems = [f"{name}: not in {gallery}" for name in sorted(new.keys() - old.keys())]
    problems += [f"{name}: no longer made" for name in sorted(old.keys() - new.keys())]
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            pairs = zip(old[name].splitlines(), new[name].splitlines(), strict=False)
            line = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), 0)
            problems.append(f"{name}: differs" + (f" from line {line} on" if line else " in length"))
    return problems


def _files(root: Path) -> dict[str, bytes]:
    """Every card file: those in a folder that holds a card.json, and their figures."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for card in root.rglob("card.json")
        for path in (card, card.with_name("README.md"), *sorted((card.parent / "figures").glob("*.svg")))
        if path.is_file()
    }


def main() -> None:
    """Print the differences of two galleries; exit 1 when there are any."""
    if len(sys.argv) != 3:
        print("usage: python -m curate.cards.gallery GALLERY FRESH", file=sys.stderr)
        sys.exit(2)
    problems = compare(Path(sys.argv[1]), Path(sys.argv[2]))
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
