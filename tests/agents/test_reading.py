"""How parts are read: as a picture, a map of symbols or a vector; no number is lost by it."""

import gymnasium
import minigrid  # noqa: F401 registers its environments
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.encoders import EncoderConfig, make_encoder, reading
from agents.picture_encoders import symbol_codes
from fwrl.config import ConfigError


def box(shape, high, dtype, low=0):
    return spaces.Box(low, high, shape, np.dtype(dtype))


READINGS = {
    # pictures of bytes, channels last or first
    "picture 84 x 84, 1 channel, network nature": [
        *(box((84, 84, 1), 255, "uint8"), box((1, 84, 84), 255, "uint8")),
        *(box((84, 84), 255, "uint8"), box((84, 84), 60_000, "uint16"), box((84, 84), 1, "bool")),
        *(box((84, 84), 1, "float32"), box((84, 84, 1), 10, "float64")),
    ],
    "picture 64 x 48, 3 channels, network nature": [
        *(box((64, 48, 3), 255, "uint8"), box((3, 64, 48), 255, "uint8")),
        *(box((64, 48, 3), 1, "float32"), box((3, 64, 48), 1, "float16")),
        *(box((64, 48, 3), 1, "float32", -1), box((64, 48, 3), 255, "int64")),
    ],
    "picture 20 x 20, 12 channels, network impala": [
        *(box((20, 20, 12), 255, "uint8"), box((12, 20, 20), 255, "uint8")),
    ],
    "picture 84 x 84, 128 channels, network nature": [box((84, 84, 128), 255, "uint8")],
    # small ones
    "map of symbols 8 x 8, 12 channels, network grid": [
        *(box((8, 8, 12), 255, "uint8"), box((12, 8, 8), 255, "uint8")),
        *(box((8, 8, 12), 1, "bool"), box((8, 8, 12), 200, "int32")),
    ],
    "map of symbols 7 x 7, 3 channels, network grid": [
        *(box((7, 7, 3), 255, "uint8"), box((3, 7, 7), 10, "uint8")),
    ],
    "map of symbols 9 x 9, 1 channel, network grid": [
        *(box((9, 9), 2, "int8"), box((9, 9), 255, "uint8"), box((1, 9, 9), 255, "uint8")),
    ],
    # neither
    "vector of 400": [
        *(box((20, 20), 1, "float32", -1), box((20, 20), np.inf, "float32")),
        *(box((20, 20), np.inf, "int64"), box((20, 20), np.arange(400).reshape(20, 20), "float32")),
    ],
    "vector of 192": [
        box((8, 8, 3), 1, "float32"), box((8, 8, 3), 60_000, "uint16"), box((192,), 255, "uint8"),
    ],
    "vector of 6": [box((2, 3), 5, "int64"), box((2, 3), 255, "uint8"), spaces.MultiBinary(6)],
    "number": [box((), 1, "float32"), box((1,), 1, "float32")],
    "vector of 0": [box((0, 3, 3), 255, "uint8")],
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*Box")
@pytest.mark.parametrize("expected", READINGS)
def test_shape_type_and_bounds_tell_how_a_part_is_read(expected):
    for space in READINGS[expected]:
        encoder = make_encoder(space, EncoderConfig(image_features=8))
        assert reading(encoder) == expected, space
        if expected != "vector of 0":
            space.seed(0)
            seen = torch.as_tensor(
                np.stack([np.asarray(space.sample()) for _ in range(2)]).astype("f8")
            )
            assert encoder(seen).shape == (2, encoder.output_size)
            assert encoder(seen).isfinite().all()


def test_a_part_is_named_by_its_key():
    space = spaces.Dict(
        picture=box((40, 40, 1), 255, "uint8"),
        inner=spaces.Tuple([box((3,), 1, "float32"), spaces.Discrete(5)]),
        switches=spaces.MultiDiscrete([2, 3]),
    )
    assert reading(make_encoder(space, EncoderConfig())) == (
        "picture: picture 40 x 40, 1 channel, network nature; "
        "inner: 0: vector of 3; 1: one of 5 symbols; switches: 2 symbols"
    )


@pytest.mark.parametrize("shape", [(8, 8, 12), (12, 8, 8), (5, 6, 7), (40, 40, 3)])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_the_axis_of_the_channels_can_be_said(channels, shape):
    config = EncoderConfig(channels=channels, image_features=8)
    picture = make_encoder(box(shape, 3, "uint8"), config).picture
    sides = (picture.channels, picture.height, picture.width)
    assert sides == (shape if channels == "first" else (shape[2], *shape[:2]))


def test_nothing_need_be_a_picture():
    config = EncoderConfig(image="vector")
    for shape in ((84, 84, 3), (7, 7, 3), (84, 84)):
        assert reading(make_encoder(box(shape, 255, "uint8"), config)).startswith("vector")


def test_only_bytes_must_fit_the_network_that_is_said():
    config = EncoderConfig(image="nature")
    assert reading(make_encoder(box((9, 9), 3, "int64"), config)) == "vector of 81"
    with pytest.raises(ConfigError, match="needs 36 pixels"):
        make_encoder(box((9, 9, 3), 3, "uint8"), config)


@pytest.mark.parametrize(
    ("space", "number", "share"),
    [
        (box((40, 40), 60_000, "uint16"), 15_000, 0.25),
        (box((40, 40, 3), 1, "float32"), 0.25, 0.25),
        (box((40, 40, 3), 1, "float32", -1), -0.5, 0.25),
        (box((40, 40, 3), 255, "uint8"), 51, 0.2),
        (box((40, 40, 3), 10, "uint8"), 5, 0.5),
        (box((3, 40, 40), 1, "bool"), 1, 1.0),
    ],
)
def test_a_picture_becomes_shares_of_its_own_range(space, number, share):
    encoder, seen = make_encoder(space, EncoderConfig(image_features=8)), []
    encoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(torch.as_tensor(np.full((1, *space.shape), number, space.dtype).astype("f8")))
    torch.testing.assert_close(seen[0], torch.full_like(seen[0], share))


@pytest.mark.parametrize("largest", [0, 3, 15, 16, 17, 20, 40, 255])
def test_no_two_symbols_of_a_map_have_one_code(largest):
    codes = symbol_codes(largest, graded=True)
    assert codes.shape == (largest + 1, min(largest + 1, 16))
    distances = torch.cdist(codes, codes) + torch.eye(largest + 1)
    assert (distances > 0.01).all()
    first = codes[:16]
    assert torch.equal(first, torch.eye(len(first)))
    # as it once was
    assert torch.equal(
        symbol_codes(largest, graded=False)[16:], first[-1:].expand(max(largest - 15, 0), -1)
    )


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 8, 12), (10, 10), (7, 7, 3)])
def test_small_pictures_of_any_brightness_are_told_apart(shape):
    torch.manual_seed(0)
    encoder = make_encoder(box(shape, 255, "uint8"), EncoderConfig(image_features=32))
    pictures = torch.arange(256, dtype=torch.uint8).view(256, *[1] * len(shape)).expand(256, *shape)
    with torch.no_grad():
        features = encoder(pictures)
    assert (torch.cdist(features, features) + torch.eye(256) > 1e-4).all()


def test_minigrid_is_read_as_it_was():
    env = gymnasium.make("MiniGrid-MemoryS7-v0")
    space = env.observation_space["image"]
    env.reset(seed=0)
    views = [env.step(i % 3)[0]["image"] for i in range(20)]
    torch.manual_seed(0)
    now = make_encoder(space, EncoderConfig(image_features=16))
    torch.manual_seed(0)
    before = make_encoder(space, EncoderConfig(image_features=16, channels="before"))
    seen = torch.as_tensor(np.stack(views))
    assert torch.equal(now(seen), before(seen))
    # as it was written then
    one_hot = torch.nn.functional.one_hot(seen.long().clamp(max=15), 16)
    planes = one_hot.flatten(-2).movedim(-1, 1).float()
    assert torch.equal(now(seen), now.network(planes))
    env.close()
