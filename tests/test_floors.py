"""Arrows between the rooms only go down; what must not know of each other does not."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Longest prefix wins. lorikeet.v1 is generated.
FLOORS = {
    "lorikeet.v1": 0,
    "lorikeet.version": 0,
    "lorikeet": 4,
    "lorikeet.cli": 6,
    "loadtests": 5,
    "server": 4,
    "training": 4,
    # Speaks the public contract, as loadtests does.
    "training.publish": 5,
    "server.engine": 3,
    "server.model": 2,
    "server.kernels": 1,
    "adapters": 1,
}
FORBIDDEN = {
    "adapters": ("grpc", "server", "lorikeet", "training"),
    "training": ("grpc", "server.engine", "server.model", "lorikeet"),
    "training.publish": ("grpc", "server", "loadtests", "lorikeet.v1"),
    "server.engine": ("grpc", "google", "lorikeet", "transformers"),
    "server.kernels": ("transformers", "grpc", "adapters"),
    "lorikeet": ("torch", "transformers", "numpy", "server", "adapters", "training", "loadtests"),
}
# The one place that builds everything may look up from where it stands, inside its functions.
COMPOSITION_ROOT = "lorikeet.cli"


def room_of(module: str) -> str | None:
    rooms = [room for room in FLOORS if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def modules() -> dict[str, Path]:
    found = {}
    for top in ("lorikeet", "adapters", "server", "training", "loadtests"):
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(p for p in parts if p != "__init__")] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = modules()


def arrows() -> Iterator[tuple[str, str]]:
    for name, path in MODULES.items():
        for imported in imports(path):
            yield name, imported


def test_arrows_only_go_down() -> None:
    wrong = []
    for source, target in arrows():
        here, there = room_of(source), room_of(target)
        if here is None or there is None or here in (there, COMPOSITION_ROOT):
            continue
        if FLOORS[there] >= FLOORS[here]:
            wrong.append(f"{source} -> {target}")
    assert wrong == []


def test_who_must_not_know_whom() -> None:
    wrong = []
    for source, target in arrows():
        banned = FORBIDDEN.get(room_of(source) or "", ())
        wrong += [f"{source} -> {target}" for b in banned if target == b or target.startswith(f"{b}.")]
    assert wrong == []


def test_no_module_reaches_itself_again() -> None:
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for source, target in arrows():
        parts = target.split(".")
        for length in range(len(parts), 0, -1):
            module = ".".join(parts[:length])
            if module in MODULES and module != source:
                edges[source].add(module)
                break
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"import cycle: {' -> '.join((*path, module))}"
        if module not in done:
            for target in sorted(edges[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_files_and_functions_stay_small() -> None:
    wrong = []
    for name, path in MODULES.items():
        if name.startswith("lorikeet.v1."):
            continue
        if path.read_text().count("\n") > 275:
            wrong.append(f"{name}: a noun is missing, split this file")
        for node in ast.walk(tree(path)):
            is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            if is_function and (node.end_lineno or 0) - node.lineno >= 60:
                wrong.append(f"{name}: {node.name} is too long")
    assert wrong == []
