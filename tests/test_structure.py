"""The structure of the package: imports go in one direction, and a name has one meaning."""

import ast
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# From bottom to top. A module imports only from its own folder and from lines above its own line.
LINES = (
    ("errors", "atomic", "limits", "typed_yaml", "losses", "classes", "choices", "slice_view", "recipe"),
    ("layers",),
    ("models",),
    ("runtime",),
    ("weights",),
    ("families",),
    ("data",),
    ("scoring",),
    ("task",),
    ("masks", "prompts"),
    ("annotations",),
    ("training",),
    ("export", "demo"),
    ("cli", "run_command", "released_flags"),
    ("reproduce",),
    ("quickstart",),
    ("commands",),
    ("__main__",),
)
LEVELS = {name: level for level, names in enumerate(LINES) for name in names}
TOGETHER = {
    "errors",
    "atomic",
    "limits",
    "typed_yaml",
    "losses",
    "classes",
    "choices",
    "slice_view",
    "recipe",
    "cli",
    "run_command",
    "released_flags",
}  # single files; may import each other
# Names that mean the same in each module: an entry point, or the two implementations of one kernel.
ALLOWED = {"run", "main", "parser", "build", "fill_band", "closeness_sum", "measure_distances"}


@cache
def modules() -> dict[str, ast.Module]:
    """Dotted name -> syntax tree of every Python file of the package."""
    paths = list((ROOT / "sam2unet").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {name: ast.parse(path.read_text()) for name, path in zip(names, paths, strict=True)}


def imports(module: str, tree: ast.Module, known: set[str], package: bool) -> set[str]:
    """The project's modules that a module imports, also inside functions, but not for annotations alone."""
    skipped = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in skipped:
            above = module.split(".")[: None if package and node.level == 1 else -node.level + package]
            base = ".".join((above if node.level else []) + ([node.module] if node.module else []))
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
        elif isinstance(node, ast.Import) and node not in skipped:
            found |= {alias.name for alias in node.names}
    return found & known


@cache
def import_graph() -> dict[str, set[str]]:
    trees = modules()
    packages = {name for name in trees if (ROOT / name.replace(".", "/")).is_dir()}
    return {name: imports(name, tree, set(trees), name in packages) - {"sam2unet"} for name, tree in trees.items()}


def test_imports_go_in_one_direction():
    wrong = []
    for module, targets in import_graph().items():
        if module == "sam2unet":
            continue
        own = module.split(".")[1]
        for target in targets:
            other = target.split(".")[1]
            if other != own and not LEVELS[other] < LEVELS[own] and not {own, other} <= TOGETHER:
                wrong.append(f"{module} imports {target}")
    assert not wrong, "\n".join(sorted(wrong))


def test_there_is_no_import_cycle():
    TopologicalSorter(import_graph()).prepare()  # raises CycleError, which names the cycle


def test_a_name_has_one_meaning():
    homes = defaultdict(set)
    for module, tree in modules().items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                homes[node.name].add(module)
    twice = [f"{name}: {', '.join(sorted(found))}" for name, found in homes.items() if len(found) > 1]
    assert not [line for line in sorted(twice) if line.split(":")[0] not in ALLOWED], "\n".join(sorted(twice))


def test_folders_beside_each_other_import_in_one_direction():
    """The files of their parent may import them, and they may import those files."""
    graph = defaultdict(set)
    for module, targets in import_graph().items():
        for target in targets:
            a, b = module.split("."), target.split(".")
            same = next(i for i, pair in enumerate(zip([*a, ""], [*b, ""], strict=False)) if len(set(pair)) > 1)
            sides = [".".join(parts[: same + 1]) for parts in (a, b)]
            if all((ROOT / side.replace(".", "/")).is_dir() for side in sides):
                graph[sides[0]].add(sides[1])
    assert "sam2unet.data.images" in graph["sam2unet.data.checks"]
    TopologicalSorter(graph).prepare()


def test_no_folder_has_too_many_files():
    """A folder has at most 13 files. Only the folders with a file for each command or format may have more."""
    folders = {path.parent for path in (ROOT / "sam2unet").rglob("*.py")} - {ROOT / "sam2unet"}
    large = {folder.name for folder in folders if len([*folder.glob("*.py")]) > 13}
    assert large == {"commands", "annotations"}
