"""The learning rate follows transformers' schedules, one step an optimizer step, and a resumed run takes it up again."""

import math

import pytest
import torch
from transformers import get_scheduler

from train.config import TrainConfig
from train.schedules import go_to, make_scheduler, warmup_steps

STEPS = 40


def optimizer(lr=1.0):
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(scheduler, steps=STEPS):
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return found


THEIRS = {
    "constant": ("constant_with_warmup", {}),
    "linear": ("linear", {}),
    "cosine": ("cosine", {}),
    "cosine_with_min_lr": ("cosine_with_min_lr", {"min_lr": 0.1}),
    "warmup_stable_decay": ("warmup_stable_decay", {"num_decay_steps": 4, "decay_type": "linear"}),
}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_equals_transformers_for(name, warmup):
    config = TrainConfig(schedule=name, warmup=warmup, min_lr=0.1)
    theirs, special = THEIRS[name]
    expected = get_scheduler(theirs, optimizer(), math.ceil(STEPS * warmup), STEPS, scheduler_specific_kwargs=special)
    assert rates(make_scheduler(config, optimizer(), STEPS)) == rates(expected)


def test_warmup_stable_decay_is_flat_between_and_falls_straight_to_nothing_over_the_last_tenth():
    config = TrainConfig(schedule="warmup_stable_decay", warmup_steps=8)
    found = rates(make_scheduler(config, optimizer(), STEPS), STEPS + 1)
    assert found[:9] == [n / 8 for n in range(9)] and set(found[8:37]) == {1.0}
    assert found[36:] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


def test_cosine_with_min_lr_ends_there():
    config = TrainConfig(schedule="cosine_with_min_lr", min_lr=1e-6, lr=1e-5, warmup=0)
    scheduler = make_scheduler(config, optimizer(1e-5), STEPS)
    assert rates(scheduler)[0] == 1e-5 and scheduler.get_last_lr()[0] == pytest.approx(1e-6)


def test_warmup_in_steps_decides_over_the_share():
    assert warmup_steps(TrainConfig(warmup=0.5, warmup_steps=3), 100) == 3
    assert warmup_steps(TrainConfig(warmup=0.03), 101) == 4


@pytest.mark.parametrize("name", THEIRS)
def test_a_resumed_schedule_goes_on_where_it_was(name):
    config = TrainConfig(schedule=name, warmup=0.2, min_lr=0.1)
    whole = rates(make_scheduler(config, optimizer(), STEPS))
    again = make_scheduler(config, optimizer(), STEPS)
    go_to(again, 17)
    assert again.optimizer.param_groups[0]["lr"] == whole[17]
    assert rates(again, STEPS - 17) == whole[17:]
