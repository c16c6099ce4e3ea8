from __future__ import annotations

import ast

from farzi.data import stdlib

SOURCE = '''
"""A module."""

class Outer:
    """It is outer."""

    rows = make(first(1))

    def run(self):
        """Run."""
        self.open().close()
        super(Outer, self).run()
        [lambda: last()][0]()

        class Inner:
            value = inside()

if True:
    class Late(Outer):
        pass
'''


def test_calls_stand_in_the_order_of_the_source_without_those_of_inner_classes() -> None:
    classes = dict(stdlib._classes(ast.parse(SOURCE)))
    assert list(classes) == ["Outer", "Outer.run.Inner", "Late"]
    names = list(stdlib._called_names(classes["Outer"]))
    assert names == ["make", "first", "open", "close", "super", "run", "last"]
    assert list(stdlib._called_names(classes["Outer.run.Inner"])) == ["inside"]


def test_docstrings_are_named_by_their_place() -> None:
    found = list(stdlib._docstrings("m", ast.parse(SOURCE)))
    assert found == [("m", "A module."), ("m:Outer", "It is outer."), ("m:Outer.run", "Run.")]


def test_topics_are_read_without_importing_them() -> None:
    topics = list(stdlib._topics(ast.parse("topics = {'for': 'The for statement'}")))
    assert topics == [("topic:for", "The for statement")]
