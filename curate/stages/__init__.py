"""The stages: each returns verdicts, none deletes.

Map stages (select, length, quality) judge one batch of records at a time. Reduce stages (exact) sketch each batch,
resolve globally and answer with verdicts. The pipeline alone acts on verdicts.
"""
