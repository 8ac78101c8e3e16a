"""The adaptive softmax over tied vectors, and the model that reads and writes texts with it."""

import pytest
import torch
from torch.nn import functional as F

from fwrl import CORES, ConfigError, tensors_in
from fwrl.bench.lm.adaptive_softmax import TiedSoftmax
from fwrl.bench.lm.model import LanguageModel, LanguageModelConfig, sample, sinusoids
from fwrl.config import validate

B, T, SIZE, WIDTH = 3, 12, 30, 16
CUTOFFS = {"plain": (), "one": (20,), "three": (5, 12, 25), "beyond": (10, 40)}
every_cutoffs = pytest.mark.parametrize("cutoffs", CUTOFFS.values(), ids=CUTOFFS)
every_core = pytest.mark.parametrize("core", ["fast_weight", "lstm", "window_attention"])


def softmax(cutoffs):
    torch.manual_seed(0)
    words = TiedSoftmax(SIZE, WIDTH, cutoffs).double()
    for parameter in words.parameters():
        torch.nn.init.normal_(parameter)
    return words, torch.randn(200, WIDTH, dtype=torch.double), torch.randint(SIZE, (200,))


@every_cutoffs
def test_probabilities_sum_to_one_and_losses_are_theirs(cutoffs):
    words, x, targets = softmax(cutoffs)
    log_probabilities = words.log_probabilities(x)
    assert log_probabilities.shape == (200, SIZE)
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(200).double())
    expected = F.nll_loss(log_probabilities, targets, reduction="none")
    torch.testing.assert_close(words.losses(x, targets), expected)


@every_cutoffs
def test_gradients_of_losses_are_those_of_all_probabilities(cutoffs):
    words, x, targets = softmax(cutoffs)
    x.requires_grad_()
    leaves = [x, *words.parameters()]
    ours = torch.autograd.grad(words.losses(x, targets).sum(), leaves, materialize_grads=True)
    whole = F.nll_loss(words.log_probabilities(x), targets, reduction="sum")
    expected = torch.autograd.grad(whole, leaves, materialize_grads=True)
    torch.testing.assert_close(ours, expected)
    assert torch.autograd.gradcheck(lambda some: words.losses(some, targets[:3]), x[:3])


@pytest.mark.parametrize("cutoffs", [(20,), (5, 12, 25)])
def test_it_is_the_adaptive_softmax_of_torch(cutoffs):
    words, x, targets = softmax(cutoffs)
    first = cutoffs[0]
    with torch.no_grad():
        # torch's has no biases there
        words.bias[first:] = 0
        theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
            WIDTH, SIZE, list(cutoffs), div_value=1, head_bias=True, dtype=torch.double
        )
        theirs.head.weight.copy_(torch.cat([words.weight[:first], words.cluster_weight]))
        theirs.head.bias.copy_(torch.cat([words.bias[:first], words.cluster_bias]))
        edges = [*cutoffs, SIZE]
        for tail, low, high in zip(theirs.tail, edges, edges[1:], strict=False):
            tail[0].weight.copy_(torch.eye(WIDTH))
            tail[1].weight.copy_(words.weight[low:high])
    torch.testing.assert_close(-words.losses(x, targets), theirs(x, targets).output)
    torch.testing.assert_close(words.log_probabilities(x), theirs.log_prob(x))


def test_without_cutoffs_it_is_the_plain_softmax_with_the_vectors_that_words_are_read_as():
    words, x, targets = softmax(())
    expected = F.cross_entropy(x @ words.weight.T + words.bias, targets, reduction="none")
    torch.testing.assert_close(words.losses(x, targets), expected)
    torch.testing.assert_close(words.embed(targets), words.weight[targets])
    assert words.cluster_weight.numel() == 0


def make(core="fast_weight", **settings):
    torch.manual_seed(0)
    config = LanguageModelConfig(**{"width": WIDTH, "feed_forward": 32, **settings})
    return LanguageModel(SIZE, config, CORES[core]()), torch.randint(SIZE, (B, T))


@every_core
@pytest.mark.parametrize("positions", ["none", "sinusoidal"])
def test_a_text_in_pieces_and_in_steps_is_the_whole(core, positions):
    model, words = make(core, positions=positions)
    starts = torch.rand(B, T) < 0.2
    whole, end = model(words, model.initial_state(B), starts)
    for size in (1, 5):
        state, pieces = model.initial_state(B), []
        for piece, open_here in zip(words.split(size, 1), starts.split(size, 1), strict=True):
            x, state = model(piece, state, open_here)
            pieces.append(x)
        torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(tensors_in(state), tensors_in(end), atol=1e-5, rtol=1e-4)


