"""YAML of no more levels than settings have, nor repeated without end, of which no line is passed over in silence.

PyYAML reads a nest of brackets in a time that grows with its square, and an alias costs nothing until what it stands for
is read: nine aliases of nine aliases, seven times, are five million values. Of a key that is given twice it silently keeps
the last.
"""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["StrictLoader"]

#: Levels of a document; those of a request's body are the most, and few.
MOST_LEVELS = 64
#: Values that a document's aliases may stand for in all; honest files repeat some lines, an alias bomb millions.
MOST_REPEATED = 100_000
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses deeper documents, aliases of too much, keys that are there twice and
    values that are not what their tag says.

    A merge (``<<: *defaults``) gives the keys that the mapping itself does not.

    >>> yaml.load("{rules: [{rule: integrity}]}", Loader=StrictLoader)
    {'rules': [{'rule': 'integrity'}]}
    """

    _levels = 0
    _repeated = 0

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._values = 0
        self._sizes: dict[int, int] = {}  # of the anchored nodes by their identity, written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._values
        self._levels += 1
        try:
            if self._levels > MOST_LEVELS:
                raise _refused(f"more than {MOST_LEVELS} levels", event)
            node: yaml.Node | None = super().compose_node(parent, index)
        finally:
            self._levels -= 1
        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(id(node))
            if size is None:  # not composed to its end
                raise _refused("an alias within what it stands for", event)
            self._repeated += size
            if self._repeated > MOST_REPEATED:
                raise _refused(f"aliases that repeat more than {MOST_REPEATED:,} values", event)
            self._values += size
        else:
            self._values += 1
            if event.anchor is not None:
                self._sizes[id(node)] = self._values - before
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                plain = key.tag in (_TEXT, _MERGE)  # others are one key however they are written: yes and True, 16 and 0x10
                value = key.value if plain else self.construct_object(key)
                if (plain, value) in seen:
                    how = "; merge several in one list: <<: [*a, *b]" if key.tag == _MERGE else ""
                    raise _refused(f"the key {key.value!r} is given twice{how}", key)
                seen.add((plain, value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:  # of !!int '', !!bool x, ...
            kind = node.tag.rpartition(":")[2]
            raise _refused(f"expected a value of the type {kind}, got {node.value!r:.80}", node) from exc


def _refused(why: str, place: Any) -> yaml.composer.ComposerError:
    return yaml.composer.ComposerError(None, None, why, place.start_mark)
