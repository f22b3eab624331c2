"""The card beside the shards, rendered from their manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_card(root: Path, manifest: Mapping[str, Any], gallery: Path | None = None) -> list[str]:
    """Write README.md, card.json and figures beside the manifest; returns the files written."""
    from curate.cards import render

    try:
        return render.write_card(root, manifest, gallery=gallery)
    except ModuleNotFoundError:
        return []


def rendered(root: Path, manifest: Mapping[str, Any]) -> Mapping[str, bytes]:
    """The files of the card by relative name."""
    from curate.cards import render

    try:
        return render.rendered(root, manifest)
    except ModuleNotFoundError:
        return {}
