"""The recipes say what the published set-ups say: read back from the objects a run is made of, not from the file."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from shards_fixture import write_shards

from curate.config import load_recipe, merge, recipe_names
from curate.foundation.errors import Offline, UsageError
from curate.record import Message, Record, to_table
from pack.template import Renderer
from pack.tokenizing import Tokenizer
from train import schedules, starting
from train.checkpoint import Progress
from train.data import Shards
from train.judging import EvalConfig, below, figures_of, items_of, limit
from train.model import _in_4bit, precision_of
from train.needing import require
from train.optimizing import make_optimizer
from train.plan import make_plan
from train.resolving import resolve
from train.watching import judge

PUBLISHED = [name for name in recipe_names() if name != "demo"]
GSM8K = [name for name in PUBLISHED if name.startswith("gsm8k")]
# What makes a 7B run fit this machine, and nothing else: the live objects below carry the rest of the recipe.
STANDS_IN = {"model": "tiny", "device": "cpu", "precision": "fp32", "optimizer": "adamw", "load_in_4bit": False}

SIZE = {"pack.ctx", "pack.tokenizer", "train.model", "train.batch", "train.max_steps", "train.eval_rows"}
SIZE |= {"train.eval_steps", "train.save_steps", "train.warmup_steps", "train.tiny.layers", "train.tiny.hidden"}
SIZE |= {"train.tiny.heads", "curate.embedding.model", "sweep.trained"}
DEVICE, PRECISION, OPTIMIZER = {"train.device"}, {"train.precision", "train.load_in_4bit"}, {"train.optimizer"}
TINY = {"train.model", "train.tiny.layers", "train.tiny.hidden", "train.tiny.heads", "train.device", "train.precision"}
EXAM = {"eval.tasks.hungarian-exam.n", "eval.tasks.hungarian-exam.max_new_tokens"}
ASKED = ("zero-shot", "one-shot", "zero-shot-instructed", "one-shot-instructed")
MATH = TINY | EXAM | {"pack.tokenizer", "pack.ctx", "train.batch", "train.max_steps", "train.eval_rows"}
GSM = TINY | {"pack.tokenizer", "train.max_steps", "train.optimizer"}
GSM |= {f"eval.tasks.{task}.{key}" for task in ASKED for key in ("n", "max_new_tokens")}
CHANGED = {
    "math-instruct-7b": MATH,
    "math-mix-1x": MATH,
    "math-mix-4x": MATH,
    "math-mix-16x": MATH | {"sweep.trained"},
    **dict.fromkeys(GSM8K, GSM),
    "reasoning-lora-7b": TINY
    | {"pack.tokenizer", "pack.ctx", "train.load_in_4bit", "train.max_steps", "train.eval_steps", "train.save_steps"}
    | {"train.eval_rows", "train.optimizer", "eval.tasks.code-contests.n", "eval.tasks.code-contests.max_new_tokens"},
    "smol-sft": TINY
    | {"curate.embedding.model", "pack.tokenizer", "pack.ctx", "train.batch", "train.max_steps", "train.eval_rows"}
    | {"eval.tasks.gsm8k.n", "eval.tasks.gsm8k.max_new_tokens"},
    "smol-stages": TINY
    | {"pack.tokenizer", "pack.ctx", "train.batch", "train.warmup_steps", "train.eval_rows", "pack.stages.2.ctx"}
    | {f"pack.stages.{stage}.total.tokens" for stage in range(3)}
    | {"pack.stages.2.lengths.long.over"},
}


def flat(value, prefix=""):
    """Every leaf by its dotted key, lists of mappings by number."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if _mappings(value) else None
    if not pairs:
        return {prefix.removesuffix("."): value}
    return {key: leaf for name, part in pairs for key, leaf in flat(part, f"{prefix}{name}.").items()}


def _mappings(value):
    return isinstance(value, list) and value and isinstance(value[0], dict)


