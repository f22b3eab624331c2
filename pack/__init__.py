"""out/ -> shards/: chat template, loss mask, packed Arrow rows with provenance."""
