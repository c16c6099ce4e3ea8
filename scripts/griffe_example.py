"""Griffe, which reads docstrings for the site, knows `Examples:`; ours say `Example:`."""

import re
from typing import Any

from griffe import Extension, Object


class Example(Extension):
    """Read an `Example:` as `Examples:`, so that its doctest is shown as code."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
