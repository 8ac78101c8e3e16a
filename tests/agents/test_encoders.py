import gymnasium
import minigrid  # noqa: F401 registers its environments
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from agents.encoders import (
    EncoderConfig,
    make_encoder,
    reading,
    sines,
    update_moments,
)
from agents.picture_encoders import Grid, Image, SpaceToDepthConv, space_to_depth
from agents.policy import PolicyConfig, RecurrentPolicy
from agents.rollout import to_tensors
from fwrl.config import ConfigError
from fwrl.state import map_tensors

CPU = torch.device("cpu")
SPACES = {
    "discrete": spaces.Discrete(4),
    "discrete from 2": spaces.Discrete(3, start=2),
    "multidiscrete": spaces.MultiDiscrete([3, 2, 5]),
    "multidiscrete from -1": spaces.MultiDiscrete([3, 2], start=[-1, 4]),
    "multidiscrete square": spaces.MultiDiscrete([[3, 2], [4, 1]]),
    "large alphabets": spaces.MultiDiscrete([[3, 5000], [10**6, 1]], start=[[1, -4], [0, 9]]),
    "multibinary": spaces.MultiBinary(3),
    "multibinary square": spaces.MultiBinary((2, 3)),
    "number": spaces.Box(-1, 1, ()),
    "vector": spaces.Box(-1, 1, (3,)),
    "integers": spaces.Box(-5, 5, (3,), np.int32),
    "doubles": spaces.Box(-1, 1, (2,), np.float64),
    "matrix": spaces.Box(-1, 1, (2, 3)),
    "bytes": spaces.Box(0, 255, (8,), np.uint8),
    "small map": spaces.Box(0, 10, (5, 5, 3), np.uint8),
    "thumbnail": spaces.Box(0, 255, (3, 20, 24), np.uint8),
    "frames": spaces.Box(0, 255, (4, 84, 84), np.uint8),
    "one frame": spaces.Box(0, 255, (84, 84, 1), np.uint8),
}
SPACES["dictionary"] = spaces.Dict(b=SPACES["vector"], a=SPACES["discrete from 2"])
SPACES["tuple"] = spaces.Tuple([SPACES["multibinary square"], SPACES["number"]])
SPACES["nested"] = spaces.Dict(
    x=spaces.Tuple([SPACES["small map"], spaces.Dict(y=SPACES["multidiscrete"])]),
    z=SPACES["dictionary"],
)


def samples(space, count, seed=0):
    """As the environments give them: arrays over ``count``."""
    batch = batch_space(space, count)
    batch.seed(seed)
    return to_tensors(batch.sample(), CPU)


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_space_with_any_leading_axes(space):
    torch.manual_seed(0)
    encoder = make_encoder(space, EncoderConfig(image_features=16))
    observation = samples(space, 6)
    with torch.no_grad():
        features = encoder(observation)
        assert features.shape == (6, encoder.output_size)
        assert features.dtype == torch.float32
        assert features.isfinite().all()
        assert (features[0] != features[1:]).any()
        over_time = encoder(map_tensors(lambda leaf: leaf.unflatten(0, (2, 3)), observation))
    torch.testing.assert_close(over_time.flatten(0, 1), features, atol=1e-5, rtol=1e-5)


def test_symbols_are_one_hot_each_in_its_own_alphabet():
    space = spaces.MultiDiscrete([3, 2], start=[-1, 4])
    features = make_encoder(space, EncoderConfig())(torch.tensor([[-1, 5], [1, 4]]))
    assert features.tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 1, 0]]
    features = make_encoder(spaces.Discrete(3, start=2), EncoderConfig())(torch.tensor([2, 4]))
    assert features.tolist() == [[1, 0, 0], [0, 0, 1]]


def test_vectors_pass_as_they_are():
    features = make_encoder(SPACES["matrix"], EncoderConfig())(torch.arange(12.0).view(2, 2, 3))
    assert torch.equal(features, torch.arange(12.0).view(2, 6))


def test_parts_of_a_dictionary_stand_in_its_order():
    space = spaces.Dict([("b", spaces.Box(-9, 9, (1,))), ("a", spaces.Box(-9, 9, (2,)))])
    observation = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[3.0]])}
    assert make_encoder(space, EncoderConfig())(observation).tolist() == [[3, 1, 2]]


def test_the_network_follows_the_size_of_the_image():
    def kind(shape, image="auto"):
        encoder = make_encoder(spaces.Box(0, 255, shape, np.uint8), EncoderConfig(image=image))
        if isinstance(encoder, Grid):
            return "grid"
        assert isinstance(encoder, Image)
        return (
            "impala"
            if any(isinstance(m, torch.nn.MaxPool2d) for m in encoder.modules())
            else "nature"
        )

    assert kind((4, 84, 84)) == kind((36, 40, 3)) == "nature"
    # a small picture has more than the few symbols that a map of symbols tells apart
    assert kind((32, 32, 3)) == kind((3, 16, 16)) == "impala"
    assert kind((7, 7, 3)) == kind((15, 20, 3)) == "grid"
    assert kind((64, 64, 3), "impala") == "impala"
    assert kind((64, 64, 3), "grid") == "grid"


