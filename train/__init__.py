"""shards/ -> runs/: a bundled Accelerate trainer, with evaluation before and after."""
