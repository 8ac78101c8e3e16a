"""A training loop for tests: a model, batches, and the loss of every step."""

from fwrl.bench.supervised import Learner, cross_entropy


def train_supervised(model, make_batch, config):
    """The loss of each step; every sequence begins with an empty memory."""
    model.train()
    learner = Learner(model, config)
    losses = []
    while learner.step < config.steps:
        loss = cross_entropy(model, make_batch())
        learner.update(loss)
        losses.append(loss.item())
    return losses
