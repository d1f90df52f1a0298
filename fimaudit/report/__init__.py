"""Pages for people, rendered from a run folder alone."""
