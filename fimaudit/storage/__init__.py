"""A run's folder: journal, ledger, parts, tables."""
