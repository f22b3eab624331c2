"""The optimizer: AdamW in float32, or with 8-bit moments (Dettmers et al. 2021), paged where a GPU is."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Any, Final

import torch

from curate.foundation.errors import MissingExtra
from train.config import TrainConfig

WHOLE: Final = "int:"  # marks a plain integer of an optimizer's state among the tensors of a checkpoint


def need(package: str, extra: str, what: str) -> None:
    """Raise `MissingExtra` with the line that installs it when a package is not there."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(f"{what} needs the package {package.replace('_', '-')}", hint=f"pip install '{extra}'")


def make_optimizer(config: TrainConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer over what is trained; raises `MissingExtra` when an 8-bit one is asked for without bitsandbytes."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(trained, fused=True, **options)
    need("bitsandbytes", "gristmill[gpu]", f"optimizer {config.optimizer}")
    import bitsandbytes

    optim: Any = bitsandbytes.optim
    kind = {"adamw_8bit": optim.AdamW8bit, "paged_adamw_8bit": optim.PagedAdamW8bit}[config.optimizer]
    optimizer: torch.optim.Optimizer = kind(trained, **options)
    return optimizer


def moments(named: Iterable[tuple[str, torch.nn.Parameter]], optimizer: Any) -> dict[str, torch.Tensor]:
    """The optimizer's state by `kind/parameter`, whole numbers as tensors, shards of FSDP2 gathered (on every rank)."""
    out: dict[str, torch.Tensor] = {}
    seen: set[int] = set()  # bitsandbytes shares its code books, and safetensors writes no tensor twice
    for name, parameter in named:
        for kind, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                whole = gathered(value).contiguous()
                out[f"{kind}/{name}"] = whole.clone() if whole.data_ptr() in seen else whole
                seen.add(whole.data_ptr())
            elif isinstance(value, int):
                out[f"{WHOLE}{kind}/{name}"] = torch.tensor(value)
    return out


def restore(optimizer: Any, names: list[str], state: dict[str, torch.Tensor]) -> None:
    """Put `moments` back; `names` are the trained parameters in the optimizer's order."""
    place = {name: number for number, name in enumerate(names)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found: dict[int, dict[str, Any]] = {}
    for key, tensor in state.items():
        kind, _, name = key.partition("/")
        number = place[name]
        if kind.startswith(WHOLE):
            found.setdefault(number, {})[kind[len(WHOLE) :]] = int(tensor)
        else:
            found.setdefault(number, {})[kind] = like(tensor, parameters[number])
    optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is, or all shards of a distributed one (a collective: every rank must ask)."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def like(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, sharded as `parameter` is when that is distributed and of the same shape."""
    if not hasattr(parameter, "full_tensor") or tensor.shape != parameter.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)
    moved = tensor.to(parameter.device)
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements)
