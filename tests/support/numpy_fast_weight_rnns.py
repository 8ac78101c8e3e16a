"""Recurrent fast weight programmers (Irie et al. 2021) in NumPy, an oracle for the cores.

Computes one stream, one head and one time step at a time. Matrices map keys to values, ``V x K``,
as in the paper; the library holds the transpose.
"""

import numpy as np
import torch


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def positive(x):
    features = np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))
    return features / features.sum()


def write_by_delta_rule(weights, key, value, strength):
    return weights + sigmoid(strength) * np.outer(value - weights @ key, key)


class Head:
    """One head of one stream: its state, and the core whose parameters it uses."""

    def __init__(self, core, config, head):
        self.core, self.config, self.heads, self.head = core, config, config.heads, head
        self.K = core.input_size // self.heads
        self.begin()

    def parameter(self, name):
        return self.core.get_parameter(name).detach().numpy()

    def split(self, projected, *sizes, gate=0, gates=1):
        mine = projected.reshape(gates, self.heads, -1)[gate, self.head]
        return np.split(mine, np.cumsum(sizes)[:-1])


class DeltaRNN(Head):
    def begin(self):
        K = self.K
        self.W, self.R, self.y = np.zeros((K, K)), np.zeros((K, K)), np.zeros(K)

    def step(self, x):
        phi = {"elu_plus_one": positive, "softmax": softmax}[self.config.feature_map]
        projected = self.parameter("slow.project.weight") @ x
        q, k, v, k_, v_, b, b_ = self.split(projected, *[self.K] * 5, 1, 1)
        self.W = write_by_delta_rule(self.W, phi(k), v, b)
        self.R = write_by_delta_rule(self.R, softmax(k_), v_, b_)
        z = self.W @ phi(q)
        if self.config.version == 1:
            self.y = softmax(z + self.R @ self.y)
        else:
            self.y = z + self.R @ softmax(self.y)
        return self.y


class DeltaLSTM(Head):
    def begin(self):
        zeros = np.zeros((self.K, self.K))
        self.W, self.R = [zeros] * 3, [zeros] * 3
        self.h, self.c = np.zeros(self.K), np.zeros(self.K)

    def step(self, x):
        version = self.config.version
        projected = self.parameter("slow.project.weight") @ x
        back = self.h if version == 1 else softmax(self.h)
        z, sums = [], []
        for gate in range(3):
            q, k, v, k_, v_, b, b_ = self.split(projected, *[self.K] * 5, 1, 1, gate=gate, gates=3)
            self.W[gate] = write_by_delta_rule(self.W[gate], positive(k), v, b)
            self.R[gate] = write_by_delta_rule(self.R[gate], softmax(k_), v_, b_)
            z.append(self.W[gate] @ positive(q))
            sums.append(self.R[gate] @ back + z[gate])
        i, u, o = sigmoid(sums[0]), sums[1], sigmoid(sums[2])
        u = u if version == 4 else sigmoid(u)
        self.c = i * u + (1 - i) * self.c
        shown = self.c * o
        self.h = {1: softmax(shown), 2: shown, 3: shown + z[1], 4: shown}[version]
        return self.h


class RecurrentDelta(Head):
    def begin(self):
        self.W, self.y = np.zeros((self.K, self.K)), np.zeros(self.K)

    def step(self, x):
        K, back = self.K, np.tanh(self.y)
        q, k, v, b = self.split(self.parameter("slow.project.weight") @ x, K, K, K, 1)
        recurrent = self.parameter("recurrent")[self.head]
        Rq, Rk, Rv, rb = np.split(recurrent, [K, 2 * K, 3 * K], axis=1)
        self.W = write_by_delta_rule(self.W, softmax(k + back @ Rk), v + back @ Rv, b + back @ rb)
        self.y = self.W @ softmax(q + back @ Rq)
        return self.y


class SlowRNN(Head):
    def begin(self):
        self.W, self.c = np.zeros((self.K, self.K)), np.zeros(self.heads * (3 * self.K + 1))
        self.h = self.c

    def step(self, x):
        gates = self.parameter("slow.input.weight") @ x + self.parameter("slow.input.bias")
        i, f, g, o = np.split(gates + self.parameter("slow.recurrent.weight") @ self.h, 4)
        self.c = sigmoid(f + self.config.forget_bias) * self.c + sigmoid(i) * np.tanh(g)
        self.h = sigmoid(o) * np.tanh(self.c)
        q, k, v, b = self.split(self.h, self.K, self.K, self.K, 1)
        self.W = write_by_delta_rule(self.W, positive(k), v, b)
        return self.W @ positive(q)


class DeltaDelta(Head):
    def begin(self):
        K = self.K
        self.W, self.P = np.zeros((K, K)), np.zeros((3 * K + 1, K))
        if self.core.start is not None:
            self.P = self.parameter("start")[0, self.head].T

    def step(self, x):
        K = self.K
        q, k, v, b = self.split(self.parameter("slow.project.weight") @ x, K, K, 3 * K + 1, 1)
        self.P = write_by_delta_rule(self.P, positive(k), v, b)
        q, k, v, b = np.split(self.P @ positive(q), [K, 2 * K, 3 * K])
        self.W = write_by_delta_rule(self.W, positive(k), v, b)
        return self.W @ positive(q)


class DeltaMLP(Head):
    def begin(self):
        K, F, blocks = self.K, self.config.expansion * self.K, self.config.blocks
        self.W1, self.W2 = [np.zeros((F, K))] * blocks, [np.zeros((K, F))] * blocks

    def step(self, x):
        K, F, blocks = self.K, self.config.expansion * self.K, self.config.blocks
        projected = self.parameter("slow.project.weight") @ x
        y, *rest = self.split(projected, K, *[K, F, 1, F, K, 1] * blocks)
        for n in range(blocks):
            k1, v1, b1, k2, v2, b2 = rest[6 * n : 6 * n + 6]
            self.W1[n] = write_by_delta_rule(self.W1[n], positive(k1), v1, b1)
            self.W2[n] = write_by_delta_rule(self.W2[n], positive(k2), v2, b2)
            a = (y - y.mean()) / np.sqrt(y.var() + 1e-5)
            a = a * self.parameter(f"norms.{n}.weight") + self.parameter(f"norms.{n}.bias")
            y = y + self.W2[n] @ positive(self.W1[n] @ positive(a))
        return y


def run_equations(head, core, config, x, starts):
    """The outputs ``[B, T, E]`` of a core with heads of the class ``head``."""
    output = core.output.linear.weight.detach().numpy()
    outputs = []
    for stream, opens in zip(x.numpy(), starts, strict=True):
        every = [head(core, config, h) for h in range(config.heads)]
        for x_t, start in zip(stream, opens, strict=True):
            for one in every:
                if start:
                    one.begin()
            outputs.append(output @ np.concatenate([one.step(x_t) for one in every]))
    return torch.from_numpy(np.stack(outputs)).view(*x.shape[:2], -1)
