"""Tokenizers: loaded from a folder, with the bytes every token spells, and a copy that knows no control tokens.

Ids come from `tokenizer.json` as it stands, without its post-processor: templates write BOS themselves, and a second
one would be added. Offsets are not asked of the library. A token spells a known run of bytes, so the lengths of
those runs give every border, and `spell(ids) == text` proves ids and borders in one comparison. Where a normalizer
changed the text the library's own character offsets are used instead.

Cost: loading is 0.1 to 2 s (vocabulary size); the byte table 0.1 to 0.3 s, once; spelling 0.04 us a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from curate.foundation.errors import Offline, UsageError
from curate.foundation.store import digest_bytes

EMBEDDED = "embedded"
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_BLANK = re.compile(r"[\s▁]*")
_LOOKS_LIKE_CONTROL = re.compile(r"<\|.*\|>|<(bos|eos|pad|unk|mask)>|\[/?(INST|PAD|UNK|CLS|SEP|MASK)\]")


class Tokenizer:
    """A `tokenizers` model and what a trainer or server must know of it; `name` is where it came from."""

    def __init__(self, spec: dict[str, Any], config: dict[str, Any], *, name: str, template: str | None) -> None:
        import tokenizers

        self.spec = spec
        self.config = config
        self.name = name
        self.template = template
        self.bare = _json({**spec, **_BARE}).decode("utf-8", "surrogatepass")
        self.backend = tokenizers.Tokenizer.from_str(self.bare)

    @classmethod
    def load(cls, source: str | Path | None = None) -> Tokenizer:
        """The tokenizer in a folder, on the hub (through its cache first), or the embedded one when None.

        Raises UsageError for a folder without `tokenizer.json`, Offline when the hub cannot be reached.
        """
        if source is None or str(source) == EMBEDDED:
            return cls._from_folder(Path(__file__).parent / "embedded", EMBEDDED)
        folder = Path(source).expanduser()
        if folder.is_file() and folder.name == "tokenizer.json":
            folder = folder.parent
        if folder.is_dir():
            return cls._from_folder(folder, folder.name)
        if folder.exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", str(source)):
            raise UsageError(f"{source} is no tokenizer folder", hint="name a folder that holds tokenizer.json")
        return cls._from_folder(_from_hub(str(source)), str(source))

    @classmethod
    def _from_folder(cls, folder: Path, name: str) -> Tokenizer:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(
                f"{name} has no tokenizer.json: it is a slow (SentencePiece or vocabulary) tokenizer",
                hint=f'convert it: python -c "from transformers import AutoTokenizer as T; '
                f"T.from_pretrained('{name}').save_pretrained('{name}-fast')\"",
            )
        try:
            spec = orjson.loads(file.read_bytes())
            config = _read_json(folder / "tokenizer_config.json")
            for key, value in _read_json(folder / "special_tokens_map.json").items():
                config.setdefault(key, value)
            jinja = folder / "chat_template.jinja"
            template = jinja.read_text("utf-8") if jinja.is_file() else _template_of(config.get("chat_template"))
            return cls(spec, config, name=name, template=template)
        except UsageError:
            raise
        except Exception as error:  # tokenizers raises a bare Exception for whatever it cannot read
            raise UsageError(
                f"{name}: tokenizer.json cannot be read ({type(error).__name__})",
                hint="check the file against its source; it must be a complete tokenizer.json",
            ) from error

    # -- what it is -------------------------------------------------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """xxh3_128 of the canonical JSON of `tokenizer.json` and of the named special tokens."""
        named = {key: _content(self.config.get(key)) for key in ("bos_token", "eos_token", "pad_token", "unk_token")}
        return digest_bytes(_json([self.spec, named], sort_keys=True))

    @property
    def template_digest(self) -> str | None:
        """xxh3_128 of the chat template's text, None without one."""
        return None if self.template is None else text_digest(self.template)

    @cached_property
    def vocab_size(self) -> int:
        """Entries, added tokens included: the least number of embedding rows."""
        added = (self.token_id(token["content"]) for token in self.spec.get("added_tokens", []))
        return max((*self.vocabulary.values(), *(number for number in added if number is not None))) + 1

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token text -> id of the model's own entries, added tokens not included."""
        listed = self.spec["model"]["vocab"]  # asking the backend would copy it
        return listed if isinstance(listed, dict) else self.backend.get_vocab(with_added_tokens=False)

    @property
    def eos_id(self) -> int | None:
        """The id of `eos_token`, None when there is none."""
        return self._named("eos_token")

    @property
    def pad_id(self) -> int | None:
        """The id of `pad_token`, None when there is none."""
        return self._named("pad_token")

    def _named(self, key: str) -> int | None:
        content = _content(self.config.get(key))
        return None if content is None else self.token_id(content)

    def token_id(self, content: str) -> int | None:
        """The id of a token by its text, None when the vocabulary lacks it."""
        found: int | None = self.backend.token_to_id(content)
        return found

    @cached_property
    def special_strings(self) -> dict[str, str]:
        """bos_token, eos_token, ... as the chat template sees them; only those that are set."""
        pairs = ((key, _content(value)) for key, value in self.config.items() if key.endswith("_token"))
        return {key: text for key, text in pairs if text is not None}

    @cached_property
    def leading(self) -> list[int]:
        """The ids the tokenizer itself puts before plain text (usually a BOS, often nothing)."""
        import tokenizers

        whole = tokenizers.Tokenizer.from_str(
            _json({**self.spec, "truncation": None, "padding": None}).decode("utf-8", "surrogatepass")
        )
        with_special, bare = whole.encode("x").ids, self.backend.encode("x").ids
        return list(with_special[: with_special.index(bare[0])]) if bare and bare[0] in with_special else []

    @cached_property
    def normalizes(self) -> bool:
        """Whether a Unicode normalizer may change the text."""
        return "NF" in json.dumps(self.spec.get("normalizer"))

    # -- text and ids -----------------------------------------------------------------------------------------------

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character offsets of one text; no special token is added, those written in it are recognised."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens included."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=False))

    @cached_property
    def token_bytes(self) -> list[bytes] | None:
        """The bytes each id spells, by id; None for a decoder whose tokens spell nothing fixed."""
        return _byte_table(self)

    @cached_property
    def token_lengths(self) -> np.ndarray:
        """len(token_bytes) as int64, by id."""
        return np.fromiter(map(len, self.token_bytes or []), dtype=np.int64)

    # -- control tokens ---------------------------------------------------------------------------------------------

    def control_tokens(self, template: str) -> dict[str, int]:
        """Token text -> id of every added token that steers: special, written by the template, or shaped like one.

        Gemma keeps line breaks, runs of spaces and HTML tags among its added tokens: those are plain vocabulary.
        """
        added = self.spec.get("added_tokens", [])
        return {
            token["content"]: found
            for token in added
            if (found := self.token_id(token["content"])) is not None
            and (
                token["special"]
                or _LOOKS_LIKE_CONTROL.fullmatch(token["content"])
                or (
                    not _BLANK.fullmatch(token["content"])
                    and len(token["content"]) > 2
                    and token["content"] in template
                )
            )
        }

    def without(self, control: Iterable[str]) -> Tokenizer:
        """A copy that reads those added tokens as plain text; every other id stays what it was."""
        dropped, vocabulary = set(control), self.spec["model"]["vocab"]
        known = vocabulary if isinstance(vocabulary, dict) else {entry[0] for entry in vocabulary}
        kept = []
        for token in self.spec.get("added_tokens", []):
            if token["content"] not in dropped:
                kept.append(token)
            elif token["content"] not in known:
                # Ids past the model's vocabulary are given in order: the place must stay taken, by unmatchable text.
                kept.append({**token, "content": f"\ue000{token['id']}\ue001"})
        return Tokenizer({**self.spec, "added_tokens": kept}, self.config, name=self.name, template=self.template)

    def with_tokens(self, contents: Sequence[str]) -> Tokenizer:
        """A copy whose vocabulary ends with these special tokens; the model must be resized."""
        first = self.vocab_size
        added = [
            {
                "id": first + i,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, text in enumerate(contents)
        ]
        spec = {**self.spec, "added_tokens": [*self.spec.get("added_tokens", []), *added]}
        return Tokenizer(spec, self.config, name=self.name, template=self.template)

    def save(self, folder: Path, template: str | None = None) -> None:
        """Write what a server needs: tokenizer.json, tokenizer_config.json and, if there is one, chat_template.jinja."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in self.config.items() if key != "chat_template"}
        config.pop("added_tokens_decoder", None)  # tokenizer.json says the same, and says it after tokens were added
        # A class of its own makes transformers 5 rebuild the pipeline (SmolLM2's digit splitting is lost that way).
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        (folder / "tokenizer.json").write_bytes(_json(self.spec) + b"\n")
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")
        chat = self.template if template is None else template
        if chat is not None:
            (folder / "chat_template.jinja").write_text(chat, "utf-8")


_BARE: dict[str, Any] = {"post_processor": None, "truncation": None, "padding": None}


def _json(value: Any, *, sort_keys: bool = False) -> bytes:
    """Compact UTF-8 JSON of a tokenizer: hundreds of thousands of entries, so by the fast writer where it can."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None)
    except TypeError:  # a lone surrogate
        text = json.dumps(value, ensure_ascii=False, sort_keys=sort_keys, separators=(",", ":"))
        return text.encode("utf-8", "surrogatepass")


def text_digest(text: str) -> str:
    """xxh3_128 of a text, 32 hex characters."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))


def _read_json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_bytes())) if file.is_file() else {}


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _template_of(value: Any) -> str | None:
    if isinstance(value, list):  # several named templates; `default` is the chat
        value = next((entry["template"] for entry in value if entry.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def _byte_table(tokenizer: Tokenizer) -> list[bytes] | None:
    decoder = json.dumps(tokenizer.spec.get("decoder"), ensure_ascii=False)
    table: list[bytes] = [b""] * tokenizer.vocab_size
    if '"ByteLevel"' in decoder and '"Sequence"' not in decoder:
        vocabulary = tokenizer.vocabulary
        known = _byte_level()  # any other character is written as "?"
        others = {code: 63 for code in range(256) if chr(code) not in known}
        spelled = "".join(vocabulary).translate({**others, **{ord(c): byte for c, byte in known.items()}})
        raw, at = spelled.encode("latin-1", "replace"), 0
        for text, i in vocabulary.items():
            table[i] = raw[at : (at := at + len(text))]
    elif '"ByteFallback"' in decoder and '"Strip"' not in decoder:
        for text, i in tokenizer.vocabulary.items():
            fallback = re.fullmatch(r"<0x([0-9A-F]{2})>", text)
            table[i] = bytes([int(fallback[1], 16)]) if fallback else text.replace("▁", " ").encode()
    else:
        return None
    for token in tokenizer.spec.get("added_tokens", []):
        if (number := tokenizer.token_id(token["content"])) is not None:
            table[number] = token["content"].replace("▁", " " if "▁" in decoder else "▁").encode()
    return table


def _byte_level() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: a printable Latin-1 byte is itself, the rest follow from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {**{chr(b): b for b in plain}, **{chr(256 + i): b for i, b in enumerate(others)}}


def _from_hub(name: str) -> Path:
    """The folder of a hub tokenizer: from the cache, else fetched; Offline within about a second."""
    import os

    from huggingface_hub import constants, snapshot_download

    local = f"download it where there is a network (hf download {name}) and name the folder: --tokenizer FOLDER"
    try:
        cached = Path(snapshot_download(name, allow_patterns=list(_FILES), local_files_only=True))
        if (cached / "tokenizer.json").is_file():
            return cached
    except Exception:  # not cached: whatever the hub client calls that today
        pass
    if constants.HF_HUB_OFFLINE:
        raise Offline(f"tokenizer {name} is not a folder here and HF_HUB_OFFLINE is set", hint=local)
    if not any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        _knock(name, constants.ENDPOINT, local)
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:
        raise Offline(f"tokenizer {name} could not be fetched ({type(error).__name__})", hint=local) from error


def _knock(name: str, endpoint: str, hint: str) -> None:
    """One quick connection: the hub client's own retries take minutes to say that there is no network."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=1.0).close()
    except OSError as error:
        raise Offline(f"tokenizer {name} is not a folder here and the hub cannot be reached", hint=hint) from error
