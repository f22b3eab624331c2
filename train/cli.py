"""`train`: parse, call, print; torch is imported only when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curate.foundation import options
from curate.foundation.console import Console, run
from curate.foundation.remote import Session, writing

app = typer.Typer(
    name="train",
    help="shards/ -> runs/: a token-weighted loss over packed rows, checkpoints that resume, a folder that serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str | None, typer.Option("--model", metavar="M", help="A folder, a hub name, or tiny.")]
Device = Annotated[str | None, typer.Option("--device", metavar="KIND", help="auto | cpu | cuda.")]
Attention = Annotated[
    str | None, typer.Option("--attention", metavar="KIND", help="auto | segments | sdpa | eager | flex | flash.")
]
ShardFolder = Annotated[Path, typer.Argument(metavar="[SHARDS]", help="A folder that pack build wrote.")]
RunFolder = Annotated[
    Path | None, typer.Argument(metavar="[RUN]", help="Where the run goes; runs/<model> when left out.")
]
In4Bit = Annotated[bool, typer.Option("--load-in-4bit", help="The frozen model of an adapter in 4-bit (bitsandbytes).")]
BatchUnit = Annotated[
    str | None, typer.Option("--batch-unit", metavar="UNIT", help="rows | examples | trained-tokens.")
]
MicroBatch = Annotated[
    int | None,
    typer.Option("--micro-batch", metavar="N", help="Rows a forward pass; changes memory, not the batch."),
]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory for activations, about a third more time.")
]
Track = Annotated[
    list[str] | None, typer.Option("--track", metavar="NAME", help="tensorboard | trackio | wandb; repeatable.")
]
Processes = Annotated[int | None, typer.Option("--num-processes", metavar="N", help="Processes that share each step.")]
Resume = Annotated[
    bool | None, typer.Option("--resume/--no-resume", help="Go on from the newest checkpoint (the default).")
]


def main() -> None:
    """Entry point of the `train` script."""
    run(app)


def _given(**flags: bool) -> dict[str, bool | None]:
    """A switch that was not thrown leaves the recipe's word standing."""
    return {name: thrown or None for name, thrown in flags.items()}


@app.callback()
def _root() -> None:
    """Keeps sub-commands named."""


@app.command("run")
def run_command(
    shards: ShardFolder = Path("shards"),
    out: RunFolder = None,
    model: Model = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train an adapter (LoRA) instead of the model.")] = False,
    merge: Annotated[bool, typer.Option("--merge", help="final/ holds model and adapter merged into one.")] = False,
    load_in_4bit: In4Bit = False,
    lr: Annotated[float | None, typer.Option("--lr", help="Peak learning rate.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", metavar="N", help="Batch an optimizer step.")] = None,
    batch_unit: BatchUnit = None,
    micro_batch: MicroBatch = None,
    max_steps: Annotated[int | None, typer.Option("--max-steps", metavar="N", help="Optimizer steps.")] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", help="Passes over the rows.")] = None,
    save_steps: Annotated[int | None, typer.Option("--save-steps", metavar="N", help="Checkpoint every N.")] = None,
    eval_steps: Annotated[int | None, typer.Option("--eval-steps", metavar="N", help="Eval loss every N.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of order and random start.")] = None,
    device: Device = None,
    attention: Attention = None,
    gradient_checkpointing: Checkpointing = False,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="Deterministic kernels only.")] = False,
    track: Track = None,
    num_processes: Processes = None,
    resume: Resume = None,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    cards: options.Cards = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    print_config: options.PrintConfig = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on packed shards; resumes by default."""
    from train import commands

    flags = {
        **_given(lora=lora, merge=merge, load_in_4bit=load_in_4bit, deterministic=deterministic),
        **_given(gradient_checkpointing=gradient_checkpointing),
        "model": model,
        "lr": lr,
        "batch": batch,
        "batch_unit": batch_unit,
        "micro_batch": micro_batch,
        "max_steps": max_steps,
        "epochs": epochs,
        "save_steps": save_steps,
        "eval_steps": eval_steps,
        "seed": seed,
        "device": device,
        "attention": attention,
        "track": track or None,
        "num_processes": num_processes,
        "resume": resume,
    }
    console = Console(as_json=as_json, quiet=quiet)
    session = Session()
    shards = Path(session.read(shards))
    resolved = commands.settings(shards, recipe, sets or [], flags)
    if print_config:
        console.result(*commands.show_config(resolved))
    elif dry_run:
        console.result(*session.said(commands.plan(shards, resolved)))
    elif out is None:
        console.result(*session.said(commands.run(shards, out, resolved, console, overwrite=overwrite, cards=cards)))
    else:
        with writing(session, out, "train run") as target:
            said = commands.run(shards, target, resolved, console, overwrite=overwrite, cards=cards)
        console.result(*session.said(said))


@app.command("check")
def check_command(
    shards: ShardFolder = Path("shards"),
    model: Model = None,
    device: Device = None,
    attention: Attention = None,
    recipe: options.Recipe = None,
    sets: options.Sets = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Prove that packed loss equals unpacked loss and that no record sees another; exit 1 if not."""
    from train import commands

    console = Console(as_json=as_json, quiet=quiet)
    resolved = commands.settings(shards, recipe, sets or [], {"model": model, "device": device, "attention": attention})
    report, data, text = commands.check(shards, resolved)
    console.result(data, text)
    commands.require(report)


