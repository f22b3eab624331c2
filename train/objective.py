"""The loss of a packed batch: the sum of cross-entropies over its trained tokens, and nothing else.

The LM head runs only where the next token is trained, so untrained positions have no logits and no gradient. The sum is
divided by the trained tokens of the *whole* optimizer step (all micro-batches, all processes), which makes
accumulation and data parallelism exact for unequal rows.

Head and cross-entropy run chunk by chunk, and each chunk's gradient is taken at once, from the logits that are there:
nothing of them is kept for the backward pass. Cost: two chunks of at most 32 M logits (128 MiB each in float32; 1 GiB off
the CPU) and one gradient of the head's weight, however many positions are trained; the same three matrix products as ever.
A head that is more than one linear layer (soft caps, scaled logits) runs whole, in the model's own code.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch.nn.functional import cross_entropy, linear, log_softmax

from pack.shards import IGNORE
from train.attention import FLAT, SEGMENTS, Segments, inputs
from train.data import Batch

CHUNK: Final = {"cpu": 1 << 25}  # logits at a time
CHUNK_ELSEWHERE: Final = 1 << 28  # few, large products suit a GPU


class HeadLoss(torch.autograd.Function):
    """Linear head and cross-entropy over chunks of positions, gradients included.

    Takes hidden states (n, width), weight (vocabulary, width), bias (vocabulary,) or None, targets (n,) int64 with -100
    for none, and positions a chunk. Gives the summed loss, which alone can be differentiated (once), and losses (n,).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses, and every gradient that will be asked for, up to the factor that backward brings."""
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        wants = ctx.needs_input_grad[:3]
        grads = [
            torch.zeros(t.shape, dtype=torch.float32, device=t.device) if t is not None and want else None
            for t, want in zip((hidden, weight, bias), wants, strict=True)
        ]
        losses = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
        with torch.autocast(device, enabled=False):
            head, shift = weight.to(low), None if bias is None else bias.to(low)
            for start in range(0, len(targets), chunk):
                span = slice(start, start + chunk)
                part, aim = hidden[span].to(low), targets[span]
                trained, index = aim != IGNORE, aim.clamp_min(0)[:, None]
                scores = log_softmax(linear(part, head, shift).float(), dim=-1)
                losses[span] = torch.where(trained, -scores.gather(1, index)[:, 0], 0.0)
                if any(wants):
                    _gradients(grads, span, part, head, _slope(scores, index, trained))
        ctx.grads = [  # fp16 has no room for them before the loss is scaled up
            None if g is None or t is None else (g if low == torch.float16 else g.to(t.dtype))
            for g, t in zip(grads, (hidden, weight, bias), strict=True)
        ]
        ctx.mark_non_differentiable(losses)
        return losses.sum(), losses

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Scale the gradients that forward left; a second call has nothing to scale and fails."""
        grads, ctx.grads = ctx.grads, None
        return *(g if g is None else g.mul_(outputs[0]) for g in grads), None, None


def _slope(scores: torch.Tensor, index: torch.Tensor, trained: torch.Tensor) -> torch.Tensor:
    """The loss's gradient by the logits, softmax minus one-hot, in the place of the log-probabilities."""
    slope = scores.exp_()
    slope.scatter_add_(1, index, torch.full_like(index, -1, dtype=slope.dtype))
    return slope if bool(trained.all()) else slope.mul_(trained[:, None])


def _gradients(
    grads: list[torch.Tensor | None], span: slice, part: torch.Tensor, head: torch.Tensor, slope: torch.Tensor
) -> None:
    """Add one chunk's share to the gradients of hidden states, weight and bias, each where wanted."""
    by_hidden, by_weight, by_bias = grads
    if by_bias is not None:
        by_bias += slope.sum(0)
    low = slope.to(part.dtype)
    if by_hidden is not None:
        by_hidden[span] = low @ head
    if by_weight is not None and low.dtype == by_weight.dtype:
        by_weight.addmm_(low.T, part)
    elif by_weight is not None:
        by_weight += low.T @ part


class PackedLoss(torch.nn.Module):
    """Wraps a causal language model; `forward` gives the summed loss and the loss of each kept position."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.chunked = self._head_is_linear()

    @property
    def flat(self) -> bool:
        """Whether the backend wants one flat row and the lengths of its segments, rather than a stack of rows."""
        return self.backend in FLAT

    @property
    def backend(self) -> str:
        """The attention in use."""
        return str(self.model.config._attn_implementation)

    @property
    def head(self) -> Any:
        """The output embedding; the copy that is trained where an adapter keeps one."""
        head = self.model.get_output_embeddings()
        saved = getattr(head, "modules_to_save", None)
        return head if saved is None else saved[head.active_adapters[0]]

    def logits(self, batch: Batch, keep: torch.Tensor | int) -> torch.Tensor:
        """The logits (rows, n, vocabulary) at `keep`: positions (n,), or 0 for all of them."""
        logits: torch.Tensor = self.model(logits_to_keep=keep, **inputs(batch, self.backend)).logits
        return logits

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The summed cross-entropy, and that of each kept position (rows, n), detached; 0 where a row trains nothing."""
        aim = batch.targets.reshape(-1)
        if self.chunked:
            head = self.head
            hidden = self.model.base_model(**inputs(batch, self.backend)).last_hidden_state[:, batch.keep]
            size = max(1, CHUNK.get(hidden.device.type, CHUNK_ELSEWHERE) // head.weight.shape[0])
            total, losses = HeadLoss.apply(  # type: ignore[no-untyped-call]
                hidden.reshape(-1, hidden.shape[-1]), head.weight, head.bias, aim, size
            )
        else:
            logits = self.logits(batch, batch.keep).float()
            losses = cross_entropy(logits.reshape(len(aim), -1), aim, ignore_index=IGNORE, reduction="none")
            total = losses.sum()
        return total, losses.detach().view(batch.targets.shape)

    def _head_is_linear(self) -> bool:
        """Whether the model's logits are bit for bit its output embedding of its last hidden state, on four tokens."""
        head = self.head
        if type(head) is not torch.nn.Linear:
            return False
        ids = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
        probe: dict[str, Any] = {"input_ids": ids, "position_ids": torch.arange(4, device=ids.device)[None]}
        probe |= {"use_cache": False, **({"segments": Segments([4])} if self.backend == SEGMENTS else {})}
        was = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                hidden = getattr(self.model.base_model(**probe), "last_hidden_state", None)
                return hidden is not None and torch.equal(self.model(**probe).logits, head(hidden))
        finally:
            self.model.train(was)
