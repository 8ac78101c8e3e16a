"""Whatever space can be trained in, every command reads; all others are refused at once."""

import re

import numpy as np
import pytest
from command_line import run_command
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sampling_env import sampling_from, write_config

from agents.saving import load_policy
from agents.spaces import difference

# many small trainings; test_cli.py checks the shapes in one
pytestmark = pytest.mark.unchecked

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
]

# those that are tried in every shape without waiting for the slow tests
QUICK = "uint8", "float64"


def bounds(dtype):
    dtype = np.dtype(dtype)
    if dtype.kind in "bf":
        return 0, 1
    return max(0, np.iinfo(dtype).min), min(60_000, np.iinfo(dtype).max)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        pytest.param(dtype, shape, marks=() if shape == () or dtype in QUICK else pytest.mark.slow)
        for dtype in DTYPES
        for shape in ((), (4, 5), (20, 20, 3))
    ],
)
def test_every_command_reads_what_was_trained(dtype, shape, tmp_path, capsys):
    box = spaces.Box(*bounds(dtype), shape, np.dtype(dtype))
    config, run = write_config(tmp_path), tmp_path / "run"
    with sampling_from(spaces.Dict(box=box, symbol=spaces.Discrete(3))):
        assert run_command("train", config, "--run-dir", run) == 0
        assert run_command("train", config, "total_steps=32", "--run-dir", run) == 0
        assert "continues at 16 steps, bit for bit" in " ".join(capsys.readouterr().out.split())
        assert run_command("evaluate", run, "--episodes", 1) == 0
        assert run_command("inspect", run) == 0
        assert run_command("export", run, tmp_path / "policy.safetensors") == 0
        assert run_command("evaluate", tmp_path / "policy.safetensors", "--episodes", 1) == 0


@st.composite
def boxes(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.sampled_from([(), (0,), (1,), (3,), (2, 3), (0, 2), (1,) * 5, (1,) * 20]))
    low, high = (np.full(shape, bound, dtype) for bound in bounds(dtype))
    if dtype.kind == "f" and draw(st.booleans()):
        low, high = low - np.inf, high + np.inf
    elif high.size and draw(st.booleans()):
        high.flat[0] = low.flat[0]
    return spaces.Box(low, high, shape, dtype)


counts = st.sampled_from([1, 2, 7, 2000, 2**24, 2**24 + 1, 10**12])
parts = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, counts, start=st.sampled_from([0, -3, 10**6])),
    st.lists(counts, min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.sampled_from([spaces.MultiBinary(3), spaces.MultiBinary((2, 2)), spaces.Text(3)]),
)
keys = st.sampled_from(["a", "b.c", "", "ü", "action_mask", "\ud800", 5])
any_space = st.recursive(
    parts,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(spaces.Tuple),
        st.dictionaries(keys, inner, max_size=3).map(lambda each: spaces.Dict(list(each.items()))),
    ),
    max_leaves=3,
)


@given(seen=any_space)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_space_is_refused_at_once_or_read_back_equal(seen, tmp_path_factory, capsys):
    folder = tmp_path_factory.mktemp("any")
    config, run = write_config(folder), folder / "run"
    capsys.readouterr()
    with sampling_from(seen):
        code = run_command("train", config, "--run-dir", run)
        error = capsys.readouterr().err
        if code:
            assert code == 2
            assert re.fullmatch(r"fwrl: .*\n", error), error
            assert not run.exists()
            return
        assert difference(load_policy(run).observation_space, seen) is None
        assert run_command("evaluate", run, "--episodes", 1) == 0


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Discrete(10**12), "1,000,000,000,000 choices; it should have at most 16,777,216"),
        (spaces.Box(0, 255, (4000, 4000, 3), np.uint8), "48,000,000 bytes; it should have at most"),
        (spaces.Dict({5: spaces.Discrete(2)}), "the part 5 is missing"),
        (spaces.Box(np.arange(3e5), np.inf, (300_000,), np.float64), "300,000 unequal bounds"),
        (spaces.Tuple([spaces.Discrete(2)] * 300), "300 parts; it should have at most 256"),
        (spaces.Dict({(1, 2): spaces.Discrete(2)}), "keys must be str"),
        (spaces.Box(0, 1, (3,), np.longdouble), "cannot be of type"),
    ],
)
def test_what_no_reader_takes_is_not_trained(space, message, tmp_path, capsys):
    with sampling_from(space):
        assert run_command("train", write_config(tmp_path), "--run-dir", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
