"""Done once, in the server that trials are forked from: what costs a fresh process most. Nothing here starts a thread."""

import importlib

from transformers import conversion_mapping

from curate import reading

LATE = [
    "curate.stages.decontaminate", "curate.contamination.building", "curate.contamination.scan", "curate.stages.exempt",
    "curate.stages.twins", "curate.stages.duplicates", "curate.kernels", "curate.cards.duplicates", "curate.cards.records",
    "curate.cards.figures", "curate.cards.packing", "curate.cards.shards", "curate.cards.run", "pyarrow.acero",
    "transformers.models.llama.modeling_llama", "transformers.optimization", "transformers.trainer_pt_utils",
]  # fmt: skip
for name in LATE:
    importlib.import_module(name)
reading.warm()  # numba loads what it knows of types once a process
conversion_mapping.get_checkpoint_conversion_mapping("llama")  # thousands of patterns
