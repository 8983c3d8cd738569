"""For the tests of the datasheets: figures computed as a sheet tells its readers to."""

import re
from collections.abc import Callable
from typing import Any


def calculator(sheet: str) -> Callable[[str], Any]:
    """Evaluates an expression as the sheet tells its readers to: after the sheet's own first lines of Python."""
    names: dict[str, Any] = {}
    start = re.search(r"```python\n(.+?)```", sheet, re.S)
    assert start
    exec(start[1], names)
    return lambda expression: eval(" ".join(expression.split()), names)


def cells(line: str) -> list[str]:
    """The cells of one line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split("|")]
