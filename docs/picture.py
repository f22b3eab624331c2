"""The picture in the README: the card of the demo's curated folder, as a page, by a browser without a window.

    python -P docs/picture.py [--browser chromium]

The first two steps of `gristmill demo` in a temporary folder, then docs/card.png.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

EVALS = ("heldout_pairs", "heldout_templates", "leaked")
TARGET = Path(__file__).parent / "card.png"
STYLE = """
body { font-family: sans-serif; font-size: 15px; line-height: 1.45; margin: 20px; width: 960px; color: #1f2328 }
table { border-collapse: collapse; font-size: 13px; margin: 12px 0 }
th, td { border: 1px solid #d0d7de; padding: 4px 10px }
code { background: #eeeeff; padding: 1px 4px } pre { background: #f4f5f7; padding: 10px }
pre code { background: none; padding: 0 }
blockquote { border-left: 4px solid #d0d7de; margin: 12px 0; padding: 0 12px } img { max-width: 880px }
"""


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", default="chromium")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gristmill-card-") as folder:
        out = Path(folder) / "out"
        against = [word for name in EVALS for word in ("--against", f"raw-truth/{name}.jsonl")]
        for command in (["sample", "raw"], ["filter", "raw", "out", "--recipe", "demo", *against]):
            subprocess.run([sys.executable, "-P", "-m", "curate", *command, "--quiet"], cwd=folder, check=True)
        text = (out / "README.md").read_text("utf-8").split("\n---\n", 1)[1]
        body = MarkdownIt("commonmark").enable("table").render(text)
        page = out / "page.html"
        page.write_text(f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>{body}", "utf-8")
        words = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1000,1680"]
        subprocess.run(
            [asked.browser, *words, f"--screenshot={TARGET}", page.as_uri()], check=True, capture_output=True
        )


if __name__ == "__main__":
    main()
