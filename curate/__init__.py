"""raw/ -> out/: read, normalise, filter, deduplicate and account for every row."""
