"""Rules, how they are decided, and verdicts in the formats of others."""
