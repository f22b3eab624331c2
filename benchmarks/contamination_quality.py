"""Recall and false flags of the decontamination rules, and of those that others use, on real data.

    python -P benchmarks/contamination_quality.py ../shared/data [--only real|planted] [--list]

Real data: published rewrites of evaluation items, and data sets that have nothing of an evaluation set (false flags).
Planted: items of GSM8K test and MMLU in a prompt, verbatim and edited in nine ways. Beside the rules as they run by
default stand "any 8-gram", "any 13-gram" and "8-gram > 50 %" as others do it: words, no boilerplate guard. `--list`
prints every GSM8K train record that the default rules would remove, beside the item it matches.
"""

# ruff: noqa: E501 (tables read better in long lines)
from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from curate.contamination.building import build_index
from curate.contamination.decide import decide
from curate.contamination.index import write
from curate.contamination.rules import rules_for
from curate.evals import load
from curate.foundation.store import Store
from curate.record import Message, Record, to_table
from curate.stages.decontaminate import DecontaminateStage, gather
from curate.stages.decontaminate_settings import RULES, DecontaminateSettings

COLUMNS = ("A", "B", "A+B", "+flags", "C", "D", "8-gram", "13-gram", "8-gram>50%")
OFF = dict.fromkeys(RULES, "off")
FREE = {"items": 1 << 30, "share": 1.0}
PEERS = {
    "8-gram": {**OFF, "any13": {"state": "on", "size": 8}, "boilerplate": FREE},
    "13-gram": {**OFF, "any13": {"state": "on", "size": 13}, "boilerplate": FREE},
    "8-gram>50%": {**OFF, "ngram": {"state": "on", "operators": False}, "boilerplate": FREE},
}


class Bench:
    """Stages over one table of eval items: the default rules, and the peers' as settings of ours."""

    def __init__(self, folder: Path, table: pa.Table) -> None:
        self.table = table
        self.stages = {
            name: self._stage(folder / str(k), more) for k, (name, more) in enumerate([("ours", {}), *PEERS.items()])
        }

    def _stage(self, folder: Path, more: dict) -> DecontaminateStage:
        settings = DecontaminateSettings.model_validate(more)
        names = sorted(set(self.table.column("eval").to_pylist()))
        rules = rules_for(settings, names)
        write(build_index(self.table, rules, settings.boilerplate.items), Store(folder, "records"), "index")
        return DecontaminateStage(settings, folder / "index")

    def matches(self, name: str, texts: list[str]) -> list[tuple[int, int, str, bool]]:
        """(text, item, rule, flag) of every match."""
        stage = self.stages[name]
        table = to_table(Record("s", "f", row, [Message("user", text)]) for row, text in enumerate(texts))
        kept, hits, total = gather([stage.sketch(table)], None)
        found = decide(stage.index, stage.rules, hits, total, stage.settings.boilerplate).matches
        rows = kept.column("position").to_pylist()
        columns = (found[name].tolist() for name in ("record", "item", "rule", "flag"))
        return [(rows[record], item, RULES[rule], flag) for record, item, rule, flag in zip(*columns, strict=True)]

    def caught(self, texts: list[str], right: Callable[[int, int], bool] | None = None) -> dict[str, set[int]]:
        """By column, the texts that match an item (the right one, where `right` says which)."""
        out: dict[str, set[int]] = {name: set() for name in COLUMNS}
        for text, item, rule, flag in self.matches("ours", texts):
            if right is not None and not right(text, item):
                continue
            column = {"ngram": "A", "bigram": "B", "any13": "C", "answer": "D"}[rule]
            if rule in ("ngram", "bigram"):
                out["+flags"].add(text)
                if flag:
                    continue
                out["A+B"].add(text)
            out[column].add(text)
        for name in PEERS:
            out[name] = {text for text, item, *_ in self.matches(name, texts) if right is None or right(text, item)}
        return out