@pytest.mark.parametrize("shape", [(84, 84, 4), (20, 24, 3), (7, 7, 3), (3, 3, 3)])
def test_channels_may_come_first_or_last(shape):
    torch.manual_seed(0)
    config = EncoderConfig(image_features=16)
    last = make_encoder(spaces.Box(0, 255, shape, np.uint8), config)
    pixels = torch.randint(0, 11, (2, *shape), dtype=torch.uint8)
    if shape == (3, 3, 3):
        # as in MiniGrid, where nothing else says so
        assert last.picture.channel_axis == -1
        return
    first = make_encoder(spaces.Box(0, 255, (shape[2], *shape[:2]), np.uint8), config)
    first.load_state_dict(last.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(last(pixels), first(pixels.movedim(-1, 1).contiguous()))


def test_pixels_stay_bytes_until_the_encoder_and_are_shares_of_one_in_it():
    space = SPACES["frames"]
    pixels = to_tensors(np.full((1, *space.shape), 255, np.uint8), CPU)
    assert pixels.dtype == torch.uint8
    encoder, seen = make_encoder(space, EncoderConfig(image_features=8)), []
    encoder.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(pixels)
    assert seen[0].dtype == torch.float32
    assert (seen[0] == 1.0).all()


def test_minigrid_views_are_read_as_maps_of_symbols():
    env = gymnasium.make("MiniGrid-MemoryS7-v0")
    view, _ = env.reset(seed=0)
    encoder = make_encoder(env.observation_space["image"], EncoderConfig(image_features=32))
    assert isinstance(encoder, Grid)
    pixels = torch.as_tensor(view["image"]).unsqueeze(0)
    # every object that MiniGrid knows is told from every other
    worlds = pixels.repeat(11, 1, 1, 1)
    worlds[:, 3, 3, 0] = torch.arange(11)
    with torch.no_grad():
        distances = torch.cdist(encoder(worlds), encoder(worlds))
    assert (distances + torch.eye(11) > 1e-5).all()
    env.close()


def test_images_too_small_for_the_network_are_refused():
    with pytest.raises(
        ConfigError, match="'nature', which needs 36 pixels a side; for 20 use 'impala' or 'grid'"
    ):
        make_encoder(SPACES["thumbnail"], EncoderConfig(image="nature"))
    with pytest.raises(
        ConfigError, match="'impala', which needs 16 pixels a side; for 5 use 'grid'"
    ):
        make_encoder(SPACES["small map"], EncoderConfig(image="impala"))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Box(np.arange(40.0), np.arange(40.0) + 1, dtype=np.float64), None),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Text(5)),
        spaces.Dict(),
        spaces.Tuple([]),
    ],
    ids=["text", "sequence", "graph", "text inside", "nothing", "nothing inside"],
)
def test_unknown_spaces_are_refused_in_one_line(space):
    with pytest.raises(ConfigError, match="no encoder takes the observation space") as error:
        make_encoder(space, EncoderConfig())
    assert "\n" not in str(error.value)


def test_only_vectors_are_normalised_wherever_they_are():
    encoder = make_encoder(
        SPACES["nested"], EncoderConfig(normalise_observations=True, image_features=8)
    )
    update_moments(encoder, samples(SPACES["nested"], 50))
    counted = {name: leaf for name, leaf in encoder.state_dict().items() if name.endswith("count")}
    # the one vector, z.b
    assert [leaf.item() for leaf in counted.values()] == [50]
    vectors = make_encoder(SPACES["vector"], EncoderConfig(normalise_observations=True))
    observation = samples(SPACES["vector"], 200)
    update_moments(vectors, observation)
    torch.testing.assert_close(vectors(observation).std(0), torch.ones(3), atol=0.01, rtol=0)


def test_sines_begin_at_zero_and_turn_ever_more_slowly():
    elapsed = torch.tensor([[0, 1, 10]])
    found = sines(elapsed, 4)
    assert found.shape == (1, 3, 8)
    assert found[0, 0].tolist() == [0.0] * 4 + [1.0] * 4
    frequencies = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(found[0, 2, :4], (10 * frequencies).sin())
    torch.testing.assert_close(found[0, 1, 4:], frequencies.cos())


def test_an_action_mask_is_not_encoded():
    box = spaces.Box(-1, 1, (2,))
    space = spaces.Dict(action_mask=spaces.MultiBinary(3), x=box)
    masked = RecurrentPolicy(space, spaces.Discrete(3), PolicyConfig())
    plain = RecurrentPolicy(spaces.Dict(x=box), spaces.Discrete(3), PolicyConfig())
    assert masked.encoder.output_size == plain.encoder.output_size == 2
    # only the outermost dictionary belongs to the agent's contract
    nested = spaces.Dict(inner=space)
    assert RecurrentPolicy(nested, spaces.Discrete(3), PolicyConfig()).encoder.output_size == 5


