"""Kill and disturb a run at each of its system calls, and cut its power: ``python -m scripts.crash``."""
