"""Runs in the experiment trackers that people already use."""
