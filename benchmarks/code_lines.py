"""How many lines of code there are: no blank lines, no comments, no docstrings.

    python benchmarks/code_lines.py [ROOT ...]

prints, for each checkout, the lines of the package folder by folder, then those of tests, benchmarks and setup.py.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """The number of lines of a Python file that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):  # a bare string is a docstring, or a comment in its place
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def count(root: Path) -> Counter[str]:
    """Code lines of a checkout by folder; the package's in full depth, tests and benchmarks as a whole."""
    found: Counter[str] = Counter()
    for path in [
        *root.glob("*.py"),
        *(p for top in ("nnunet_robust", "tests", "benchmarks") for p in root.glob(f"{top}/**/*.py")),
    ]:
        parts = path.relative_to(root).parts
        folder = "/".join(parts[:-1]) if parts[0] == "nnunet_robust" else parts[0]
        found[folder] += code_lines(path.read_text(encoding="utf-8"))
    return found


def main() -> None:
    for root in map(Path, sys.argv[1:] or [Path(__file__).parent.parent]):
        found = count(root)
        package = {folder: n for folder, n in found.items() if folder.startswith("nnunet_robust")}
        print(f"{'folder':<40}code lines")
        for folder, n in [*sorted(package.items()), ("the package", sum(package.values()))]:
            print(f"{folder:<40}{n:>10,}")
        for folder, n in [*sorted((k, v) for k, v in found.items() if k not in package), ("all", found.total())]:
            print(f"{folder:<40}{n:>10,}")


if __name__ == "__main__":
    main()