@pytest.mark.parametrize("size", [1025, 10**6, 2**24])
def test_a_large_alphabet_is_embedded_in_small_tables(size):
    torch.manual_seed(0)
    encoder = make_encoder(spaces.Discrete(size, start=-3), EncoderConfig())
    assert reading(encoder) == f"one of {size:,} symbols, embedded"
    parameters = sum(leaf.numel() for leaf in encoder.parameters())
    assert parameters <= 2 * 32 * (size**0.5 + 1)
    # neighbours, and symbols with the same quotient or remainder
    chosen = torch.cat([torch.arange(700), torch.arange(700) * encoder.rows]) % size
    chosen = torch.cat([chosen, torch.tensor([size - 1])]).unique() - 3
    features = encoder(chosen)
    assert features.shape == (len(chosen), 32)
    assert (torch.cdist(features, features) + torch.eye(len(chosen)) > 0.01).all()


def test_only_the_large_factors_are_embedded():
    encoder = make_encoder(spaces.MultiDiscrete([3, 5000, 2, 10**6]), EncoderConfig())
    features = encoder(torch.tensor([[[2, 4999, 1, 0], [2, 4999, 0, 999_999]]]))
    assert features.shape == (1, 2, 2 * 32 + 5)
    assert features[0, :, -5:].tolist() == [[0, 0, 1, 0, 1], [0, 0, 1, 1, 0]]
    assert torch.equal(features[0, 0, :32], features[0, 1, :32])
    assert not torch.equal(features[0, 0, 32:64], features[0, 1, 32:64])
    features.sum().backward()
    assert all(leaf.grad.abs().sum() > 0 for leaf in encoder.parameters())


def test_the_largest_one_hot_alphabet_can_be_said():
    for space in (spaces.Discrete(1024), spaces.MultiDiscrete([1024, 1000])):
        assert "embedded" not in reading(make_encoder(space, EncoderConfig()))
        assert "embedded" in reading(make_encoder(space, EncoderConfig(one_hot_up_to=1023)))
    config = EncoderConfig(one_hot_up_to=2**24)
    assert make_encoder(spaces.Discrete(5000), config).output_size == 5000


@pytest.mark.parametrize("shape", [(40, 44), (1, 40, 44), (3, 40, 44), (40, 44, 3), (40, 44, 1)])
def test_convolutions_read_the_channels_of_a_pixel_side_by_side(shape):
    space = spaces.Box(0, 255, shape, np.uint8)
    encoder, seen = make_encoder(space, EncoderConfig(image_features=8)), []
    encoder.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pixels = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    encoder(pixels)
    (read,) = seen
    assert read.stride(1) == 1
    whole = pixels.flatten(0, 1)
    if len(shape) == 2:
        whole = whole.unsqueeze(1)
    elif shape[-1] < 4:
        whole = whole.movedim(-1, 1)
    torch.testing.assert_close(read, space_to_depth(whole / 255, 4))


def test_the_small_network_has_half_the_channels_of_nature():
    space = spaces.Box(0, 255, (84, 84), np.uint8)
    sizes = {}
    for name in ("nature", "small"):
        body = make_encoder(space, EncoderConfig(image=name)).network[0]
        sizes[name] = [(part.out_channels, part.kernel_size, part.stride) for part in body[::2]]
    assert [(channels // 2, *rest) for channels, *rest in sizes["nature"]] == sizes["small"]


@pytest.mark.parametrize("shape", [(1, 84, 84), (3, 210, 160), (2, 85, 87), (4, 99, 86)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_blocks_of_pixels_as_channels_change_no_convolution(shape, dtype):
    channels = shape[0]
    layer = SpaceToDepthConv(channels, 5, 8, stride=4).double()
    pixels = torch.randint(0, 256, (2, *shape[1:], channels)).to(dtype).movedim(-1, 1)
    blocks = space_to_depth(pixels, 4)
    assert torch.equal(
        torch.pixel_unshuffle(pixels[:, :1, :84, :84], 4), blocks_of_first(blocks, channels)
    )
    found = layer(blocks.double())
    expected = torch.nn.functional.conv2d(pixels.double(), layer.weight, layer.bias, stride=4)
    gradients = [torch.autograd.grad(y.sin().sum(), layer.weight)[0] for y in (found, expected)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*gradients)


def blocks_of_first(blocks, channels):
    """The upper left of the first channel, in the order of pixel_unshuffle."""
    return blocks[:, ::channels, :21, :21]


def test_bytes_become_the_same_shares_in_both_precisions():
    encoder = make_encoder(spaces.Box(0, 255, (84, 84, 1), np.uint8), EncoderConfig(image="small"))
    pixels = torch.arange(256).repeat(28)[: 84 * 84].to(torch.uint8).reshape(1, 84, 84, 1)
    seen = []
    encoder.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        encoder(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            encoder(pixels)
    assert torch.equal(seen[0].bfloat16(), seen[1])
