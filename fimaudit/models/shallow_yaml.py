"""YAML of no more levels than settings have: PyYAML reads a nest of brackets in a time that grows with its square."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["ShallowLoader"]

#: Levels of a document; those of a request's body are the most, and few.
MOST_LEVELS = 64


class ShallowLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses deeper documents before it has read them.

    >>> yaml.load("{rules: [{rule: integrity}]}", Loader=ShallowLoader)
    {'rules': [{'rule': 'integrity'}]}
    """

    _levels = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._levels += 1
        try:
            if self._levels > MOST_LEVELS:
                at = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, f"more than {MOST_LEVELS} levels", at)
            node: yaml.Node | None = super().compose_node(parent, index)
            return node
        finally:
            self._levels -= 1
