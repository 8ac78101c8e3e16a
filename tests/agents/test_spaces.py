import json

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from agents.spaces import one_line, read_back, space_from_json, space_to_json, split_mask

INTEGERS = (np.uint8, np.int8, np.int32, np.int64)
sizes = st.integers(1, 4)


@st.composite
def boxes(draw):
    shape = tuple(draw(st.lists(sizes, max_size=3)))
    dtype = draw(st.sampled_from([np.float32, np.float64, *INTEGERS]))
    count = int(np.prod(shape))
    if np.issubdtype(dtype, np.integer):
        numbers = st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max)
    else:
        width = 8 * np.dtype(dtype).itemsize
        numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    if draw(st.booleans()):
        count = 1
    pairs = [sorted(draw(st.tuples(numbers, numbers))) for _ in range(count)]
    low, high = np.array(pairs, dtype).T
    if np.issubdtype(dtype, np.floating):
        low[draw(st.lists(st.integers(0, count - 1), max_size=2))] = -np.inf
        high[draw(st.lists(st.integers(0, count - 1), max_size=2))] = np.inf
    low, high = (
        np.broadcast_to(bound if count > 1 else bound[0], shape)
        if count == 1
        else bound.reshape(shape)
        for bound in (low, high)
    )
    return spaces.Box(low, high, shape, dtype)


@st.composite
def multi_discretes(draw):
    shape = draw(st.sampled_from([(1,), (3,), (2, 2)]))
    count = int(np.prod(shape))
    nvec = np.array(draw(st.lists(sizes, min_size=count, max_size=count))).reshape(shape)
    start = np.array(draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))).reshape(
        shape
    )
    return spaces.MultiDiscrete(
        nvec, start=start, dtype=draw(st.sampled_from([np.int64, np.int32]))
    )


leaves = st.one_of(
    boxes(),
    multi_discretes(),
    st.builds(spaces.Discrete, sizes, start=st.integers(-5, 5)),
    st.builds(spaces.MultiBinary, st.one_of(sizes, st.tuples(sizes, sizes))),
)
any_space = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, max_size=3).map(spaces.Tuple),
        st.dictionaries(st.text(max_size=3), parts, max_size=3).map(
            lambda d: spaces.Dict(list(d.items()))
        ),
    ),
    max_leaves=4,
)


def exactly_equal(one, two):
    """Gymnasium compares bounds with a tolerance, and keys without their order."""
    if isinstance(one, spaces.Box):
        same = np.array_equal(one.low, two.low) and np.array_equal(one.high, two.high)
        return same and one.dtype == two.dtype
    if isinstance(one, spaces.Dict):
        same = list(one.spaces) == list(two.spaces)
        return same and all(exactly_equal(part, two[name]) for name, part in one.items())
    if isinstance(one, spaces.Tuple):
        return all(map(exactly_equal, one.spaces, two.spaces))
    return one == two


@pytest.mark.filterwarnings("ignore:.*Box")
@given(any_space)
def test_json_and_back(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    back = space_from_json(json.loads(text))
    assert back == space
    assert exactly_equal(space, back)


def test_an_image_takes_a_line():
    description = space_to_json(spaces.Box(0, 255, (4, 84, 84), np.uint8))
    assert description == {
        "type": "Box",
        "low": 0,
        "high": 255,
        "shape": [4, 84, 84],
        "dtype": "uint8",
    }


def test_infinity_is_written_as_text():
    assert space_to_json(spaces.Box(-np.inf, np.inf, (2,)))["low"] == "-inf"


def test_other_spaces_cannot_be_described():
    with pytest.raises(ValueError, match=r"Text.*cannot be described"):
        space_to_json(spaces.Dict(a=spaces.Text(3)))


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"type": "Text"},
        {"type": "Discrete"},
        {"type": "Discrete", "n": 0, "start": 0},
        {"type": "Discrete", "n": "many", "start": 0},
        {"type": "MultiDiscrete", "nvec": [0]},
        {"type": "Box", "low": 0, "high": 1, "shape": [2], "dtype": "pear"},
        {"type": "Box", "low": 0, "high": 1, "shape": 2, "dtype": "float32"},
        {"type": "Box", "low": [0, 1], "high": 1, "shape": [3], "dtype": "float32"},
        {"type": "Box", "low": "x", "high": 1, "shape": [3], "dtype": "float32"},
        {"type": "Box", "low": 0, "high": 300, "shape": [3], "dtype": "uint8"},
        {"type": "Dict", "spaces": []},
        {"type": "Tuple", "spaces": [3]},
        [],
        None,
    ],
)
def test_what_describes_no_space_is_a_value_error(description):
    with pytest.raises(ValueError) as error:  # noqa: PT011 NumPy's and Gymnasium's own are welcome
        space_from_json(description)
    assert "\n" not in str(error.value)


def test_masks_are_split_off():
    mask, box = spaces.MultiBinary(2), spaces.Box(0, 1, (3,))
    rest, found = split_mask(spaces.Dict([("z", box), ("action_mask", mask), ("a", box)]))
    assert found is mask
    assert list(rest.spaces) == ["z", "a"]
    assert split_mask(box) == (box, None)
    assert split_mask(spaces.Dict(z=box)) == (spaces.Dict(z=box), None)


def test_all_processes_take_the_keys_in_the_order_of_the_first(monkeypatch):
    parts = [("b", spaces.Discrete(2)), ("a", spaces.MultiBinary(3))]
    theirs, own = spaces.Dict(parts), spaces.Dict(list(reversed(parts)))
    sent = json.dumps(space_to_json(theirs)).encode()
    monkeypatch.setattr("agents.spaces.from_first", lambda make: sent)
    assert list(read_back(own).spaces) == ["b", "a"]
    with pytest.raises(ValueError, match="it cannot be described: the part 'c' is missing"):
        read_back(spaces.Dict({**own.spaces, "c": spaces.Discrete(2)}))


def test_one_line():
    space = spaces.Box(np.arange(60.0), np.arange(60.0) + 1, dtype=np.float64)
    assert "\n" in str(space)
    assert "\n" not in one_line(space)
