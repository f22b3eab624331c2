"""The model to train: a folder, a hub name, or `tiny`; refused early when it cannot learn these shards."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from curate.foundation.errors import Offline, UsageError
from pack.template import Tokenizer
from train.config import TinySettings, TrainConfig
from train.data import Shards
from train.optimizing import need

# Layers whose attention a segment boundary cuts cleanly; recurrent and convolutional state runs across it.
ISOLATED: Final = frozenset({"full_attention", "sliding_attention", "dense", "sparse"})


def load_tokenizer(folder: Path | str, **options: Any) -> Any:
    """The tokenizer saved in a folder; raises `UsageError` when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: no tokenizer could be loaded", hint="save one there, or name another") from error


def build_model(config: TrainConfig, shards: Shards, precision: str = "fp32", device: str = "cpu") -> Any:
    """The model, its vocabulary fitted to the shards; the caller seeds torch first.

    Weights that train are float32; those an adapter freezes are in the `precision` of the run, or in 4-bit.

    Raises `UsageError` for a model that is not there, recurrent layers, ctx beyond its positions, or a tokenizer that is
    not the model's; `Offline` for a hub name that is not cached when the hub cannot be reached.
    """
    import torch

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision if config.lora else "fp32"]
    if config.model == "tiny":
        return _tiny(config.tiny, shards, dtype)
    from transformers import AutoConfig, AutoModelForCausalLM

    options = _source(config.model)
    special = _in_4bit(dtype, device) if config.load_in_4bit else {}
    try:
        settings = AutoConfig.from_pretrained(config.model, trust_remote_code=False, **options)
        refuse_unfit(settings, shards.ctx, config.model)
        check_tokenizer(config.model, settings, shards, options)
        model = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=dtype, trust_remote_code=False, **options, **special
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n", 1)[0][:300]
        raise UsageError(
            f"--model {config.model}: not a causal language model that transformers can load ({reason})",
            hint="name a folder with config.json and safetensors, a hub name, or tiny",
        ) from error
    _grow(model, shards)
    return model


def _in_4bit(dtype: Any, device: str) -> dict[str, Any]:
    """NF4 with doubly quantised constants (Dettmers et al. 2023), computed in the precision of the run."""
    need("bitsandbytes", "gristmill[gpu]", "--load-in-4bit")
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": quantised, "device_map": {"": device}}


def _source(name: str) -> dict[str, Any]:
    """How to load: a folder as it is, a cached name from the cache, and else the hub if it answers."""
    if Path(name).is_dir():
        return {"local_files_only": True}
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists():
        raise UsageError(f"--model {name}: no such folder", hint="name a folder with config.json, a hub name, or tiny")
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return {"local_files_only": True}
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise Offline(
            f"--model {name}: no such folder, not in the cache, and the hub cannot be reached",
            hint="copy the model here and name its folder: train run SHARDS --model PATH (or --model tiny)",
        )
    return {}


