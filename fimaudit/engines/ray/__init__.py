"""Measurements on a Ray cluster."""