def sized(key):
    """Whether a key says how big something is: the model, its vocabulary, rows, steps, items, answers."""
    last = key.rpartition(".")[2]
    return (
        key in SIZE
        or (key.startswith("eval.tasks.") and last in ("n", "max_new_tokens"))
        or (
            key.startswith("pack.stages.")
            and key.partition("stages.")[2][2:] in ("ctx", "total.tokens", "lengths.long.over")
        )
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_smoke_overlay_changes_size_device_precision_and_optimizer_kind_alone(name):
    _, recipe = load_recipe(name)
    overlay = recipe.pop("smoke")
    before, after = flat(recipe), flat(merge(recipe, overlay))
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == CHANGED[name]
    assert {key for key in changed if not sized(key)} <= DEVICE | PRECISION | OPTIMIZER


def counted(rows, ctx, examples, trained, held=1000):
    """Shards of which only the counts are known; what a plan is made from."""

    class Counted(SimpleNamespace):
        def __len__(self):
            return self.rows

    split = Counted(rows=rows, ctx=ctx, examples=examples, trained=trained)
    eval_split = Counted(rows=held, ctx=ctx, examples=held, trained=held)
    stages = [SimpleNamespace(name="train", split=split)]
    return SimpleNamespace(stages=stages, train=split, eval=eval_split, ctx=ctx)


@pytest.fixture(scope="module")
def tiny_shards(tmp_path_factory):
    return Shards(write_shards(tmp_path_factory.mktemp("recipes") / "shards", train=60, held=8))


@pytest.fixture
def live(tiny_shards, tmp_path):
    """What `train run` is made of: (river, plan over shards of full size, live objects)."""

    def make(name, shards):
        found = resolve(name)
        plan = make_plan(found.train, shards, chosen=True)
        return found, plan, starting.make(found.train.model_copy(update=STANDS_IN), tiny_shards, plan, tmp_path)

    return make


def rate(made, step):
    """The learning rate of a step, from the live schedule."""
    schedules.go_to(made.scheduler, step)
    return made.optimizer.param_groups[0]["lr"]


def group(made):
    return made.optimizer.param_groups[0]


def checkpointed(made):
    """Whether every layer recomputes its activations, and does so without re-entering."""
    layers = [module for module in made.inner.modules() if getattr(module, "gradient_checkpointing", False)]
    return bool(layers) and all(
        layer._gradient_checkpointing_func.keywords["use_reentrant"] is False for layer in layers
    )


def kind_of(found):
    """The class of the optimizer that the recipe itself names."""
    import torch

    return type(make_optimizer(found.train, [torch.nn.Parameter(torch.zeros(2, 2))])).__name__


def trained_text(found, *messages, **more):
    """What is trained of a conversation, with the recipe's format and mask, and what stands before it."""
    tokenizer = Tokenizer.load(None)
    rules = {"prompt_format": found.pack.prompt_format, "template": found.pack.template, "loss_on": found.pack.loss_on}
    (made,) = Renderer(tokenizer, engine="hf", **rules, **more).encode([Message(*pair) for pair in messages])
    ids = [int(token) for token in made.ids]
    mask = [bool(flag) for flag in made.mask]
    read = tokenizer.backend.decode
    whole, own = read(ids, skip_special_tokens=True), [token for token, flag in zip(ids, mask, strict=True) if flag]
    return whole, read(own, skip_special_tokens=True), own[-1] == tokenizer.eos_id


def test_math_instruct_7b(live):
    found, plan, made = live("math-instruct-7b", counted(9_000, 4096, 60_000, 20_000_000))
    assert found.train.model == "EleutherAI/llemma_7b" and made.wrapped is None
    assert (plan.rows, plan.tokens, plan.steps, plan.all_tokens) == (256, 1_048_576, 500, 524_288_000)
    assert (found.pack.ctx, plan.stretches[0].ctx) == (4096, 4096)
    assert group(made)["initial_lr"] == 5e-5 and group(made)["betas"] == (0.9, 0.999)
    assert type(made.optimizer.optimizer).__name__ == "AdamW" == kind_of(found)
    assert checkpointed(made)
    assert plan.eval_steps < plan.steps and plan.eval_rows > 0  # validation loss watched
    whole, own, ended = trained_text(found, ("user", "1 + 1"), ("assistant", " 2"))
    assert (whole, own, ended) == ("Input:1 + 1\n\nResponse: 2", " 2", True)


@pytest.mark.parametrize(("name", "times"), [("math-mix-1x", []), ("math-mix-4x", [4]), ("math-mix-16x", [4, 16])])
def test_math_mixes_are_fixed_totals_of_ten_epochs_of_mu_instruct(name, times, live):
    found, plan, made = live(name, counted(40_000, 4096, 300_000, 90_000_000))
    rules = found.pack.rules()
    assert rules["muInstruct"].epochs == 10
    fills = {source: rules[source].fill_to for source in ("camel-math", "openhermes")[: len(times)]}
    assert [fill.times for fill in fills.values()] == times and all(
        fill.of == ("muInstruct",) for fill in fills.values()
    )
    assert set(found.recipe["sources"]) == {"muInstruct", *fills}
    assert group(made)["initial_lr"] == 5e-5 and plan.rows == 256 and plan.epochs == 1
    assert found.eval.tasks["hungarian-exam"].task == "hungarian-exam" and found.eval.tasks["hungarian-exam"].n is None


def test_reasoning_lora_7b(live):
    found, plan, made = live("reasoning-lora-7b", counted(190_000, 4096, 190_000, 60_000_000))
    train, adapter = found.train, made.wrapped.peft_config["default"]
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (16, 32, 0.1)
    assert set(adapter.target_modules) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert (plan.rows, plan.stretches[0].micro, plan.examples) == (16, 4, 16)  # 4 x 4
    assert plan.epochs == 3 and plan.steps == 190_000 * 3 // 16
    assert group(made)["initial_lr"] == 2e-4 and group(made)["weight_decay"] == 0.01
    rise = schedules.warmup_steps(train, plan.steps)
    assert rise == -(-plan.steps * 3 // 100) and rate(made, rise) == 2e-4 and rate(made, plan.steps) < 1e-12
    middle = rate(made, rise + (plan.steps - rise) // 2)
    assert middle == pytest.approx(1e-4, rel=1e-3)  # a cosine is half way down
    assert precision_of(train, "cuda") == "fp16" and kind_of(found) == "PagedAdamW8bit" and train.clip == 1.0
    import torch

    quantised = _in_4bit(torch.float16, "cpu")["quantization_config"]
    assert train.load_in_4bit and quantised.load_in_4bit and quantised.bnb_4bit_quant_type == "nf4"
    assert (plan.eval_steps, plan.save_steps, train.best, train.seed, train.deterministic) == (100, 500, True, 42, True)
    assert found.pack.eval_fraction == 0.05 and found.pack.algorithm == "none"
    with starting.kernels(train):
        assert torch.are_deterministic_algorithms_enabled()


def test_reasoning_stops_after_three_evaluations_that_gain_no_more_than_a_thousandth():
    config, progress = resolve("reasoning-lora-7b").train, Progress(step=100)
    for loss in (1.0, 0.9992, 0.9991):
        judge(progress, loss, config)
        assert not progress.stopped
    judge(progress, 0.9991, config)
    assert progress.stopped


def test_reasoning_bounds_are_inclusive_and_unfinished_answers_go():
    from curate.settings import CurateConfig
    from curate.stages.registry import map_stages

    found = resolve("reasoning-lora-7b")
    config = CurateConfig.model_validate(found.recipe["curate"])
    assert config.stages == ("length", "quality", "exact", "decontaminate") and config.exact.key == "conversation"
    fixes = config.quality.fix
    assert fixes.fences == "on"

    def record(number, user, assistant):
        return Record("s", "s", number, [Message("user", user), Message("assistant", assistant)])

    cases = [("u" * 50, "a" * 50), ("u" * 49, "a" * 50), ("u" * 50, "a" * 4046), ("u" * 50, "a" * 4047)]
    cases += [("u" * 50, "So... " + "a" * 60), ("u" * 50, "So... " + "a" * 94), ("u" * 50, "Ã©tÃ© Ã  la plage " * 4)]
    rows = [record(number, *case) for number, case in enumerate(cases)]
    gone = {verdict.index: verdict.rule for stage in map_stages(config)[:2] for verdict in removed(stage, rows)}
    assert set(gone) == {1, 3, 4, 6} and gone[4].startswith("unfinished") and "mojibake" in gone[6]


def removed(stage, rows):
    """The verdicts of one stage that remove, each with the `index` of its row and its `rule`."""
    return stage.judge(to_table(rows)).removals


def test_reasoning_is_judged_on_a_hundred_problems_by_generation_rate_and_relative_gain(tmp_path):
    config = resolve("reasoning-lora-7b").eval
    task = config.tasks["code-contests"]
    assert (task.n, task.execute, config.seed) == (100, True, 42)
    floors = {name: limit(floor) for name, floor in figures_of(config.expect["code-contests"]).items()}
    assert floors == {"generation_rate": (True, 0.8), "relative_gain": (True, 0.1)}

    def scores(fenced, before, after):
        facts = {"total": 100, "fenced": fenced, "parses": fenced}
        return {"code-contests": {"before": {**facts, "accuracy": before}, "after": {**facts, "accuracy": after}}}

    assert below(config, scores(81, 0.20, 0.23)) == []
    (line,) = below(config, scores(80, 0.20, 0.23))
    assert "generation_rate 0.800" in line
    (line,) = below(config, scores(81, 0.20, 0.21))
    assert "relative_gain" in line
    assert len(below(config, scores(81, 0.0, 0.0))) == 1 and below(config, scores(81, 0.0, 0.01)) == []


def test_smol_sft(live):
    found, plan, made = live("smol-sft", counted(100_000, 8192, 1_000_000, 90_000_000))
    assert found.pack.ctx == 8192 and plan.rows == 128 and plan.epochs == 2
    assert group(made)["initial_lr"] == 3e-4 and checkpointed(made)
    curate = found.recipe["curate"]
    assert curate["stages"] == ["select", "length", "quality", "embedding", "decontaminate"]
    assert curate["embedding"]["model"] == "thenlper/gte-large"
    from curate.settings import CurateConfig

    rules = CurateConfig.model_validate(curate).decontaminate
    assert (rules.ngram.state, rules.ngram.size, rules.bigram.state, rules.bigram.threshold) == ("on", 8, "on", 0.7)


def test_smol_sft_leaves_out_function_calling_and_the_hardest_rows():
    from curate.settings import CurateConfig
    from curate.stages.registry import map_stages

    config = CurateConfig.model_validate(resolve("smol-sft").recipe["curate"])
    said = [Message("user", "What is it?"), Message("assistant", "A mill.")]
    rows = [
        Record("s", "s", 0, said),
        Record("s", "s", 1, said, extra=json.dumps({"difficulty": "very hard"})),
        Record("s", "s", 2, said, extra=json.dumps({"source": "apigen-80k"})),
        Record("s", "s", 3, said, tools='[{"name":"f"}]'),
        Record("s", "s", 4, said, extra=json.dumps({"difficulty": "easy"})),
    ]
    select = next(stage for stage in map_stages(config) if stage.name == "select")
    assert {verdict.index for verdict in removed(select, rows)} == {1, 2, 3}


def test_smol_stages(live):
    found, _, made = live("smol-stages", counted(5_000_000, 2048, 8_000_000, 11_000_000_000))
    web, math, long = found.pack.stages
    assert [web.mixture[name].weight for name in ("fineweb-edu", "dclm")] == [60, 40]
    assert web.mixture["finemath"].epochs == 0 and math.mixture["finemath"].weight and long.mixture["finemath"].weight
    share = math.mixture["fineweb-edu"].weight / math.mixture["dclm"].weight
    assert share == pytest.approx(60 / 40)
    assert [ctx for _, ctx, _ in found.pack.curriculum()] == [2048, 2048, 8192]
    assert (long.lengths.long.over, long.lengths.long.share) == (2048, 0.4)
    steps = 5_500
    scheduler = schedules.make_scheduler(found.train, made.optimizer.optimizer, steps)
    rates = [rate(SimpleNamespace(scheduler=scheduler, optimizer=made.optimizer), step) for step in range(steps + 1)]
    assert rates[1000] == pytest.approx(2.5e-4) and rates[2000] == 5e-4
    assert set(rates[2000:4950]) == {5e-4}  # stable
    assert rates[5225] == pytest.approx(2.5e-4) and rates[5500] == 0  # linear over the last 10 %
    assert group(made)["betas"] == (0.9, 0.95)


@pytest.mark.parametrize("name", GSM8K)
def test_gsm8k(name, live):
    rows, examples = 1370, 7473
    found, plan, made = live(name, counted(rows, 1024, examples, 900_000, held=0))
    train = found.train
    assert train.model == "google/gemma-2b-it" and found.recipe["sources"]["gsm8k"]["config"] == name.split("-")[2]
    assert plan.epochs == 1 and plan.examples == pytest.approx(16, abs=1) and 440 <= plan.steps <= 500
    assert group(made)["initial_lr"] == 1e-5
    rise = schedules.warmup_steps(train, plan.steps)
    assert rate(made, rise) == 1e-5 and rate(made, plan.steps) == pytest.approx(1e-6)
    assert precision_of(train, "cuda") == "bf16" and kind_of(found) == "AdamW8bit" and checkpointed(made)
    if "lora" in name:
        adapter = made.wrapped.peft_config["default"]
        assert (adapter.r, adapter.lora_alpha) == (16, 32)
        names = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        assert set(adapter.target_modules) == names
    else:
        assert made.wrapped is None and made.trained == made.parameters
    assert found.pack.overlong == "truncate" and found.pack.eval_fraction == 0
    whole, own, ended = trained_text(found, ("user", "2 + 2?"), ("assistant", "2 + 2 = 4\n#### 4"))
    assert whole == "Question: 2 + 2?\nAnswer: 2 + 2 = 4\n#### 4" and own == "2 + 2 = 4\n#### 4" and ended


def test_gsm8k_is_asked_four_ways_with_a_hundred_rows(tmp_path):
    config = resolve(GSM8K[0]).eval
    for split, numbers in (("test", range(150)), ("train", range(150, 180))):
        rows = [{"question": f"{n} plus 1?", "answer": f"{n} + 1\n#### {n + 1}"} for n in numbers]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config.model_copy(update={"data": {"gsm8k": str(tmp_path)}})
    asked = {name: items_of(config, task) for name, task in config.tasks.items()}
    assert {name: (len(items), len(shots)) for name, (items, shots) in asked.items()} == {
        "zero-shot": (100, 0), "one-shot": (100, 1), "zero-shot-instructed": (100, 0), "one-shot-instructed": (100, 1)
    }  # fmt: skip
    assert [task.instruct for task in config.tasks.values()] == [False, False, True, True]
    first = [[item.ident for item in items] for items, _ in asked.values()]
    assert all(idents == first[0] for idents in first)  # the same questions


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_number_has_its_document_and_every_recipe_its_floors_and_overlay(name):
    text = (Path(__file__).parents[2] / "curate" / "recipes" / f"{name}.yaml").read_text()
    assert "[design] is" in text and text.count("[design]") + text.count("[report]") >= 5
    _, recipe = load_recipe(name)
    assert "expect" in recipe["eval"] and recipe["smoke"] and recipe["about"]
    for used in ("[card]", "[post]", "[report]", "[paper]", "[handbook]"):
        assert (used in text) == (f"{used} is" in text)


def test_a_floor_of_a_task_that_is_not_asked_is_refused():
    with pytest.raises(UsageError, match="no task of that name"):
        resolve("gsm8k-full-main", ["eval.expect.others=0.5"])
    with pytest.raises(UsageError, match="unknown figure"):
        resolve("gsm8k-full-main", ["eval.expect.zero-shot.beauty=0.5"])
    assert EvalConfig(expect={"a": 0.5}).missing() == ["a"]


def test_a_set_without_a_section_is_refused():
    with pytest.raises(UsageError, match="section"):
        resolve("gsm8k-full-main", ["lr=1"])


def test_without_the_hub_a_recipe_says_what_to_name_and_how(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(Offline) as caught:
        require(resolve("math-instruct-7b"))
    assert "--set sources.muInstruct.path=" in caught.value.hint and "--set train.model=" in caught.value.hint
