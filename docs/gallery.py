"""Regenerates data_cards/: the cards of the embedded sample, curated and packed. `python docs/gallery.py [DIR]`.

A test runs it into a fresh folder and compares; versions of libraries and Python, which a card names, may differ.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS = 3_000
AGAINST = [
    word
    for name in ("leaked", "heldout_pairs", "heldout_templates")
    for word in ("--against", f"raw-truth/{name}.jsonl")
]


def make(gallery: Path) -> None:
    """Run sample -> filter -> build and publish both cards to `gallery`."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for words in (
            ["curate", "sample", "raw", "--rows", str(ROWS)],
            [
                *("curate", "filter", "raw", "sample", "--recipe", "demo", *AGAINST),
                *("--workers", "1", "--cards", str(gallery.resolve())),
            ],
            [
                "pack",
                "build",
                "sample",
                "sample-shards",
                "--ctx",
                "512",
                "--workers",
                "1",
                "--cards",
                str(gallery.resolve()),
            ],
        ):
            done = subprocess.run(
                [sys.executable, "-P", "-m", *words, "--quiet"], cwd=work, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{' '.join(words)}: exit {done.returncode}\n{done.stderr}")


def comparable(text: str) -> str:
    """A card's text without what depends on the versions of libraries: their numbers, and digests over them."""
    text = re.sub(r'"?(python|gristmill|pyarrow|polars|numpy|numba|orjson|xxhash|pydantic)"?: "[^"]*"', "", text)
    text = re.sub(
        r"\| (python|pyarrow|polars|numpy|numba|orjson|xxhash|pydantic|gristmill) \|.*", "", text.replace("`", "")
    )
    return re.sub(r"\b[0-9a-f]{32}\b", "DIGEST", text)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "data_cards")
