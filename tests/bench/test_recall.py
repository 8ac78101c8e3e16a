"""Associative recall: what its sequences mean, and the model and the loop that learn them."""

import re

import pytest
import torch
from supervised_training import train_supervised

from fwrl import CORES, ConfigError, StackConfig, tensors_in
from fwrl.bench.recall.task import RecallConfig, recall_batch
from fwrl.bench.sequence_model import ABSENT, NOT_ASKED, Batch, SequenceModel
from fwrl.bench.supervised import TrainingConfig, accuracy, answers
from fwrl.config import validate

SIZES = {"num_keys": 9, "num_values": 5, "num_pairs": 6, "num_queries": 4}
CONFIGS = {
    f"{form}, {rewrites} rewrites": RecallConfig(
        **SIZES, joined=form == "joined", rewrites=rewrites
    )
    for form in ("joined", "parted")
    for rewrites in (0, 1, 6)
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def make(config, batch_size=64, seed=0):
    return recall_batch(config, batch_size, torch.Generator().manual_seed(seed))


def pairs_and_queries(config, tokens):
    """One sequence in plain numbers, whichever form it has."""
    tokens = tokens.tolist()
    if config.joined:
        pairs = [tuple(both) for both in tokens if both[1] != ABSENT]
        return pairs, [key for key, value in tokens if value == ABSENT]
    writes = tokens[: -config.num_queries]
    pairs = [(k, v - config.num_keys) for k, v in zip(writes[::2], writes[1::2], strict=True)]
    return pairs, tokens[-config.num_queries :]


@every_config
def test_a_target_is_the_latest_value_of_its_key(config):
    batch = make(config)
    assert batch.tokens.shape[:2] == batch.targets.shape == (64, config.length)
    for tokens, targets in zip(*batch, strict=True):
        pairs, queries = pairs_and_queries(config, tokens)
        assert len(pairs) == config.num_pairs + config.rewrites
        # of equal keys a dictionary keeps the last
        latest = dict(pairs)
        assert targets[-config.num_queries :].tolist() == [latest[key] for key in queries]
        assert (targets[: -config.num_queries] == NOT_ASKED).all()
        assert len(set(queries)) == len(queries) == config.num_queries


@every_config
def test_only_rewritten_keys_are_written_twice_and_with_another_value(config):
    for tokens in make(config).tokens:
        pairs, _ = pairs_and_queries(config, tokens)
        keys = [key for key, _ in pairs]
        assert len(set(keys)) == config.num_pairs
        # a key twice with the same value would be one pair here
        assert len(set(pairs)) == len(pairs)
        assert max(keys.count(key) for key in keys) == 1 + bool(config.rewrites)


@every_config
def test_tokens_fit_the_vocabulary(config):
    tokens = make(config, 500).tokens
    fields = tokens.unbind(-1) if config.joined else [tokens]
    for field, size in zip(fields, config.vocabulary, strict=True):
        assert set(field.unique().tolist()) - {ABSENT} == set(range(size))


@every_config
def test_every_sequence_is_another_and_a_seed_repeats_them(config):
    generator = torch.Generator().manual_seed(0)
    first, second = (recall_batch(config, 200, generator) for _ in range(2))
    sequences = torch.cat([first.tokens, second.tokens]).flatten(start_dim=1)
    assert len(sequences.unique(dim=0)) == 400
    for ours, again in zip(first, make(config, 200), strict=True):
        torch.testing.assert_close(ours, again, atol=0, rtol=0)


def shares(numbers, size):
    return torch.bincount(numbers, minlength=size) / len(numbers)


def assert_uniform(numbers, size):
    # five standard deviations of a share
    allowed = 5 * (size * len(numbers)) ** -0.5
    expected = torch.full((size,), 1 / size)
    torch.testing.assert_close(shares(numbers, size), expected, atol=allowed, rtol=0)


@pytest.mark.parametrize("rewrites", [0, 3])
def test_keys_values_and_targets_are_uniform(rewrites):
    config = RecallConfig(**SIZES, rewrites=rewrites)
    tokens, targets = make(config, 20_000)
    for time in range(config.length):
        assert_uniform(tokens[:, time, 0], config.num_keys)
        asked = time >= config.length - config.num_queries
        values = targets[:, time] if asked else tokens[:, time, 1]
        assert_uniform(values, config.num_values)
    # the key that is asked for says nothing of its value
    both = tokens[:, -1, 0] * config.num_values + targets[:, -1]
    assert_uniform(both, config.num_keys * config.num_values)
    assert config.chance == 1 / config.num_values


def test_every_pair_is_asked_for_equally_often():
    config = RecallConfig(**SIZES)
    tokens, _ = make(config, 20_000)
    written = tokens[:, : config.num_pairs, 0]
    for query in tokens[:, config.num_pairs :, 0].unbind(1):
        (time,) = (written == query.unsqueeze(1)).long().max(dim=1, keepdim=True).indices.T
        assert_uniform(time, config.num_pairs)


def test_a_rewritten_key_is_asked_for_as_often_as_another():
    config = RecallConfig(**SIZES, rewrites=2)
    tokens, _ = make(config, 20_000)
    written, queries = tokens[:, :8, 0], tokens[:, 8:, 0]
    times = (written.unsqueeze(1) == queries.unsqueeze(2)).sum(dim=2)
    # its standard deviation is below 0.002
    torch.testing.assert_close(
        (times == 2).float().mean(0), torch.full((4,), 1 / 3), atol=0.015, rtol=0
    )


def test_a_rewrite_can_come_at_any_time_and_with_any_other_value():
    config = RecallConfig(**SIZES | {"num_keys": 6}, rewrites=1)
    tokens, _ = make(config, 20_000)
    keys, values = tokens[:, :7].unbind(-1)
    twice = keys == keys.mode(dim=1).values.unsqueeze(1)
    first, second = twice.nonzero()[:, 1].view(-1, 2).unbind(1)
    later = second * (second - 1) // 2 + first
    assert_uniform(later, 21)
    written = values[twice].view(-1, 2)
    assert_uniform((written[:, 1] - written[:, 0]) % 5 - 1, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_pairs": 17}, "num_pairs is 17, .* use at most num_keys, 16"),
        ({"num_queries": 9}, "num_queries is 9, .* use at most num_pairs, 8"),
        ({"rewrites": 9}, "rewrites is 9, .* use at most num_pairs, 8"),
        ({"num_values": 1}, "num_values"),
        ({"num_pair": 3}, re.escape("did you mean 'num_pairs'?")),
    ],
)
def test_sizes_that_contradict_each_other_are_refused_in_one_line(values, message):
    with pytest.raises(ConfigError, match=message) as error:
        validate(RecallConfig, values, "recall")
    assert "\n" not in str(error.value)


