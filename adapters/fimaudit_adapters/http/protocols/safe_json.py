"""JSON from a server that may mean harm: bounded in size by the transport, here in depth and in numbers."""

from __future__ import annotations

import json

from fimaudit_adapters.http.protocols.base import Malformed

__all__ = ["load"]


def load(content: bytes) -> object:
    """Parse an answer; bare NaN and Infinity pass (TensorFlow Serving sends them) and are refused with the numbers.

    Raises:
        Malformed: not JSON, nested beyond the interpreter's depth, or an integer of thousands of digits.

    >>> load(b'{"a": [1.5]}')
    {'a': [1.5]}
    """
    try:
        document: object = json.loads(content)
    except RecursionError:
        raise Malformed("expected JSON of a sane depth, got one nested too deeply") from None
    except json.JSONDecodeError as exc:
        raise Malformed(f"expected JSON, got something else ({exc.msg} at byte {exc.pos} of {len(content)})") from None
    except UnicodeDecodeError:
        raise Malformed(f"expected JSON in UTF-8, got {len(content)} bytes that are not text") from None
    except ValueError:
        raise Malformed("expected JSON with numbers of a sane length, got an integer of thousands of digits") from None
    return document
