"""The registry: eval name -> where the hub has it, which columns hold what, and its licence.

A `revision` of None is not pinned here: the first fetch resolves it to a commit, records that in the cache, and the
cached copy is what every later run compares against. `files` are globs over the repository, for sets that the hub
keeps as plain files; the others are loaded by config and split.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from curate.evals.model import Fields
from curate.foundation.errors import UsageError


@dataclass(frozen=True, slots=True)
class Entry:
    """One eval set on the hub; several configs or splits are one set."""

    hub: str
    licence: str
    splits: tuple[str, ...] = ("test",)
    configs: tuple[str | None, ...] = (None,)
    fields: Fields | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()


SUBJECTS: Final = (
    *("algebra", "counting_and_probability", "geometry", "intermediate_algebra"),
    *("number_theory", "prealgebra", "precalculus"),
)
TASKS: Final = (
    *("boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "dyck_languages"),
    *("formal_fallacies", "geometric_shapes", "hyperbaton", "logical_deduction_five_objects"),
    *("logical_deduction_seven_objects", "logical_deduction_three_objects", "movie_recommendation"),
    *("multistep_arithmetic_two", "navigate", "object_counting", "penguins_in_a_table"),
    *("reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection", "snarks"),
    *("sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects"),
    *("tracking_shuffled_objects_seven_objects", "tracking_shuffled_objects_three_objects", "web_of_lies"),
    "word_sorting",
)
ARC: Final = Fields(question="question", choices="choices.text", answer="answerKey", id="id")
GPQA: Final = Fields(
    question="Question",
    choices=("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
    answer="Correct Answer",
    id="Record ID",
)

SETS: Final[dict[str, Entry]] = {
    "aime24": Entry("HuggingFaceH4/aime_2024", "unknown", ("train",), fields=Fields(question="problem", answer="answer", id="id")),
    "aime25": Entry("math-ai/aime25", "apache-2.0", fields=Fields(question="problem", answer="answer", id="id")),
    "alpaca-eval": Entry(
        "tatsu-lab/alpaca_eval",
        "cc-by-nc-4.0",
        ("eval",),
        files=("alpaca_eval.json",),
        fields=Fields(question="instruction", answer="output"),
    ),
    "arc-c": Entry("allenai/ai2_arc", "cc-by-sa-4.0", configs=("ARC-Challenge",), fields=ARC),
    "arc-e": Entry("allenai/ai2_arc", "cc-by-sa-4.0", configs=("ARC-Easy",), fields=ARC),
    "asdiv": Entry(
        "EleutherAI/asdiv", "cc-by-nc-4.0", ("validation",), fields=Fields(question="{body} {question}", answer="answer")
    ),
    "bbh": Entry("lukaemon/bbh", "mit", configs=TASKS, fields=Fields(question="input", answer="target")),
    "code-contests": Entry(
        "deepmind/code_contests", "cc-by-4.0", ("valid", "test"), fields=Fields(question="description", id="name")
    ),
    "drop": Entry(
        "ucinlp/drop",
        "cc-by-sa-4.0",
        ("validation",),
        fields=Fields(question="{passage}\n{question}", answer="answers_spans.spans.0", id="query_id"),
    ),
    "gpqa": Entry("Idavidrein/gpqa", "cc-by-4.0", ("train",), configs=("gpqa_main",), fields=GPQA),
    "gsm8k": Entry("openai/gsm8k", "mit", configs=("main",), fields=Fields(question="question", answer="answer")),
    "hellaswag": Entry(
        "Rowan/hellaswag",
        "mit",
        ("validation", "test"),
        fields=Fields(question="ctx", choices="endings", answer="label", id="ind"),
    ),
    "humaneval": Entry(
        "openai/openai_humaneval", "mit", fields=Fields(question="prompt", answer="canonical_solution", id="task_id")
    ),
    "hungarian-exam": Entry(
        "keirp/hungarian_national_hs_finals_exam", "unknown", fields=Fields(question="Question", answer="Solution")
    ),
    "ifeval": Entry("google/IFEval", "apache-2.0", ("train",), fields=Fields(question="prompt", id="key")),
    "livecodebench": Entry(
        "livecodebench/code_generation_lite",
        "unknown",
        files=("test*.jsonl",),
        fields=Fields(question="question_content", id="question_id"),
    ),
    "math": Entry(
        "EleutherAI/hendrycks_math", "mit", configs=SUBJECTS, fields=Fields(question="problem", answer="solution")
    ),
    "math-500": Entry(
        "HuggingFaceH4/MATH-500", "mit", fields=Fields(question="problem", answer="solution", id="unique_id")
    ),
    "mawps": Entry("MU-NLPC/Calc-mawps", "mit", fields=Fields(question="question", answer="result", id="id")),
    "mbpp": Entry(
        "google-research-datasets/mbpp",
        "cc-by-4.0",
        configs=("full",),
        fields=Fields(question="text", answer="code", id="task_id"),
    ),
    "mmlu": Entry(
        "cais/mmlu", "mit", configs=("all",), fields=Fields(question="question", choices="choices", answer="answer")
    ),
    "mmlu-pro": Entry(
        "TIGER-Lab/MMLU-Pro",
        "mit",
        fields=Fields(question="question", choices="options", answer="answer", id="question_id"),
    ),
    "mt-bench": Entry(
        "HuggingFaceH4/mt_bench_prompts", "apache-2.0", ("train",), fields=Fields(question="prompt", id="prompt_id")
    ),
    "openbookqa": Entry(
        "allenai/openbookqa",
        "unknown",
        configs=("main",),
        fields=Fields(question="question_stem", choices="choices.text", answer="answerKey", id="id"),
    ),
    "piqa": Entry(
        "ybisk/piqa",
        "unknown",
        ("validation", "test"),
        fields=Fields(question="goal", choices=("sol1", "sol2"), answer="label"),
    ),
    "svamp": Entry(
        "ChilleD/SVAMP", "mit", ("train", "test"), fields=Fields(question="{Body} {Question}", answer="Answer", id="ID")
    ),
    "truthfulqa": Entry(
        "truthfulqa/truthful_qa",
        "apache-2.0",
        ("validation",),
        configs=("generation",),
        fields=Fields(question="question", choices="correct_answers", answer="best_answer"),
    ),
    "winogrande": Entry(
        "allenai/winogrande",
        "unknown",
        ("validation",),
        configs=("winogrande_xl",),
        fields=Fields(question="sentence", choices=("option1", "option2"), answer="answer"),
    ),
}


def entry(name: str) -> Entry:
    """The entry called `name`; raises `UsageError` naming the nearest."""
    if name not in SETS:
        near = get_close_matches(name.lower(), SETS, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "see them with: curate evals list; or give a path with a slash"
        raise UsageError(f"{name}: no eval set of this name, and no such file or folder", hint=hint)
    return SETS[name]
