"""`curate selftest`: copies and look-alikes of known similarity, planted into the user's own records, and what became of them.

`measuring.py` says what two records share and what a stage promises, `edits.py` makes copies, `planting.py` groups them,
`running.py` runs the configured stages on them (`staged.py`) and counts (`tally.py`); `leaking.py` does the same with
items of evaluation sets. Nothing here uses the kernels, hashes or words of the stages.
"""
