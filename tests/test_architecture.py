"""The house rules that a machine can hold: layers, JAX-free modules, lengths, docstrings, names, mirrored tests."""

import ast
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zhllama_jax.cli import flags, program

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "zhllama_jax"
TESTS = REPOSITORY / "tests"

# Imports run downwards only. Units of one layer are strangers, except in the ground layer, whose few modules stand in this order.
# `quant`, `serve` and `plan` are planned: the table keeps their places.
LAYERS = {
    "arrays": 0,
    "tree": 0,
    "beside": 0,
    "files": 0,
    "lines": 0,
    "templates": 0,
    "published": 0,
    "hub": 0,
    "tokenizer": 1,
    "model": 1,
    "lora": 1,
    "quant": 1,
    "shard": 1,
    "data": 2,
    "convert": 2,
    "decode": 2,
    "demo": 2,
    "train": 3,
    "eval": 3,
    "serve": 4,
    "adapt": 5,
    "plan": 5,
    "cli": 6,
    "__main__": 7,
}
GROUND_ORDER = ["arrays", "tree", "beside", "files", "lines", "templates", "published", "hub"]

# Modules that must import without jax, so that text tools start at once and run on machines that have none.
JAX_FREE_PACKAGES = ("tokenizer", "cli")
JAX_FREE_MODULES = ("lines", "templates", "data.documents", "data.pack", "data.chat", "data.mixture", "train.machines", "__main__")
JAX_FREE_MODULES += ("model.rope_config",)

MAX_LINES = 400
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc", "constants"}
INSIDE_FUNCTIONS_ONLY = {"torch", "transformers", "peft", "datasets", "lm_eval", "gradio", "fastapi", "uvicorn", "gguf", "tokenizers"}
INSIDE_FUNCTIONS_ONLY |= {"huggingface_hub", "wandb"}
MAY_PRINT = ("cli/", "train/log.py")

# Modules without a test file of their own name, each with the reason. The list may only shrink.
TESTED_ELSEWHERE = {
    "arrays.py": "a legend and type aliases; nothing runs",
}


def modules() -> list[Path]:
    """Every source file of the package."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def dotted(path: Path) -> str:
    """`tokenizer/merge.py` -> `tokenizer.merge`; a package's `__init__` is the package."""
    name = relative(path).removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def unit(name: str) -> str:
    """The name of the layer table that a dotted module belongs to."""
    return name.split(".")[0]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST) -> list[tuple[str, int]]:
    """Dotted names that a module imports anywhere, with their lines; `from a import b` counts as `a.b`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: write it out"
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def own_imports(path: Path) -> list[tuple[str, int]]:
    """What a module imports from the package, without the package's name."""
    return [
        (name.removeprefix("zhllama_jax").lstrip("."), line)
        for name, line in imports(parse(path))
        if name == "zhllama_jax" or name.startswith("zhllama_jax.")
    ]


def test_every_module_stands_in_the_layer_table() -> None:
    strangers = {unit(dotted(path)) for path in modules()} - set(LAYERS) - {"__init__"}
    assert not strangers, f"not in the layer table: {sorted(strangers)}"


