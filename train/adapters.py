"""Low-rank adapters (Hu et al. 2021) through peft: a frozen model in the precision of the run, float32 for what is trained.

Which layers are adapted is read from the model (linear layers below an attention or an MLP module), never from a table
of architectures. Tokens that pack added are trained too: embeddings and head become `modules_to_save`. Cost: the adapter
and its moments in float32; the frozen weights once, in bf16 where the run is bf16.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, Final

import torch

from curate.foundation.errors import UsageError
from curate.foundation.store import digest_of
from train.config import LoraSettings, TrainConfig
from train.optimizing import need

CONFIG: Final = "adapter_config.json"
EDGE: Final = 512  # elements of either end of a frozen tensor that its digest covers


def adapt(model: Any, config: TrainConfig, added: list[str]) -> Any:
    """A `PeftModel` around `model`, its base frozen; `added` are the tokens that pack added.

    Raises `MissingExtra` without peft and `UsageError` when a target is no linear layer of the model.
    """
    lora = config.lora
    assert lora is not None
    need("peft", "gristmill[lora]", "--lora")
    from peft import LoraConfig, TaskType, get_peft_model

    saved = list(lora.modules_to_save)
    if added:
        saved += [name for name in _ends(model) if name not in saved]
    settings = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets(model, lora),
        modules_to_save=saved or None,
        ensure_weight_tying=bool(saved) and bool(model.config.get_text_config().tie_word_embeddings),
    )
    with warnings.catch_warnings():  # peft asks transformers for an attribute by its old name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        wrapped = get_peft_model(model, settings)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    wrapped.peft_config["default"].base_model_name_or_path = base_name(config)
    return wrapped


def base_name(config: TrainConfig) -> str:
    """How `final/` names the model it belongs to: a folder by its full path, so that it is found from anywhere."""
    return str(Path(config.model).resolve()) if Path(config.model).is_dir() else config.model


def targets(model: Any, lora: LoraSettings) -> list[str]:
    """The names of the layers to adapt; raises `UsageError` naming the linear layers there are."""
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    leaves = sorted({name.rpartition(".")[2] for name in linear})
    if isinstance(lora.targets, list):
        unknown = [name for name in lora.targets if name not in leaves]
        if unknown or not lora.targets:
            said = ", ".join(unknown) or "nothing"
            raise UsageError(f"lora.targets: the model has no linear layer {said}", hint=f"it has: {', '.join(leaves)}")
        return sorted(lora.targets)
    kinds = ("attn", "attention", *(("mlp", "feed_forward") if lora.targets == "attention+mlp" else ()))
    found = {name.rpartition(".")[2] for name in linear if any(kind in _parent(name) for kind in kinds)}
    if not found:
        raise UsageError(
            f"lora.targets: {lora.targets} is not found in this model", hint=f"name layers of it: {', '.join(leaves)}"
        )
    return sorted(found)


def _parent(name: str) -> str:
    return name.rpartition(".")[0].rpartition(".")[2]


def _ends(model: Any) -> list[str]:
    """The leaf names of embeddings and head; of the embeddings alone where the two share their weight."""
    ends = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        ends.append(model.get_output_embeddings())
    return [name.rpartition(".")[2] for end in ends for name, module in model.named_modules() if module is end]


def frozen_digest(model: torch.nn.Module) -> str:
    """A digest of what is frozen: names, shapes and both ends of every tensor; empty when nothing is."""
    facts: list[Any] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            flat = parameter.detach().reshape(-1)
            ends = torch.cat([flat[:EDGE], flat[-EDGE:]]).contiguous().cpu()
            facts.append([name, list(parameter.shape), ends.view(torch.uint8).numpy().tobytes().hex()])
    return digest_of(facts) if facts else ""


def rebuilt(wrapped: Any, weights: dict[str, torch.Tensor]) -> Any:
    """A fresh `PeftModel` with what was trained put into it by name: for weights that are sharded, or a 4-bit base."""
    with torch.no_grad():
        for name, parameter in wrapped.get_base_model().named_parameters():
            if name in weights:
                parameter.copy_(weights[name])
    return wrapped


def save_adapter(wrapped: Any, folder: Path) -> None:
    """Write the adapter, where it stops, and how to load it.

    No config.json: with one beside an adapter, transformers looks for the whole model there.
    """
    wrapped.save_pretrained(str(folder))
    facts = json.loads((folder / CONFIG).read_bytes())
    for key in ("target_modules", "modules_to_save"):  # peft writes sets, in the order of the day
        facts[key] = sorted(facts[key]) if facts.get(key) else None
    (folder / CONFIG).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")
    wrapped.get_base_model().generation_config.save_pretrained(folder)
    (folder / "README.md").write_text(HOW.format(base=facts["base_model_name_or_path"]), "utf-8")


HOW: Final = """# An adapter

It belongs to `{base}` and is loaded with it:

```python
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("final/")
tokenizer = AutoTokenizer.from_pretrained("final/")
model = model.merge_and_unload()  # one plain model, to be saved and served
```
"""


def load_saved(folder: Path, **options: Any) -> tuple[Any, list[str]]:
    """A model of `final/`, adapter or whole, and the names of weights that are missing or unknown."""
    if (folder / CONFIG).is_file():
        need("peft", "gristmill[lora]", f"{folder}: an adapter")
        from peft import AutoPeftModelForCausalLM
        from transformers import GenerationConfig

        model = AutoPeftModelForCausalLM.from_pretrained(str(folder), local_files_only=True, **options)
        if (folder / "generation_config.json").is_file():
            model.get_base_model().generation_config = GenerationConfig.from_pretrained(str(folder))
        return model, []
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        str(folder), output_loading_info=True, local_files_only=True, **options
    )
    return model, sorted([*info["missing_keys"], *info["unexpected_keys"]])
