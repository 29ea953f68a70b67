"""What the files of the package import, read from their source: at the top, inside functions, for types, by computed names."""
import ast
from collections.abc import Iterator
from pathlib import Path


def modules_of(package: Path) -> Iterator[tuple[Path, str]]:
    """(path, dotted module name) of every file of the package."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        yield path, ".".join(("fathom", *parts)).removesuffix(".__init__")


def imported_names(path: Path, module: str) -> Iterator[tuple[int, str, bool]]:
    """(line, dotted name, computed?) of everything a file imports, at any depth. `from a import b` gives a.b, which may be a module.

    `computed` marks importlib.import_module or __import__ of a name that isn't written out; its written beginning is given.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(up + ([node.module] if node.module else []))
            yield from ((node.lineno, f"{base}.{alias.name}", False) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and called_name(node.func) in ("import_module", "__import__"):
            name = node.args[0]
            start = name.values[0] if isinstance(name, ast.JoinedStr) and name.values else name
            written = start.value if isinstance(start, ast.Constant) and isinstance(start.value, str) else ""
            yield node.lineno, written, start is not name or written == "" or written.startswith(".")


def called_name(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