def test_imports_run_downwards_only() -> None:
    wrong = []
    for path in modules():
        importer = unit(dotted(path))
        for name, line in own_imports(path):
            imported = unit(name)
            if imported in ("", "__version__", importer):
                continue
            down = LAYERS[imported] < LAYERS[importer]
            if LAYERS[imported] == LAYERS[importer] == 0:
                down = GROUND_ORDER.index(imported) < GROUND_ORDER.index(importer)
            if not down:
                wrong.append(f"{relative(path)}:{line}: {importer} (L{LAYERS[importer]}) imports {imported} (L{LAYERS[imported]})")
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    """Within a package too; only imports at the top of modules count."""
    known = {dotted(path): path for path in modules()}
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        top = ast.Module(body=[node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)], type_ignores=[])
        targets = set()
        for imported, _ in imports(top):
            inside = imported.removeprefix("zhllama_jax.")
            targets |= {candidate for candidate in (inside, inside.rpartition(".")[0]) if candidate in known and candidate != name}
        edges[name] = targets

    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in sorted(edges[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_packages_import_nothing_by_themselves() -> None:
    wrong = [relative(path) for path in modules() if path.name == "__init__.py" and imports(parse(path))]
    assert not wrong, f"`__init__` holds a docstring and no import: {wrong}"


TABLE_LINE = re.compile(r"^    ([a-z_]+(?:, [a-z_]+)*)  +\S")


def listed(docstring: str) -> tuple[set[str], set[str]]:
    """The modules that a package's docstring names: in its indented table, and in backticks."""
    table = [match[1] for line in docstring.split("\n") if (match := TABLE_LINE.match(line))]
    return {name for names in table for name in names.split(", ")}, set(re.findall(r"`([a-z_]+)(?:\.\w+)?`", docstring))


def test_packages_list_the_modules_that_there_are() -> None:
    """A table lists all modules of its package; running text may name some, and none that does not exist."""
    wrong = []
    for path in modules():
        if path.name != "__init__.py" or path.parent == PACKAGE:
            continue
        present = {module.stem for module in path.parent.glob("*.py")} - {"__init__"}
        table, named = listed(ast.get_docstring(parse(path), clean=False) or "")
        if table and table != present:
            wrong.append(
                f"{relative(path)}: the table lists {sorted(table - present)}, which do not exist, or lacks {sorted(present - table)}"
            )
        if not table and named - present:
            wrong.append(f"{relative(path)}: names {sorted(named - present)}, which do not exist")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("where", ["zhllama_jax/__init__.py", "README.md"])
def test_the_map_of_layers_is_true(where: str) -> None:
    """Every unit that exists stands in the map, in its layer, and no other does. A layer's further lines are indented."""
    found: dict[str, int] = {}
    layer = None
    for line in (REPOSITORY / where).read_text(encoding="utf-8").split("\n"):
        start = re.match(r" *L(\d)  ", line)
        if start:
            layer = int(start[1])
        elif layer is None or not line.startswith("    "):
            layer = None
            continue
        words = re.split(r"  +", line[start.end() if start else 0 :].strip())
        assert words[0] in LAYERS, f"{where} names {words[0]!r}, which is not in the layer table"
        found |= dict.fromkeys(itertools.takewhile(LAYERS.__contains__, words), layer)
    existing = {unit(dotted(path)) for path in modules()} - {"__init__", "__main__"}
    assert found == {name: LAYERS[name] for name in existing}


def is_jax_free(name: str) -> bool:
    return unit(name) in JAX_FREE_PACKAGES or name in JAX_FREE_MODULES or name.rpartition(".")[2] == "config"


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False)


def test_modules_that_promise_it_import_without_jax() -> None:
    names = ["zhllama_jax", *(f"zhllama_jax.{dotted(path)}" for path in modules() if is_jax_free(dotted(path)))]
    names += [f"zhllama_jax.{dotted(path)}" for path in modules() if path.name == "__init__.py" and path.parent != PACKAGE]
    code = f"""
import importlib, sys, traceback
for blocked in ("jax", "jaxlib", "flax", "optax", "orbax", "tensorflow_datasets", "matplotlib", "torch", "transformers"):
    sys.modules[blocked] = None
for name in {names!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        traceback.print_exc(limit=-2)
        print("FAILED", name)
"""
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    assert "FAILED" not in result.stdout, result.stdout + result.stderr


def test_files_stay_short() -> None:
    long = {relative(path): n for path in modules() if (n := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines, split them: {long}"


def test_functions_stay_short() -> None:
    long = [
        f"{relative(path)}:{node.lineno}: {node.name} has {length} lines"
        for path in modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (length := node.end_lineno - node.lineno + 1) > 80  # type: ignore[operator]
    ]
    assert not long, "\n".join(long)


def test_everything_public_has_a_docstring() -> None:
    missing = []

    def visit(path: Path, node: ast.Module | ast.ClassDef, prefix: str) -> None:
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
                if not ast.get_docstring(child):
                    missing.append(f"{relative(path)}:{child.lineno}: {prefix}{child.name}")
                if isinstance(child, ast.ClassDef):
                    visit(path, child, f"{child.name}.")

    for path in modules():
        tree = parse(path)
        if not ast.get_docstring(tree):
            missing.append(f"{relative(path)}: the module")
        visit(path, tree, "")
    assert not missing, "no docstring:\n" + "\n".join(missing)


def test_no_grab_bags() -> None:
    wrong = [relative(path) for path in modules() if FORBIDDEN_NAMES & set(relative(path).removesuffix(".py").split("/"))]
    assert not wrong, f"a file named after nothing in particular: {wrong}"


def test_heavy_optional_libraries_are_imported_inside_functions() -> None:
    wrong = []
    for path in modules():
        for node in parse(path).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                wrong += [f"{relative(path)}:{line}: {name}" for name, line in imports(node) if name.split(".")[0] in INSIDE_FUNCTIONS_ONLY]
    assert not wrong, "\n".join(wrong)


def test_no_forbidden_constructs() -> None:
    wrong = []
    for path in modules():
        where = relative(path)
        for node in ast.walk(parse(path)):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name == "print" and not where.startswith(MAY_PRINT):
                wrong.append(f"{where}:{node.lineno}: print")  # type: ignore[attr-defined]
            if isinstance(node, ast.Name) and node.id == "NotImplementedError":
                wrong.append(f"{where}:{node.lineno}: NotImplementedError")
            if isinstance(node, ast.Assert) and node.msg is None:
                wrong.append(f"{where}:{node.lineno}: assert without the fact that it states")
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv") and not where.startswith("cli/"):
                wrong.append(f"{where}:{node.lineno}: environment variables are no configuration")
        if any(mark in path.read_text(encoding="utf-8") for mark in ("TODO", "FIXME", "XXX")):
            wrong.append(f"{where}: an open end")
    assert not wrong, "\n".join(wrong)


def test_each_module_has_its_test_file() -> None:
    missing = []
    for path in modules():
        where = path.relative_to(PACKAGE)
        if path.name == "__init__.py":
            continue
        mirrored = TESTS / where.parent / f"test_{where.stem.strip('_')}.py"
        has_test = mirrored.exists()
        listed = where.as_posix() in TESTED_ELSEWHERE
        if not has_test and not listed:
            missing.append(f"{where}: no {mirrored.relative_to(REPOSITORY)}")
        if has_test and listed:
            missing.append(f"{where} has a test file now: take it off TESTED_ELSEWHERE")
    gone = [name for name in TESTED_ELSEWHERE if not (PACKAGE / name).exists()]
    assert not missing and not gone, "\n".join(missing + [f"{name} is gone: take it off TESTED_ELSEWHERE" for name in gone])


CORE = ("model", "lora", "quant", "shard", "decode", "train.stages", "train.optimizer", "train.state", "train.step")
"""What must run with nothing but jax, flax, optax and numpy: the part of the package that another project might take out."""


def is_core(name: str) -> bool:
    return any(name == core or name.startswith(f"{core}.") for core in CORE)


def test_the_core_needs_only_jax_flax_optax_and_numpy() -> None:
    """Blocks everything else that is installed, imports the core and runs a step."""
    names = [f"zhllama_jax.{dotted(path)}" for path in modules() if is_core(dotted(path))]
    result = run_python(str(TESTS / "reference" / "core_step.py"), *names)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "a step was run" in result.stdout


def test_every_configuration_loads_through_its_verb() -> None:
    """The header comment of a configuration says the command; its verb's parser takes the file."""
    for path in sorted((REPOSITORY / "configs").glob("*.yaml")):
        where = f"configs/{path.name}"
        header = [line for line in path.read_text(encoding="utf-8").split("\n") if line.startswith("#")]
        command = re.search(rf"zhllama ((?:\w+ )+)--config {re.escape(where)}", "\n".join(header))
        assert command, f"{where}: the header comment must say the command, zhllama VERB --config {where}"
        verb = command[1].strip()
        flags.parse(verb, program.VERBS[verb], ["--config", str(path)])


def test_the_harness_is_strict() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    assert jax.device_count() == 8
    assert jax.default_backend() == "cpu"
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 3)) + jnp.ones(3)
