"""Nothing that we ship can run what it reads: no such call stands in our source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The hook runs where the package is built, with what stands beside it.
SHIPPED = [
    path
    for folder in ("fwrl", "agents", "envs")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "hook.py"
] + [ROOT / "train.py"]
OTHERS = [
    path for folder in ("docs", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]

# Modules and names that run what they are given, wherever they stand.
MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "code",
    "codeop", "runpy",
}  # fmt: skip
NAMES = {"eval", "exec", "compile", "unsafe_load", "full_load", "unsafe_load_all", "__import__"}
CALLS = {
    "yaml.load", "yaml.load_all", "yaml.full_load", "torch.load", "torch.jit.load", "jit.load",
    "torch.export.load", "export.load", "torch.hub.load", "torch.package.PackageImporter",
    "os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.spawnv", "np.loads",
    "numpy.loads", "np.load", "numpy.load", "PPO.load", "zipfile.extractall", "tarfile.open",
    "shutil.unpack_archive", "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip
LOADERS = {"FullLoader", "UnsafeLoader", "Loader", "CLoader"}
# In memory, from one of our processes to another, never from a file.
ALLOWED = {
    ("envs/workers/process.py", "CloudpickleWrapper"),
    ("envs/workers/in_workers.py", "CloudpickleWrapper"),
}
# Where a name that may be imported comes from: our own tables, or the user's command line.
IMPORTERS = {
    "fwrl/__init__.py", "fwrl/bench/__init__.py", "fwrl/cores/__init__.py", "fwrl/run/modules.py",
    "envs/gymnasium_env.py",
}  # fmt: skip


def dotted(node):
    """``a.b.c`` of such an expression, else nothing."""
    if isinstance(node, ast.Attribute):
        inner = dotted(node.value)
        return f"{inner}.{node.attr}" if inner else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_true(call, name):
    return any(
        k.arg == name and not (isinstance(k.value, ast.Constant) and not k.value.value)
        for k in call.keywords
    )


def offences(text, path="x.py"):
    """The names in a source text that could run foreign code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=aliases):
                found += [a.name for a in aliases if a.name.partition(".")[0] in MODULES]
            case ast.ImportFrom(module=module, names=aliases):
                found += [module] if (module or "").partition(".")[0] in MODULES else []
                full = [f"{module}.{alias.name}" for alias in aliases]
                found += [name for name in full if name in CALLS]
                found += [
                    a.name for a in aliases
                    if "pickle" in a.name.lower() and (path, a.name) not in ALLOWED
                ]  # fmt: skip
            case ast.Call():
                name = dotted(node.func)
                found += [name] if name in CALLS else []
                found += [f"{name} in a shell"] if is_true(node, "shell") else []
                found += ["allow_pickle"] if is_true(node, "allow_pickle") else []
                found += ["bind_all"] if is_true(node, "bind_all") else []
                named = node.args and isinstance(node.args[0], ast.Constant)
                if name.split(".")[-1] == "import_module" and not named and path not in IMPORTERS:
                    found.append(name)
            case ast.Name(id=name) if name in NAMES | MODULES - {"code"}:
                found.append(name)
            case ast.Attribute(attr=name) if name in LOADERS | NAMES - {"compile", "eval"}:
                found.append(dotted(node))
            case _:
                pass
    return found


@pytest.mark.parametrize("path", [*SHIPPED, *OTHERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_can_run_what_it_reads(path):
    assert offences(path.read_text(), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import joblib as j",
        "from cloudpickle import loads",
        "from gymnasium.vector.utils import CloudpickleWrapper",
        "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=True)",
        "from torch import load\nfrom torch.jit import load",
        "torch.jit.load(p)",
        "torch.export.load(p)",
        "yaml.load(t, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(t)",
        "class L(yaml.UnsafeLoader): pass",
        "np.load(p, allow_pickle=True)",
        "f(allow_pickle=flag)",
        "eval('1')",
        "exec(t)",
        "os.system('x')",
        "subprocess.run('x', shell=True)",
        "importlib.import_module(config.kind)",
        "__import__('x')",
        "marshal.loads(x)",
        "PPO.load('x.zip')",
    ],
)
def test_the_search_finds_what_it_should(text):
    assert offences(text)


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "re.compile('x')",
        "torch.compile(f)",
        "yaml.safe_load(t)",
        "json.loads(t)",
        "subprocess.run(['x'], shell=False)",
    ],
)
def test_the_search_leaves_others_alone(text):
    assert not offences(text)


def test_hints_bind_tensorboard_to_this_machine():
    texts = [*SHIPPED, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "Makefile"]
    for path in texts:
        for line in path.read_text().splitlines():
            if "tensorboard" in line:
                assert "bind_all" not in line, path
                assert "--host" not in line or "localhost" in line or "127.0.0.1" in line, path
    assert any("tensorboard --logdir" in path.read_text() for path in texts)
