"""``python -m fimaudit``."""

from fimaudit.cli import main

if __name__ == "__main__":
    main()