def test_the_stack_reads_scaled_words_and_positions_that_count_from_each_start(monkeypatch):
    model, words = make(positions="sinusoidal")
    read = []
    unroll = model.stack.unroll
    monkeypatch.setattr(model.stack, "unroll", lambda x, *rest: read.append(x) or unroll(x, *rest))
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[1, 4] = True
    _, state = model(words, model.initial_state(B), starts)
    model(words, state, starts & False)
    time = torch.arange(T).repeat(B, 1).double()
    time[1, 4:] -= 4
    went_on = time[:, -1:] + 1 + torch.arange(T)
    for x, at in zip(read, (time, went_on), strict=True):
        rest = x - model.words.embed(words) * 4
        for feature in range(WIDTH // 2):
            angle = at * 10_000 ** (-2 * feature / WIDTH)
            torch.testing.assert_close(rest[..., feature].double(), angle.sin(), atol=1e-5, rtol=0)
            torch.testing.assert_close(
                rest[..., feature + WIDTH // 2].double(), angle.cos(), atol=1e-5, rtol=0
            )


def test_sinusoids_tell_times_apart():
    x = sinusoids(torch.arange(500.0), 8)
    distance = torch.cdist(x, x) + 9 * torch.eye(500)
    assert distance.min() > 0.02


def test_dropout_is_of_training_and_of_every_place():
    model, words = make(dropout=0.5)
    starts = torch.zeros(B, T, dtype=torch.bool)
    plain, _ = make()
    plain.load_state_dict(model.state_dict())

    def output(m):
        return m(words, m.initial_state(B), starts)[0]

    model.eval()
    torch.testing.assert_close(output(model), output(plain), atol=0, rtol=0)
    model.train()
    x = output(model)
    # half of the output is dropped, the rest scaled
    assert 0.3 < (x == 0).float().mean() < 0.7
    # with the dropout of the model itself off, that of its layers is left
    model.dropout.eval()
    assert not torch.allclose(output(model), output(model))


@every_core
@pytest.mark.parametrize("cutoffs", [(), (5, 12)])
def test_what_is_sampled_step_by_step_is_what_an_unroll_would_say(core, cutoffs):
    model, words = make(core, cutoffs=cutoffs)
    # else each word depends on little but the one before it
    for parameter in model.stack.blocks[0].core.parameters():
        torch.nn.init.normal_(parameter, std=1.5)
    drawn = sample(model, words, 9, 0.0, torch.Generator())
    assert drawn.shape == (B, 9)
    text = torch.cat([words, drawn], dim=1)

    def most_probable(starts):
        with torch.no_grad():
            x, _ = model(text, model.initial_state(B), starts)
            return model.words.log_probabilities(x[:, T - 1 : -1]).argmax(-1)

    starts = torch.zeros_like(text, dtype=torch.bool)
    assert torch.equal(drawn, most_probable(starts))
    assert not torch.equal(drawn, most_probable(~starts))


def test_samples_have_the_probabilities_of_the_model():
    model, words = make()
    torch.nn.init.normal_(model.words.bias)
    prompt = words[:1].expand(4000, -1)
    for temperature in (1.0, 0.5):
        drawn = sample(model, prompt, 1, temperature, torch.Generator().manual_seed(0))
        with torch.no_grad():
            starts = torch.zeros_like(words[:1], dtype=torch.bool)
            x, _ = model(words[:1], model.initial_state(1), starts)
            expected = (model.words.log_probabilities(x[0, -1]) / temperature).softmax(-1)
        shares = torch.bincount(drawn[:, 0], minlength=SIZE) / 4000
        allowed = 5 * (expected * (1 - expected) / 4000).sqrt() + 1e-3
        assert ((shares - expected).abs() < allowed).all()


def test_a_seed_repeats_a_sample_and_the_prompt_matters():
    model, words = make()
    for parameter in model.words.parameters():
        torch.nn.init.normal_(parameter)

    def run(seed, prompt):
        return sample(model, prompt, 20, 1.0, torch.Generator().manual_seed(seed)).tolist()

    assert run(0, words) == run(0, words) != run(1, words)
    assert sample(model, words, 0, 1.0, torch.Generator()).shape == (B, 0)
    assert sample(model, words[:, :1], 2, 0.0, torch.Generator()).shape == (B, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cutoffs": (20, 10)}, r"cutoffs are \(20, 10\); use rising numbers"),
        ({"width": 15, "positions": "sinusoidal"}, "positions need an even width; it is 15"),
        ({"dropout": 1.0}, "dropout is 1.0; it should be less than 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message):
        validate(LanguageModelConfig, values, "model")