def lines(path: Path) -> list[dict]:
    """The rows of a JSON Lines file or of a JSON array, gzipped or not."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return (
        json.loads(data)
        if data.lstrip()[:1] == b"["
        else [json.loads(line) for line in data.splitlines() if line.strip()]
    )


def prompt(row: dict) -> str:
    """The user's turn of an Alpaca record."""
    return row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else "")


def row_of(label: str, count: int, found: dict[str, set[int]]) -> None:
    """Print one line of a table: shares in percent of `count`."""
    print(f"{label:44} {count:6,} " + " ".join(f"{100 * len(found[name]) / max(1, count):10.2f}" for name in COLUMNS))


def head(title: str) -> None:
    """Print the head of a table."""
    print(f"\n{title}\n{'':44} {'n':>6} " + " ".join(f"{name:>10}" for name in COLUMNS))


def real(data: Path, work: Path, listing: bool) -> None:
    """Published rewrites, and data without the items: records that match, in percent."""
    evals = load([str(data / "eval")])
    names = evals.table.column("eval").to_pylist()

    def bench(folder: str, *parts: str) -> Bench:
        chosen = [any(name.startswith(part) for part in parts) for name in names]
        return Bench(work / folder, evals.table.filter(pa.array(chosen)))

    gsm, code = bench("gsm", "gsm8k/test"), bench("code", "humaneval", "mbpp")
    every = bench("all", "")
    rewrites = [row["text"] for row in lines(data / "contamination/rephrase_gsm8k.jsonl")]
    questions = [text.split("\nAnswer:")[0].removeprefix("Question: ") for text in rewrites]
    train = [row["question"] for row in lines(data / "eval/gsm8k/train.jsonl")]
    backward = [
        row["query"] if "query" in row else row["question"]
        for row in lines(data / "sft/math/metamath_GSM8K_Backward.jsonl")
    ]
    sociology = bench("mmlu", "mmlu")
    sets = [
        ("rewrites: rephrase_gsm8k / gsm8k test", gsm, questions),
        ("rewrites: metamath backward / gsm8k test", gsm, backward),
        ("rewrites: humaneval_python / humaneval", code, [r["text"] for r in lines(data / "contamination/humaneval_python.jsonl")]),
        ("rewrites: humaneval_js / humaneval", code, [r["text"] for r in lines(data / "contamination/humaneval_js.jsonl")]),
        ("rewrites: sociology / mmlu", sociology, [r["text"] for r in lines(data / "contamination/sociology_test_rephrase_english.jsonl")]),
        ("user_oriented_instructions / alpaca_eval", bench("ae", "alpaca_eval"), [r["instruction"] + ("\n" + r["instances"][0]["input"] if r["instances"][0]["input"] else "") for r in lines(data / "sft/self_instruct/user_oriented_instructions.jsonl")]),
        ("false flags: gsm8k train / gsm8k test", gsm, train),
        ("new_codealpaca / humaneval + mbpp", code, [prompt(r) for r in lines(data / "sft/code/new_codealpaca.json")]),
        ("alpaca_data / all of eval", every, [prompt(r) for r in lines(data / "sft/alpaca/alpaca_data.json.gz")]),
    ]  # fmt: skip
    head("Real data: records that match, %")
    for label, over, texts in sets:
        row_of(label, len(texts), over.caught(texts))
    if listing:
        questions = gsm.table.column("question").to_pylist()
        for text, item, rule, flag in gsm.matches("ours", train):
            if rule in ("ngram", "bigram"):
                print(f"\n[{rule}{' flag' if flag else ''}]\n  train: {train[text]}\n  test:  {questions[item]}")


