"""Options as dataclasses whose field docstrings are the help text."""

import ast
import inspect
import itertools
import textwrap


def field_help(options_class: type) -> dict[str, str]:
    """The string under each field of a dataclass, by field name."""
    source = textwrap.dedent(inspect.getsource(options_class))
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    help_of = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            help_of[field.target.id] = ast.literal_eval(text.value)
    return help_of
