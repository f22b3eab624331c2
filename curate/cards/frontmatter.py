"""The YAML on top of README.md: what the Hub and `datasets.load_dataset` read.

Without `configs:` a plain `load_dataset(folder)` merges removed/ into the kept rows, so every card names its configs;
one whose files are absent is left out, since an empty config fails to load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import yaml

from curate.cards.sidecar import Sidecar

# Licence ids that the Hub knows (huggingface.co/docs/hub/repositories-licenses).
# fmt: off
LICENCES: Final = frozenset((
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd",
    "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5",
    "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m",
    "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma", "gfdl",
    "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1",
    "llama3.2", "llama3.3", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "open-mdw",
    "openrail", "openrail++", "osl-3.0", "pddl", "postgresql", "unlicense", "wtfpl", "zlib", "unknown", "other",
))
# fmt: on
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
_MORE: Final = ((10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"), (10**11, "10B<n<100B"))


def size_category(count: int) -> str:
    """The Hub's size category of a number of rows."""
    return next((name for limit, name in _SIZES + _MORE if count < limit), "n>1T" if count >= 10**12 else "100B<n<1T")


def licence(sidecar: Sidecar, sources: Iterable[str | None]) -> dict[str, Any]:
    """The licence keys: the sidecar's word, else the sources'; one source unknown makes the whole unknown."""
    said = sidecar.texts.get("licence")
    found = [said] if said else sorted({(name or "unknown").strip() for name in sources} or {"unknown"})
    ids = sorted({name.lower() for name in found})
    if "unknown" in ids:
        return {"license": "unknown"}
    if all(name in LICENCES for name in ids):
        return {"license": ids[0] if len(ids) == 1 else ids} | _link(sidecar)
    name = sidecar.texts.get("licence_name") or " and ".join(found)
    slug = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:80] or "see-card"
    return {"license": "other", "license_name": slug} | _link(sidecar)


def _link(sidecar: Sidecar) -> dict[str, str]:
    link = sidecar.texts.get("licence_link")
    return {"license_link": link} if link else {}


def configs(files: Iterable[str], folders: Mapping[str, str]) -> list[dict[str, Any]]:
    """`configs:` for a folder: `folders` maps split to folder for the default config; removed/ is its own when it has files."""
    names = sorted(files)
    suffix = {name.split("/", 1)[0]: name.rsplit(".", 1)[-1] for name in names if name.endswith((".parquet", ".arrow"))}
    kept = [
        {"split": re.sub(r"\W+", "_", split), "path": f"{folder}/**/*.{suffix.get(folder, 'parquet')}"}
        for split, folder in folders.items()
    ]
    out: list[dict[str, Any]] = [{"config_name": "default", "default": True, "data_files": kept}]
    # `datasets` picks one reader for the whole folder: a config of another file kind would only fail to load.
    if suffix.get("removed") in {suffix.get(folder, "parquet") for folder in folders.values()}:
        path = f"removed/**/*.{suffix['removed']}"
        out.append({"config_name": "removed", "data_files": [{"split": "train", "path": path}]})
    return out


def dump(front: Mapping[str, Any]) -> str:
    """The front matter between its dashes; every text is quoted or escaped by the YAML writer, so none can end it."""
    body = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"---\n{body}---\n"
