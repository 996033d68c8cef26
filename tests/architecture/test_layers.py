"""The shape of the house: what imports what, what never stands in the source, what it costs."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import brainsegfounder
from brainsegfounder.recipes import shipped_recipes

ROOT = Path(__file__).parents[2]
PACKAGE = Path(brainsegfounder.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(PACKAGE)) for path in SOURCES]
MAX_LINES = 450

CALLS_NEVER_MADE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load",
    "torch.hub.load", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "np.random.seed",
    "numpy.random.seed", "random.seed",
}  # fmt: skip
MODULES_NEVER_IMPORTED = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
OPTIONS_NEVER_SET = {("shell", True), ("allow_pickle", True), ("weights_only", False)}


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(node):
    """`a.b.c` for an attribute chain, else an empty text."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def calls(path):
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


def imported(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_nothing_in_the_source_runs_text_or_unpickles(path):
    found = {dotted(call.func) for call in calls(path)} & CALLS_NEVER_MADE
    assert not found
    assert not {name.split(".")[0] for name in imported(path)} & MODULES_NEVER_IMPORTED
    options = {
        (keyword.arg, keyword.value.value)
        for call in calls(path)
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Constant)
    }
    assert not options & OPTIONS_NEVER_SET


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_only_the_command_line_prints(path):
    if path.parent.name != "cli":
        assert "print" not in {dotted(call.func) for call in calls(path)}


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_file_can_be_read_in_one_sitting_and_says_what_it_is(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    assert ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_only_one_module_reads_the_environment_of_a_distributed_run(path):
    names = {dotted(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)}
    if path.name != "distributed.py":
        assert not names & {"os.environ", "os.getenv"}


def test_no_file_is_called_utils_common_or_helpers():
    assert not {path.stem for path in SOURCES} & {"utils", "common", "helpers", "misc"}


def test_the_public_names_are_these_and_all_are_there():
    names = ["SwinUNETR", "__version__", "evaluate", "load_model", "predict"]
    assert brainsegfounder.__all__ == names
    assert dir(brainsegfounder) == sorted(names)
    assert all(getattr(brainsegfounder, name) is not None for name in names)
    with pytest.raises(AttributeError, match="no attribute 'predictt'"):
        _ = brainsegfounder.predictt


def test_the_version_is_that_of_the_project_file():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{brainsegfounder.__version__}"' in text


def modules_after(*names):
    """What is loaded in a fresh interpreter after importing these modules."""
    code = f"import {', '.join(names)}; import sys; print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "names",
    [
        ["brainsegfounder", "brainsegfounder.cli"],
        ["brainsegfounder.volumes.preparation", "brainsegfounder.recipes"],
        ["brainsegfounder.runs", "brainsegfounder.errors", "brainsegfounder.files"],
    ],
)
def test_what_a_user_waits_on_loads_neither_torch_nor_monai(names):
    loaded = modules_after(*names)
    assert set(names) <= loaded
    assert not loaded & {"torch", "monai", "matplotlib", "nilearn", "pandas", "sklearn"}


def test_the_layers_hold():
    if importlib.util.find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed; pip install 'brainsegfounder[dev]'")
    code = "from importlinter.cli import lint_imports; exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_shipped_recipes_are_these():
    assert list(shipped_recipes()) == [
        "anatomy",
        "atlas",
        "brats21",
        "brats23",
        "demo-stage1",
        "demo-target",
        "isles26",
        "ms",
        "open-glioma",
        "open-stage1",
        "open-stroke",
        "paper-atlas",
        "paper-brats21",
        "paper-stage1",
    ]


def test_tests_and_source_hold_no_image_and_no_weights():
    suffixes = {".nii", ".gz", ".dcm", ".pt", ".pth", ".ckpt", ".safetensors", ".npy", ".npz"}
    found = [p for folder in (PACKAGE, ROOT / "tests") for p in folder.rglob("*")]
    assert not [path for path in found if path.suffix in suffixes]