EDITS: dict[str, Callable[[list[str], random.Random], list[str]]] = {
    "verbatim": lambda parts, draw: parts,
    "every 10th word changed": lambda parts, draw: [draw.choice(OTHER) if k % 10 == 9 else w for k, w in enumerate(parts)],
    "every 6th word changed": lambda parts, draw: [draw.choice(OTHER) if k % 6 == 5 else w for k, w in enumerate(parts)],
    "first 60 % only": lambda parts, draw: parts[: max(1, round(0.6 * len(parts)))],
    "numbers changed": lambda parts, draw: ["".join(str((int(c) + 7) % 10) if c in "0123456789" else c for c in w) for w in parts],
    "re-cased": lambda parts, draw: [w.upper() for w in parts],
    "re-wrapped": lambda parts, draw: textwrap.fill(" ".join(parts), 40, initial_indent="> ", subsequent_indent="> ").split(" "),
    "Unicode look-alikes": lambda parts, draw: ["".join(chr(ord(c) + 0xFEE0) if c.isalnum() and c.isascii() else c for c in w) for w in parts],
}  # fmt: skip
OTHER = (
    "marble",
    "seven",
    "quickly",
    "under",
    "violin",
    "ninety",
    "walked",
    "paper",
    "green",
    "orbit",
    "because",
    "salt",
)


def planted(data: Path, work: Path) -> None:
    """Items of two evals in a prompt, edited; the share of them that is caught as itself."""
    evals = load([str(data / "eval/gsm8k/test.jsonl"), str(data / "eval/mmlu")])
    bench = Bench(work / "planted", evals.table)
    questions = bench.table.column("question").to_pylist()
    draw = random.Random(7)
    long = [k for k, text in enumerate(questions) if len(text.split()) >= 13]
    short = [k for k, text in enumerate(questions) if 0 < len(text.split()) < 13]
    filler = [row["question"] for row in lines(data / "eval/gsm8k/train.jsonl")]
    stage = bench.stages["ours"]
    seen = _detectable(stage)
    blind = [k for k in (*long, *short) if not seen[k]]
    print(f"\n{len(questions):,} items, {len(blind)} of them undetectable; 400 drawn for each table")
    for label, pool in (("any length", long + short), ("13 words or more", long), ("under 13 words", short)):
        items = draw.sample(pool, 400)
        head(f"Planted, {label}: items caught, %")
        for name, edit in EDITS.items():
            texts = [wrap(" ".join(edit(questions[k].split(), draw))) for k in items]
            row_of(
                name, len(items), bench.caught(texts, lambda text, item, own=items: same(questions, item, own[text]))
            )
        texts = [inside(questions[k], filler, draw) for k in items]
        row_of(
            "quoted in 2,000 words",
            len(items),
            bench.caught(texts, lambda text, item, own=items: same(questions, item, own[text])),
        )
        able = [k for k in items if seen[k]]
        texts = [wrap(questions[k]) for k in able]
        row_of(
            "verbatim, detectable ones",
            len(able),
            bench.caught(texts, lambda text, item, own=able: same(questions, item, own[text])),
        )
    head("GSM8K train joined: texts that match an item, %")
    for label, size in (("alone", 1), ("about 500 words", 11), ("about 2,000 words", 44)):
        texts = ["\n".join(draw.sample(filler, size)) for _ in range(400)] if size > 1 else filler
        row_of(label, len(texts), bench.caught(texts))


def _detectable(stage: DecontaminateStage) -> list[bool]:
    from curate.contamination.report import detectable

    _, hits, total = gather([stage.sketch(to_table([]))], None)
    decision = decide(stage.index, stage.rules, hits, total, stage.settings.boilerplate)
    return detectable(stage.index, stage.rules, decision).tolist()


def same(questions: list[str], found: int, own: int) -> bool:
    """Whether an item is the planted one, or has the very same question."""
    return found == own or questions[found] == questions[own]


def wrap(text: str) -> str:
    """The prompt that an item is planted in."""
    return f"Here is a task for you.\n\n{text}\n\nThink step by step, then answer."


def inside(text: str, filler: list[str], draw: random.Random) -> str:
    """An item between problems of another set, 2,000 words in all."""
    parts = draw.sample(filler, 44)
    parts.insert(22, text)
    return "\n\n".join(parts)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", choices=("real", "planted"))
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "planted":
            real(options.data, Path(folder), options.list)
        if options.only != "real":
            planted(options.data, Path(folder))


if __name__ == "__main__":
    main()