def _answers(endpoint: str) -> bool:
    """Whether the hub's host takes a connection within a second (a proxy is trusted to)."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with socket.create_connection((parts.hostname or "", port), timeout=0.8):
            return True
    except OSError:
        return False


def _tiny(size: TinySettings, shards: Shards, dtype: Any) -> Any:
    """A random-start Llama of the shards' vocabulary and ctx."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    facts = shards.manifest
    config = LlamaConfig(
        vocab_size=int(facts["tokenizer"]["vocab_size"]),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate or max(64, round(size.hidden * 8 / 3 / 64) * 64),
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads or size.heads,
        max_position_embeddings=shards.ctx,
        tie_word_embeddings=size.tie_embeddings,
        bos_token_id=None,
        eos_token_id=list(facts["terminators"]),
        # As padding_idx it would freeze an embedding row, and in many tokenizers pad *is* the terminator.
        pad_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


def refuse_unfit(config: Any, ctx: int, name: str) -> None:
    """Raise `UsageError` for a model whose layers leak across segments, or whose positions end before ctx."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    kind = text.model_type
    other = sorted(set(getattr(text, "layer_types", None) or ()) - ISOLATED)
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(text), None)
    if other or getattr(architecture, "_is_stateful", False):
        layers = ", ".join(other) or "recurrent layers"
        raise UsageError(
            f"--model {name}: {kind} has {layers}, whose state runs across the records of a packed row",
            hint="choose a model with softmax attention in every layer",
        )
    if architecture is not None and not getattr(architecture, "_supports_attention_backend", False):
        raise UsageError(
            f"--model {name}: {kind} does not let its attention be chosen, so packed records cannot be kept apart",
            hint="choose a Llama, Qwen, Mistral, Gemma or other current architecture",
        )
    limit = getattr(text, "max_position_embeddings", None)
    if limit and ctx > limit:
        raise UsageError(
            f"--model {name}: the rows hold {ctx:,} tokens, the model has {limit:,} positions",
            hint=f"pack shorter rows: pack build OUT SHARDS --ctx {limit} --overwrite",
        )


def check_tokenizer(name: str, config: Any, shards: Shards, options: dict[str, Any]) -> None:
    """Raise `UsageError` when the shards' ids mean other tokens to the model than to the tokenizer that packed them.

    Compared are the vocabulary, merges, normalizer and pre-tokenizer, and the id of every added token; tokens that pack
    added (`added_tokens` of the manifest) may be new. The chat template may differ: it is the user's choice.
    """
    added = set(shards.manifest.get("added_tokens") or ())
    size = int(shards.manifest["tokenizer"]["vocab_size"])
    room = int(config.get_text_config().vocab_size)
    hint = f"pack with the model's own tokenizer: pack build OUT SHARDS --tokenizer {name} --overwrite"
    if size - len(added) > room:
        raise UsageError(f"--model {name}: the shards use {size:,} token ids, the model has {room:,}", hint=hint)
    theirs = _pipeline(name, options)
    if theirs is None:
        return  # weights without a tokenizer: the vocabulary's size is all there is to compare
    mine, model = _identity(Tokenizer.load(shards.tokenizer).backend), _identity(theirs)
    for part in ("vocabulary", "normalizer", "pre_tokenizer"):
        if mine[part] != model[part]:
            raise UsageError(
                f"--model {name}: the shards were packed with another tokenizer ({part} differs)", hint=hint
            )
    new = {token for token, number in mine["tokens"].items() if model["tokens"].get(token) != number}
    if new - added:
        example = ", ".join(sorted(new - added)[:3])
        raise UsageError(
            f"--model {name}: {len(new - added)} tokens of the shards are not the model's: {example}", hint=hint
        )


def _pipeline(name: str, options: dict[str, Any]) -> Any:
    """The `tokenizers` pipeline beside a model: `tokenizer.json` as it stands, else as transformers makes one, else None.

    As it stands, because transformers rebuilds some (SmolLM2's loses its digit splitting), and pack does not.
    """
    try:
        return Tokenizer.load(name).backend
    except (UsageError, Offline):
        pass
    try:
        return getattr(load_tokenizer(name, **options), "backend_tokenizer", None)
    except UsageError:
        return None


def _identity(pipeline: Any) -> dict[str, Any]:
    """What decides which id a text becomes."""
    parts = json.loads(pipeline.to_str())
    core = {key: parts["model"].get(key) for key in ("type", "vocab", "merges")}
    tokens = {token["content"]: token["id"] for token in parts.get("added_tokens") or ()}
    return {
        "vocabulary": core,
        "normalizer": parts.get("normalizer"),
        "pre_tokenizer": parts.get("pre_tokenizer"),
        "tokens": tokens,
    }


def _grow(model: Any, shards: Shards) -> None:
    """Give the tokens that pack added a row of their own (they start at the mean of the others, and are trained)."""
    size = int(shards.manifest["tokenizer"]["vocab_size"])
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size)


def precision_of(config: TrainConfig, device: str) -> str:
    """fp32, bf16 or fp16: bf16 by default on a GPU that has it; raises `UsageError` for fp16 without a GPU."""
    if config.precision == "fp16" and device == "cpu":
        raise UsageError("precision fp16 needs a GPU", hint="use --set precision=bf16 or fp32 on CPU")
    if config.precision != "auto":
        return config.precision
    if device == "cpu":
        return "fp32"
    import torch

    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def device_of(config: TrainConfig) -> str:
    """`cpu` or `cuda`; raises `UsageError` when cuda was asked for and is not there."""
    import torch

    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: torch sees no GPU here",
            hint="use --device cpu, or install a CUDA build of torch and check nvidia-smi",
        )
    return "cuda"
