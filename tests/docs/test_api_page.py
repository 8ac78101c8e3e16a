"""The page on the Python API: its signatures are those of the code, and its programs run."""

import inspect
import re
import runpy

import pytest
import torch
from markdown_pages import ROOT, find_object

PAGE = (ROOT / "docs/api.md").read_text()
SIGNATURES = re.findall(r"`((?:fwrl|agents|envs)\.[\w.]+)\(([^)`]*(?:\(\))?[^)`]*)\)`", PAGE)
NAMES = re.findall(r"`((?:fwrl|agents|envs)\.[\w.]+)[`(]", PAGE)


def test_names_are_found():
    assert len(SIGNATURES) > 30
    assert len(set(NAMES)) > 40


@pytest.mark.parametrize("name", sorted(set(NAMES)))
def test_every_name_exists(name):
    assert find_object(name) is not None


@pytest.mark.parametrize(("name", "written"), SIGNATURES, ids=[name for name, _ in SIGNATURES])
def test_signatures_are_those_of_the_code(name, written):
    parameters = [
        str(each.replace(annotation=each.empty))
        for each in inspect.signature(find_object(name)).parameters.values()
        if each.name != "self"
    ]
    assert written == ", ".join(parameters)


def test_the_short_examples_run_one_after_another():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    names = {}
    for block in blocks:
        exec(compile(block, "docs/api.md", "exec"), names)
    assert names["y"].shape == (16, 100, 64)
    assert names["state_size"](names["memory"]) == 4096
    assert names["read"].shape == (8, 10, 4, 32)
    assert names["step"].reward.shape == (4,)
    assert names["metrics"]["train/n_updates"] > 0


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The variables of the complete program after three rollouts, each of which is read once."""
    text = re.search(r'^```python title="fast_weight_ppo.py"\n(.*?)^```$', PAGE, re.M | re.S)[1]
    assert text.count("\n") < 60
    shorter = {"GAE_LAMBDA = 100": "GAE_LAMBDA = 3", "range(4)": "range(1)", "chunk(4)": "chunk(1)"}
    for long, short in shorter.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    path = tmp_path_factory.mktemp("program") / "fast_weight_ppo.py"
    path.write_text(text)
    torch.manual_seed(0)
    return runpy.run_path(str(path))


def test_the_complete_program_replays_what_it_acted_on(program):
    assert program["opens"][:, 1:].any()
    assert program["start_state"][0].weights.abs().max() > 0.1
    ratio = program["ratio"].detach()
    # before the first step of the optimiser nothing has changed
    torch.testing.assert_close(ratio, torch.ones(8, 128), rtol=0, atol=1e-4)


def test_the_complete_program_learns_through_its_memory(program):
    gradients = [each.grad for each in program["memory"].blocks[0].core.parameters()]
    assert gradients
    assert all(each.abs().max() > 0 for each in gradients)
