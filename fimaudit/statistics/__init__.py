"""Many inputs: summaries, one-sided bounds, paired differences, groups."""
