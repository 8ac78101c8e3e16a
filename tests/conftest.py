import os

import jaxtyping
import pytest
import torch
from hypothesis import settings

# the same examples at every run, so that red means that a change is wrong; thorough looks further
settings.register_profile("dev", max_examples=20, deadline=None, database=None, derandomize=True)
settings.register_profile("thorough", max_examples=200, deadline=None, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

if not torch.cuda.is_available():
    # Triton reads it when it is imported, whoever does that first
    os.environ["TRITON_INTERPRET"] = "1"

# Folders of tests that run whole commands: test_cli.py does so with checks, once for each.
WHOLE = {"run", "cli", "files"}

# several threads make tiny problems slower, and their sums differ from run to run
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    for item in items:
        if "cuda" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.gpu)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Checks the shapes in every call, except in tests that repeat code that others check."""
    repeats = {"learns", "unchecked"} & {marker.name for marker in item.iter_markers()}
    whole = item.path.parent.name in WHOLE and item.path.name != "test_cli.py"
    jaxtyping.config.update("jaxtyping_disable", bool(repeats) or whole)
    try:
        return (yield)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return torch.device("cuda")


@pytest.fixture(params=range(3))
def variant(request):
    """Runs a test once for each set of instructions that this machine has."""
    # not before jaxtyping watches what is imported
    from fwrl.kernels.native.library import library  # noqa: PLC0415

    functions = library().functions
    if request.param >= functions.fwrl_count() or not functions.fwrl_supports(request.param):
        pytest.skip("this machine does not have these instructions")
    functions.fwrl_choose(request.param)
    yield
    functions.fwrl_choose(-1)


@pytest.fixture
def calls(monkeypatch):
    """The functions of the library in C that a test has called."""
    # not before jaxtyping watches what is imported
    from fwrl.kernels.native import library  # noqa: PLC0415

    called, run = [], library.run

    def remember(function, call):
        called.append(function)
        run(function, call)

    monkeypatch.setattr(library, "run", remember)
    return called