def model_for(config, core="fast_weight", width=16):
    torch.manual_seed(0)
    stack = StackConfig(width=width, layers=2)
    return SequenceModel(config.vocabulary, config.num_values, stack, CORES[core]())


@every_config
@pytest.mark.parametrize("core", ["fast_weight", "lstm"])
def test_a_sequence_in_pieces_is_the_whole(config, core):
    model, tokens = model_for(config, core), make(config, 3).tokens
    starts = torch.rand(tokens.shape[:2]) < 0.2
    whole, end = model(tokens, model.initial_state(3), starts)
    assert whole.shape == (3, config.length, config.num_values)
    state, pieces = model.initial_state(3), []
    for piece, open_here in zip(tokens.split(4, dim=1), starts.split(4, dim=1), strict=True):
        logits, state = model(piece, state, open_here)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tensors_in(state), tensors_in(end), atol=1e-5, rtol=1e-4)


def test_nothing_before_a_start_is_remembered():
    config = RecallConfig(**SIZES)
    model, tokens = model_for(config), make(config, 3).tokens
    starts = torch.zeros(3, config.length, dtype=torch.bool)
    starts[1, 4] = True
    logits, _ = model(tokens, model.initial_state(3), starts)
    fresh, whole = answers(model, tokens[:, 4:]), answers(model, tokens)
    torch.testing.assert_close(logits[1, 4:], fresh[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[[0, 2]], whole[[0, 2]], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(fresh[0], whole[0, 4:])


def test_fields_are_added_and_what_is_absent_adds_nothing():
    config = RecallConfig(**SIZES)
    model = model_for(config)
    keys, values = model.embeddings
    tokens = torch.tensor([[[0, 0], [8, 4], [3, ABSENT], [ABSENT, ABSENT]]])
    embedded = model._embed(tokens)[0]
    torch.testing.assert_close(embedded[0], keys.weight[1] + values.weight[1])
    torch.testing.assert_close(embedded[1], keys.weight[9] + values.weight[5])
    torch.testing.assert_close(embedded[2], keys.weight[4])
    assert not embedded[3].any()


def test_tokens_beyond_the_vocabulary_are_refused():
    model = model_for(RecallConfig(**SIZES))
    with pytest.raises(IndexError):
        answers(model, torch.tensor([[[9, 0]]]))
    with pytest.raises(ValueError, match="zip"):
        answers(model, torch.zeros(1, 2, 3, dtype=torch.long))


def test_training_lowers_the_loss_and_repeats_itself():
    config = RecallConfig(num_keys=4, num_values=4, num_pairs=2, num_queries=2)

    def run(seed, steps):
        model, generator = model_for(config), torch.Generator().manual_seed(seed)
        training = TrainingConfig(steps=steps, learning_rate=1e-2)
        return train_supervised(model, lambda: recall_batch(config, 32, generator), training)

    losses = run(1, 80)
    assert len(losses) == 80
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    assert run(1, 5) == run(1, 5) != run(2, 5)


def movements(steps, **options):
    """How far training moved the parameters in each step."""
    config = RecallConfig(**SIZES)
    model, batch, been = model_for(config), make(config), []

    def remember():
        been.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
        return batch

    losses = train_supervised(model, remember, TrainingConfig(steps=steps, **options))
    remember()
    return losses, torch.stack(been).diff(dim=0).norm(dim=1)


def test_training_slows_down_to_a_halt():
    _, moved = movements(20)
    assert (moved > 0).all()
    assert moved[-1] < 0.03 * moved[0]
    torch.testing.assert_close(movements(20, learning_rate=6e-3)[1][0], 2 * moved[0])
    nothing = TrainingConfig(steps=0)
    assert train_supervised(model_for(RecallConfig(**SIZES)), lambda: None, nothing) == []


def test_each_step_follows_the_gradient_of_its_own_batch():
    config = RecallConfig(**SIZES)
    model, before, batches = model_for(config), model_for(config), [make(config), make(config, 3)]
    given = iter(batches)

    def remember():
        before.load_state_dict(model.state_dict())
        return next(given)

    losses = train_supervised(model, remember, TrainingConfig(steps=2, max_grad_norm=1e9))
    tokens, targets = batches[1]
    asked = targets >= 0
    right = answers(before, tokens).log_softmax(-1)[asked].gather(1, targets[asked].unsqueeze(1))
    (-right.mean()).backward()
    assert losses[1] == pytest.approx(-right.mean().item(), rel=1e-5)
    for after, expected in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(after.grad, expected.grad, atol=1e-6, rtol=1e-4)


def test_training_shortens_gradients():
    # Adam divides by the size of gradients, but not by less than its epsilon
    _, moved = movements(1)
    _, shortened = movements(1, max_grad_norm=1e-10)
    assert shortened[0] < 0.1 * moved[0]


def test_accuracy_counts_only_what_is_asked():
    config = RecallConfig(**SIZES)
    model = model_for(config, "none")
    batches = [make(config, 8, seed) for seed in range(2)]
    with torch.no_grad():
        model.logits.weight.zero_()
        model.logits.bias.copy_(torch.eye(config.num_values)[3])
    targets = torch.cat([batch.targets for batch in batches])
    share = (targets == 3).sum() / (targets != NOT_ASKED).sum()
    assert accuracy(model, batches) == pytest.approx(share.item())
    assert accuracy(model, [Batch(*batches[0])]) != accuracy(model, [batches[1]])
    assert all(parameter.grad is None for parameter in model.parameters())
