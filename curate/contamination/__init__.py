"""Evaluation items found in training data: tokens, index, scan, decision, evidence. The stage is `stages/decontaminate`."""
