"""One input from derivatives."""