@app.command("eval")
def eval_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run, its final/, any saved model; or reference: the task's own.")
    ],
    task: Annotated[
        str,
        typer.Option(
            "--task", metavar="T", help="gsm8k | math | humaneval | mbpp | code-contests | FILE of any shape."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="A local copy of the task: a file, or a folder of splits."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--n", metavar="N", help="Only N items, drawn by the seed.", min=1)
    ] = None,
    shots: Annotated[
        int, typer.Option("--shots", metavar="K", help="Worked examples from the train split.", min=0, max=64)
    ] = 0,
    instruction: Annotated[
        str | None,
        typer.Option(
            "--instruction", metavar="TEXT", help="none | task | a text; task for code, else none by default."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws items and worked examples.", min=0)] = 0,
    execute: Annotated[
        bool, typer.Option("--execute", help="Run the programs a model wrote, in a sandbox, against their tests.")
    ] = False,
    strategies: Annotated[
        bool, typer.Option("--strategies", help="Four rows: zero and one shot, with and without instruction.")
    ] = False,
    before: Annotated[
        bool, typer.Option("--before", help="Ask the model that the run began with too, and compare.")
    ] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", help="Longest answer; by task when left out.", min=1)
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Answers at a time.", min=1)] = 128,
    responses: Annotated[
        Path | None, typer.Option("--responses", metavar="FILE", help="Every answer; evaluations/ of MODEL by default.")
    ] = None,
    device: Device = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Score a model on a task: greedy answers, every response kept, intervals, kinds of mistakes, a run's card up to date."""
    from train import evaluating

    request = evaluating.Request(
        model=model,
        task=task,
        data=data,
        count=count,
        shots=shots,
        instruction=instruction,
        seed=seed,
        execute=execute,
        strategies=strategies,
        before=before,
        max_new_tokens=max_new_tokens,
        batch=batch,
        responses=responses,
        device=device or "auto",
    )
    console = Console(as_json=as_json, quiet=quiet)
    console.result(*evaluating.evaluate(request, console))


@app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(metavar="A", help="A run or model that was evaluated, or its responses.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, over the same items.")],
    task: Annotated[str | None, typer.Option("--task", metavar="T", help="Only this evaluation of the two.")] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """The difference of two evaluations with its paired interval, and the items won and lost."""
    from train.comparing import compare

    Console(as_json=as_json, quiet=quiet).result(*compare(first, second, task))
