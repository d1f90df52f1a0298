"""Norms of layers."""
