"""The embedded tokenizer: made here, from text made here; `python -m pack.embedded.make` writes it again."""
