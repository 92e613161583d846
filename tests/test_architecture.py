"""Imports point down only, and the heavy ones happen where they are needed (no code is run)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = {"config", "documents", "errors", "files", "metrics", "progress", "serialization"}
# What each part of `pipelines` may import of the others; everything may import BASE.
ALLOWED: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "kernels": set(),
    "scans": set(),
    "launch": {"runtime", "runs"},
    "model": {"kernels"},
    "data": {"scans"},
    "weights": {"kernels", "model", "data"},
    "runtime": {"kernels", "model", "data"},
    "runs": {"model", "data", "weights", "runtime"},
    "training": {"kernels", "model", "data", "weights", "runtime", "runs"},
    "inference": {"scans", "model", "data", "runtime", "runs", "training"},
    "reports": {"data", "model", "weights", "runtime", "runs", "inference"},
    "synth": {"data", "runtime"},
    "prepare": {"data", "runtime", "scans"},
    "train": {"kernels", "model", "data", "weights", "runtime", "runs", "training"},
    "planning": {"data", "model", "runs", "runtime", "train", "training"},
    "plan": {"data", "planning", "runs", "runtime", "train", "training"},
    "evaluate": {"model", "data", "weights", "runtime", "runs", "inference", "reports"},
    "predict": {"scans", "model", "data", "weights", "runtime", "runs", "inference", "reports"},
    "bench": {"kernels", "model", "data", "runtime", "training"},
    "studies": {
        *("model", "data", "weights", "runtime", "runs", "training", "reports"),
        *("train", "evaluate", "bench"),
    },
    "ablate": {
        *("data", "runtime", "runs", "reports", "launch", "studies"),
        *("train", "evaluate"),
    },
    "pipelines": {"model", "weights", "runtime", "runs", "inference"},
}
ONLY_IN = {
    "typer": ("deepgcn_cli/",),
    "rich": ("deepgcn_cli/",),
    "h5py": ("pipelines/data/",),
}
IN_FUNCTIONS = {
    "matplotlib",
    "plyfile",
    "laspy",
    "lazrs",
    "pandas",
    "pyarrow",
    "pye57",
    "yaml",
    "scipy",
    "PIL",
    "trimesh",
    "tensorboard",
    "torch.utils.tensorboard",
    "submitit",
    "mlflow",
    "wandb",
    "pooch",
    "requests",
}
# Importing these must not import PyTorch, not even through others.
TORCH_FREE = (
    *(f"pipelines/{name}.py" for name in ("__init__", *sorted(BASE - {"config"}))),
    "pipelines/config/",
    "pipelines/data/",
    "pipelines/results/",
    "pipelines/launch/",
    "pipelines/runtime/slurm",
    "pipelines/model/__init__.py",
    "pipelines/model/presets.py",
    "deepgcn_cli/",
)
HEAVY = {
    *("torch", "torch_geometric", "numpy", "pandas", "h5py", "numba", "scipy", "sklearn"),
    *(
        "laspy",
        "lazrs",
        "pyarrow",
        "pye57",
        "yaml",
        "matplotlib",
        "plyfile",
        "safetensors",
        "tensorboard",
        "submitit",
        "mlflow",
        "wandb",
        "pooch",
        "requests",
        "rich",
    ),
}


@dataclass(frozen=True)
class Import:
    """One imported module."""

    module: str  # its full name
    when: str  # "import" of the file, a "call" of a function, or "types": only for their checkers

    @property
    def at_import(self) -> bool:
        return self.when == "import"


def source_files() -> list[Path]:
    return sorted(
        path for package in ("deepgcn_cli", "pipelines") for path in (ROOT / package).rglob("*.py")
    )


def names(files: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in files]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_file(module: str) -> Path | None:
    """The file of one of our own modules; None for any other name."""
    stem = ROOT.joinpath(*module.split("."))
    candidates = (stem.with_suffix(".py"), stem / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """All imports of a file, those for type checkers included (never at import)."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path.parent / "_")
    package = package.removesuffix("._")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tuple(
        Import(module, when)
        for node, when in walk(tree, "import")
        for module in imported_modules(node, package)
    )


