"""`python tests/house.py [PACKAGE]`: how big the rooms of the package are, as a table; test_house.py holds the limits.

Counted: lines of a file; a function's lines of logic (no docstring, blank line, comment or decorator); import circles
among modules, those made while modules are imported apart from those inside functions; lines with `Any`; the share of
lines that are the subject; functions of the tests that go through families by isinstance.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What the library is about; the rest serves it: files, runs, commands, reports, the kit.
SUBJECT = frozenset(
    {
        "keys", "noise", "ranks", "functional", "kernels", "specs", "nn", "latents", "world_model", "objectives",
        "planners", "models", "data", "envs",
    }
)  # fmt: skip


@dataclass(frozen=True)
class House:
    """The numbers of a package and, of the extremes, where they are."""

    files: dict[str, int]  # lines by path
    functions: dict[str, int]  # lines of logic by path:name
    circles_at_import: list[list[str]]
    circles_in_functions: list[list[str]]  # that close only through an import inside a function
    any_count: int
    subject_share: float
    isinstance_chains: list[str]  # places in the tests

    @property
    def longest_function(self) -> int:
        return max(self.functions.values())

    @property
    def longest_file(self) -> int:
        return max(self.files.values())

    @property
    def ninetieth_percentile(self) -> float:
        return statistics.quantiles(self.files.values(), n=10)[-1]

    @property
    def median(self) -> float:
        return statistics.median(self.files.values())


def measure(package: Path, tests: Path) -> House:
    """The numbers of the package at a path, and of its tests."""
    sources = {path.relative_to(package).as_posix(): path.read_text("utf-8") for path in package.rglob("*.py")}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    lines = {name: len(source.splitlines()) for name, source in sources.items()}
    functions = {
        f"{name}:{node.name}": logic(node, sources[name])
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    eager = {module_of(name): imports(tree, sources, name, eager=True) for name, tree in trees.items()}
    every = {module_of(name): imports(tree, sources, name, eager=False) for name, tree in trees.items()}
    subject = sum(count for name, count in lines.items() if name.split("/")[0].removesuffix(".py") in SUBJECT)
    at_import = circles(eager)
    return House(
        files=lines,
        functions=functions,
        circles_at_import=at_import,
        circles_in_functions=[circle for circle in circles(every) if circle not in at_import],
        any_count=sum(names_any(tree) for tree in trees.values()),
        subject_share=subject / sum(lines.values()),
        isinstance_chains=[
            f"{path.relative_to(tests).as_posix()}:{line}"
            for path in sorted(tests.rglob("*.py"))
            for line in isinstance_chains(ast.parse(path.read_text("utf-8")))
        ],
    )


def logic(function: ast.FunctionDef, source: str) -> int:
    """The function's lines with code, from `def` on, without its docstring."""
    first, last = function.lineno, function.end_lineno or function.lineno
    text = "\n".join(source.splitlines()[first - 1 : last]) + "\n"
    counted: set[int] = set()
    unseen = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in unseen:
            counted |= set(range(token.start[0], token.end[0] + 1))
    statement = function.body[0]
    if ast.get_docstring(function) is not None:
        counted -= set(range(statement.lineno - first + 1, (statement.end_lineno or 0) - first + 2))
    return len(counted)


def names_any(tree: ast.AST) -> int:
    """Lines in which `Any` is written, imports left out."""
    return len({node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Any"})


def module_of(name: str) -> str:
    """data/replay.py → data.replay, data/__init__.py → data."""
    return name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imports(tree: ast.AST, sources: dict[str, str], name: str, *, eager: bool) -> set[str]:
    """The modules of the package that a module imports, itself left out.

    Args:
        eager: only what is imported while the module is: not in functions, nor for type checkers.
    """
    known = {module_of(source) for source in sources}
    found: set[str] = set()
    for node in statements(tree) if eager else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("worldloom_rl.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "worldloom_rl":
            base = str(node.module).partition(".")[2]
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in known else base)
    return {module for module in found & known if module and module != module_of(name)}


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run while the module is imported."""
    for node in ast.iter_child_nodes(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not checking and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from statements(node)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, each sorted."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            for module in graph.get(left.pop(), set()) - seen:
                seen.add(module)
                left.append(module)
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {tuple(sorted(other for other in reach[module] if module in reach[other])) for module in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def isinstance_chains(tree: ast.AST) -> list[int]:
    """Lines of functions that ask one name twice or more whether it is a model of some family."""
    models = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("worldloom_rl.models")
        for alias in node.names
    }
    found = []
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        asked = [ast.unparse(call.args[0]) for call in ast.walk(function) if asks_for(call, models)]
        if len(asked) > len(set(asked)):
            found.append(function.lineno)
    return found


def asks_for(node: ast.AST, models: set[str]) -> bool:
    """Whether a node is isinstance(…) of one of the named classes, or of classes of the named modules."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"):
        return False
    return any(isinstance(inner, ast.Name) and inner.id in models for inner in ast.walk(node.args[1]))


def table(house: House) -> str:
    """The numbers, and the places that are largest."""
    longest = sorted(house.functions, key=house.functions.__getitem__, reverse=True)[:8]
    largest = sorted(house.files, key=house.files.__getitem__, reverse=True)[:8]
    rows = {
        "files": f"{len(house.files)}, {sum(house.files.values())} lines",
        "lines of a file: median, p90, most": (
            f"{house.median:.0f}, {house.ninetieth_percentile:.0f}, {house.longest_file}"
        ),
        "largest files": ", ".join(f"{name} {house.files[name]}" for name in largest),
        "lines of logic of the longest function": str(house.longest_function),
        "longest functions": ", ".join(f"{name} {house.functions[name]}" for name in longest),
        "import circles": "; ".join(" ↔ ".join(circle) for circle in house.circles_at_import) or "none",
        "circles through functions only": "; ".join(" ↔ ".join(c) for c in house.circles_in_functions) or "none",
        "lines with Any": str(house.any_count),
        "share of the subject": f"{house.subject_share:.1%}",
        "isinstance chains in tests": ", ".join(house.isinstance_chains) or "none",
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    sys.stdout.write(f"| what | now |\n|---|---|\n{table(measure(where / 'worldloom_rl', where / 'tests'))}\n")
