"""The registry: eval name -> where the hub has it, which columns hold what, and its licence.

`files` are globs over the repository, tried in order until one finds files (`parts` of them at least); without any, the
usual places of the split. A
`revision` of None is not pinned here: the first fetch takes the newest commit and records it in the cache, and the
cached copy is what every later run compares against. Licences are those the hub declares; "unknown" where it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from curate.evals.model import Fields
from curate.foundation.errors import UsageError


@dataclass(frozen=True, slots=True)
class Entry:
    """One eval set on the hub; several splits are one set."""

    hub: str
    revision: str | None
    licence: str
    fields: Fields
    config: str | None = None
    splits: tuple[str, ...] = ("test",)
    files: tuple[str, ...] = ()
    parts: int = 1

    def globs(self, split: str) -> tuple[str, ...]:
        """Where the files of a split may lie, the likeliest first."""
        inside = f"{self.config}/{split}-*.parquet" if self.config else f"data/{split}-*.parquet"
        return self.files or (inside, f"{split}-*.parquet", f"{split}.jsonl", f"{split}.json", f"{split}.csv")


def _by_letter(question: str, choices: str = "choices.text") -> Fields:
    return Fields(question=question, choices=choices, answer="answerKey", id="id")


ARC: Final = ("allenai/ai2_arc", "210d026faf9955653af8916fad021475a3f00453", "cc-by-sa-4.0", _by_letter("question"))
GPQA: Final = Fields(
    question="Question",
    choices=("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
    answer="Correct Answer",
    id="Record ID",
)

SETS: Final[dict[str, Entry]] = {
    "aime24": Entry(
        *("HuggingFaceH4/aime_2024", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", "unknown"),
        Fields(question="problem", answer="solution", id="id"),
        splits=("train",),
    ),
    "aime25": Entry(
        *("math-ai/aime25", "563bb8404243c5f09de6ec262f2db674fe5bce9b", "apache-2.0"),
        Fields(question="problem", answer="answer", id="id"),
    ),
    "alpaca-eval": Entry(
        *("tatsu-lab/alpaca_eval", "2edc6fad8be6b14ea7230aabfd08188da6b8b814", "cc-by-nc-4.0"),
        Fields(question="instruction", answer="output"),
        splits=("eval",),
        files=("alpaca_eval.json",),
    ),
    "arc-c": Entry(*ARC, config="ARC-Challenge"),
    "arc-e": Entry(*ARC, config="ARC-Easy"),
    "asdiv": Entry(
        *("EleutherAI/asdiv", "8f95807222d87b4c688c3c22a6ba2801e1fa03e2", "cc-by-nc-4.0"),
        Fields(question="{body} {question}", answer="answer"),
        config="asdiv",
        splits=("validation",),
    ),
    "bbh": Entry(
        *("lukaemon/bbh", "982bb89fd79532a8ac676a61fc42eb1aeec63f99", "unknown"),
        Fields(question="input", answer="target"),
        files=("*/test-*.parquet",),
        parts=27,
    ),
    "code-contests": Entry(
        *("deepmind/code_contests", "802411c3010cb00d1b05bad57ca77365a3c699d6", "cc-by-4.0"),
        Fields(question="description", id="name"),
        splits=("valid", "test"),
    ),
    "drop": Entry(
        *("ucinlp/drop", "95cda593fae71b60b5b19f82de3fcf3298c1239c", "cc-by-sa-4.0"),
        Fields(question="{passage}\n{question}", answer="answers_spans.spans.0", id="query_id"),
        splits=("validation",),
    ),
    "gpqa": Entry(
        *("Idavidrein/gpqa", "633f5ee89ab8ad4522a9f850766b73f62147ffdd", "cc-by-4.0", GPQA),
        config="gpqa_main",
        splits=("train",),
        files=("gpqa_main.csv",),
    ),
    "gsm8k": Entry(
        *("openai/gsm8k", "740312add88f781978c0658806c59bc2815b9866", "mit"),
        Fields(question="question", answer="answer"),
        config="main",
    ),
    "hellaswag": Entry(
        *("Rowan/hellaswag", "218ec52e09a7e7462a5400043bb9a69a41d06b76", "unknown"),
        Fields(question="ctx", choices="endings", answer="label", id="ind"),
        splits=("validation", "test"),
    ),
    "humaneval": Entry(
        *("openai/openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544", "mit"),
        Fields(question="prompt", answer="canonical_solution", id="task_id"),
        config="openai_humaneval",
    ),
    "hungarian-exam": Entry(
        *("keirp/hungarian_national_hs_finals_exam", None, "unknown"),
        Fields(question="Question"),
    ),
    "ifeval": Entry(
        *("google/IFEval", "966cd89545d6b6acfd7638bc708b98261ca58e84", "apache-2.0"),
        Fields(question="prompt", id="key"),
        splits=("train",),
        files=("ifeval_input_data.jsonl",),
    ),
    "livecodebench": Entry(
        *("livecodebench/code_generation_lite", "0fe84c3912ea0c4d4a78037083943e8f0c4dd505", "unknown"),
        Fields(question="question_content", id="question_id"),
        files=("test*.jsonl",),
        parts=6,
    ),
    "math": Entry(
        *("EleutherAI/hendrycks_math", "21a5633873b6a120296cce3e2df9d5550074f4a3", "mit"),
        Fields(question="problem", answer="solution"),
        files=("*/test-*.parquet",),
        parts=7,
    ),
    "math-500": Entry(
        *("HuggingFaceH4/MATH-500", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", "unknown"),
        Fields(question="problem", answer="solution", id="unique_id"),
    ),
    "mawps": Entry(
        *("MU-NLPC/Calc-mawps", "38c10053efeafd20ab6ff4e08c3ec17de26c19b7", "mit"),
        Fields(question="question", answer="result", id="id"),
    ),
    "mbpp": Entry(
        *("google-research-datasets/mbpp", "4bb6404fdc6cacfda99d4ac4205087b89d32030c", "cc-by-4.0"),
        Fields(question="text", answer="code", id="task_id"),
        config="full",
    ),
    "mmlu": Entry(
        *("cais/mmlu", "c30699e8356da336a370243923dbaf21066bb9fe", "mit"),
        Fields(question="question", choices="choices", answer="answer"),
        config="all",
    ),
    "mmlu-pro": Entry(
        *("TIGER-Lab/MMLU-Pro", "527feea0afed1de15a8c115abf7be4c912123315", "mit"),
        Fields(question="question", choices="options", answer="answer", id="question_id"),
    ),
    "mt-bench": Entry(
        *("HuggingFaceH4/mt_bench_prompts", None, "apache-2.0"),
        Fields(question="turns", id="question_id"),
        splits=("train",),
        files=("raw/question.jsonl",),
    ),
    "openbookqa": Entry(
        *("allenai/openbookqa", "388097ea7776314e93a529163e0fea805b8a6454", "unknown", _by_letter("question_stem")),
        config="main",
    ),
    "piqa": Entry(
        *("baber/piqa", "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1", "unknown"),
        Fields(question="goal", choices=("sol1", "sol2"), answer="label"),
        splits=("validation",),
        files=("piqa_[!t]*.parquet",),
    ),
    "svamp": Entry(
        *("ChilleD/SVAMP", "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef", "mit"),
        Fields(question="{Body} {Question}", answer="Answer", id="ID"),
        splits=("train", "test"),
    ),
    "truthfulqa": Entry(
        *("truthfulqa/truthful_qa", "741b8276f2d1982aa3d5b832d3ee81ed3b896490", "apache-2.0"),
        Fields(question="question", choices="correct_answers", answer="best_answer"),
        config="generation",
        splits=("validation",),
    ),
    "winogrande": Entry(
        *("allenai/winogrande", "01e74176c63542e6b0bcb004dcdea22d94fb67b5", "unknown"),
        Fields(question="sentence", choices=("option1", "option2"), answer="answer"),
        config="winogrande_xl",
        splits=("validation",),
    ),
}


def entry(name: str) -> Entry:
    """The entry called `name`; raises `UsageError` naming the nearest."""
    if name not in SETS:
        near = get_close_matches(name.lower(), SETS, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "see them with: curate evals list; or give a path with a slash"
        raise UsageError(f"{name}: no eval set of this name, and no such file or folder", hint=hint)
    return SETS[name]