def walk(node: ast.AST, when: str) -> Iterator[tuple[ast.AST, str]]:
    """All nodes below `node`, each with when it runs (see `Import`)."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        when = "call"
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        when = "types"
    yield node, when
    for child in ast.iter_child_nodes(node):
        yield from walk(child, when)


def imported_modules(node: ast.AST, package: str) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")
        above = parents[: len(parents) - node.level + 1] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            below = f"{module}.{alias.name}"
            yield below if module_file(below) or below in IN_FUNCTIONS else module


def part(module: str) -> str:
    """The part of `pipelines` that a module belongs to."""
    return [*module.split("."), "pipelines"][1] if "." in module else "pipelines"


def test_the_reader_of_imports_sees_what_is_there() -> None:
    found = {item.module: item.at_import for item in imports(ROOT / "pipelines/train.py")}
    assert found["pipelines.config"] is True
    assert found["pipelines.data.store"] is True
    events = {
        item.module: item.at_import for item in imports(ROOT / "pipelines/training/loggers.py")
    }
    assert events["tensorboard.summary.writer.record_writer"] is False


@pytest.mark.parametrize("name", names(source_files()))
def test_imports_point_down(name: str) -> None:
    path = ROOT / name
    own = [item.module for item in imports(path) if item.module.startswith("pipelines")]
    if name.startswith("deepgcn_cli/"):
        return
    assert not any(item.module.startswith("deepgcn_cli") for item in imports(path))
    here = part(module_name(path))
    assert here in ALLOWED, f"{name}: give {here} its place in ALLOWED"
    wrong = {module for module in own if part(module) not in ALLOWED[here] | BASE | {here}}
    assert not wrong, f"{name} imports {sorted(wrong)}"


@pytest.mark.parametrize("name", names(source_files()))
def test_packages_stay_in_their_places(name: str) -> None:
    for item in imports(ROOT / name):
        package = item.module.split(".")[0]
        assert name.startswith(ONLY_IN.get(package, ("",))), f"{name} imports {package}"
        heavy = {package, item.module} & IN_FUNCTIONS
        assert not (heavy and item.at_import), f"{name} imports {item.module} outside a function"


@pytest.mark.parametrize("name", [n for n in names(source_files()) if n.startswith(TORCH_FREE)])
def test_importing_does_not_import_torch(name: str) -> None:
    reached, todo = {module_name(ROOT / name)}, [ROOT / name]
    while todo:
        for item in imports(todo.pop()):
            if item.at_import and item.module not in reached:
                reached.add(item.module)
                file = module_file(item.module)
                todo += [file] if file else []
    assert not {module for module in reached if module.split(".")[0] == "torch"}


def test_no_folder_holds_more_than_a_reader_takes_in() -> None:
    folders = Counter(path.parent for path in source_files() if path.name != "__init__.py")
    assert not [str(folder) for folder, count in folders.items() if count > 14]


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions count; those for type checkers alone do not."""
    graph = {
        module_name(path): {
            item.module
            for item in imports(path)
            if item.when != "types" and module_file(item.module) not in (None, path)
        }
        for path in source_files()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_no_file_has_a_prefix_that_a_folder_could_be() -> None:
    for folder in {path.parent for path in source_files()}:
        stems = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
        prefixes = Counter(stem.partition("_")[0] for stem in stems if "_" in stem)
        taken = {folder.name, *(child.name for child in folder.iterdir() if child.is_dir())}
        wrong = {prefix for prefix, count in prefixes.items() if count > 1 or prefix in taken}
        assert not wrong, f"{folder.relative_to(ROOT)}: files begin with {wrong}"


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "misc", "common", "base", "manager"}
    assert not {path.stem for path in source_files()} & vague


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import json, sys\n"
        "from deepgcn_cli.__main__ import run\n"
        "code = run(['--help'])\n"
        "print(json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    exit_code, modules = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == 0
    assert "typer" in modules
    assert not HEAVY & set(modules)


@pytest.mark.alone
@pytest.mark.parametrize("module", ["pipelines.predict", "pipelines.train", "pipelines.evaluate"])
def test_a_stage_imports_within_its_budget(module: str) -> None:
    """At most as much again as PyTorch alone: the best of three, of the same imports."""

    def microseconds() -> tuple[int, int]:
        command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        cells = [line.split("|") for line in lines.splitlines() if line.count("|") == 2]
        total = {name.strip(): int(spent) for _, spent, name in cells if spent.strip().isdigit()}
        return total[module], total["torch"]

    measured = [microseconds() for _ in range(3)]
    assert min(whole - torch for whole, torch in measured) < min(torch for _, torch in measured)


@pytest.mark.alone
def test_help_is_shown_within_half_a_second() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        command = [sys.executable, "-m", "deepgcn_cli", "--help"]
        subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5
