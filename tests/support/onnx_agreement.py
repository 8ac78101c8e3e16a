"""Compares steps of exported policies in ONNX with PyTorch: ``onnx_agreement.py NAME...``.

Runs without shape checks, which would be traced too. A name is that of a memory or a key of
``SPACES``, ``OPTIONS`` or ``REFUSED``; the output is one line of JSON.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from mixed_stacks import MIXES

from agents.actions import ActionConfig
from agents.critic import CriticConfig
from agents.encoders import EncoderConfig
from agents.onnx_export import export_onnx
from agents.policy import PolicyConfig, PolicyInput, RecurrentPolicy, RewardConfig
from agents.rollout import to_tensors
from agents.saving import actor_of
from fwrl.config import ConfigError
from fwrl.cores import CORES
from fwrl.stack import StackConfig
from fwrl.state import tensors_in

VECTOR = spaces.Box(-9, 9, (3,))
NESTED = spaces.Dict({"seen": VECTOR, "sign": spaces.Discrete(4, start=-1)})
MASKED = spaces.Dict({"action_mask": spaces.MultiBinary(5), "seen": VECTOR})
CHOICES, RANGES = spaces.Discrete(3), spaces.Box(-2, 5, (2,))
SPACES = {
    "picture": (spaces.Box(0, 255, (36, 40, 3), np.uint8), spaces.Discrete(3)),
    "map": (spaces.Box(0, 10, (5, 5, 2), np.uint8), spaces.Discrete(3)),
    "ids": (spaces.MultiDiscrete([3, 10**6], start=[1, -5]), spaces.Discrete(3)),
    "continuous": (VECTOR, spaces.Box(-2, 5, (2,))),
    "half": (VECTOR, spaces.Box(-np.inf, 2, (2,), np.float16)),
    "double": (VECTOR, spaces.Box(-1e300, 1e300, (2, 1), np.float64)),
    "masked": (MASKED, spaces.MultiDiscrete([2, 3])),
    "unequal": (spaces.Tuple((VECTOR, spaces.MultiDiscrete([2, 3]))), spaces.MultiDiscrete([2, 4])),
}
OPTIONS = {
    "exact": ("agalite", {"exact": True}),
    "convolution": ("fast_weight", {"short_convolution": 3, "learned_initial_state": True}),
    "householder": ("fast_weight", {"num_householder": 2}),
    "normaliser": (
        "fast_weight",
        {"update_rule": "delta", "attention_normaliser": True, "feature_map": "elu_plus_one"},
    ),
    "input gate": ("infinite_former", {"input_gate": True, "window": 4, "segment": 3}),
    "sticky": ("infinite_former", {"sticky": True}),
    "window": ("window_attention", {"window": 5, "positions": "relative"}),
    "bfloat16": ("fast_weight", {}),
}
SCALED = {"encoder": EncoderConfig(time_frequencies=2, normalise_reward=True)}
# Options of other parts of the policy, and their spaces.
PARTS = {
    "frames": ({"encoder": EncoderConfig(frame_stack=3, time_frequencies=2)}, NESTED, CHOICES),
    "frames of pictures": (
        {"encoder": EncoderConfig(frame_stack=2, image_features=32)},
        SPACES["picture"][0],
        CHOICES,
    ),
    "squashed": ({"action": ActionConfig(distribution="squashed")}, NESTED, RANGES),
    "beta": ({"action": ActionConfig(distribution="beta")}, NESTED, RANGES),
    "hidden": ({"encoder": EncoderConfig(hidden=(24, 16))}, NESTED, CHOICES),
    "popart": (SCALED | {"critic": CriticConfig(head="popart")}, NESTED, CHOICES),
    "two_hot": (SCALED | {"critic": CriticConfig(head="two_hot")}, NESTED, CHOICES),
    "own critic": ({"critic": CriticConfig(head="linear", memory="own")}, NESTED, CHOICES),
    "privileged critic": (
        SCALED | {"critic": CriticConfig(memory="own", observation=("sign",))},
        NESTED,
        CHOICES,
    ),
}
REFUSED = "differs", "branches", "sticky"
# number of streams -> number of steps; two streams are traced
STREAMS = {3: 500, 1: 20}


def build_policy(name):
    """A policy whose actions and values depend strongly on its past observations."""
    torch.manual_seed(0)
    kind, options = OPTIONS.get(name, (name if name in CORES else "fast_weight", {}))
    seen, actions = SPACES.get(name, (NESTED, CHOICES))
    parts, seen, actions = PARTS.get(name, ({}, seen, actions))
    parts = {"encoder": EncoderConfig(time_frequencies=2, image_features=32)} | parts
    config = PolicyConfig(
        **parts,
        core=MIXES.get(name) or CORES[kind](**options),
        stack=StackConfig(width=16),
        reward=RewardConfig(scale=0.5, clip=0.7),
        precision="bfloat16" if name == "bfloat16" else "float32",
    )
    policy = RecurrentPolicy(seen, actions, config).eval()
    getattr(policy.head, "linear", getattr(policy.head, "mean", None)).weight.data.mul_(50.0)
    if policy.config.encoder.normalise_reward:
        policy.value.weight.data.normal_(0.0, 0.1)
        policy.critic.include(7.0 + torch.randn(2, 9), policy.value)
        policy.return_moments.update(torch.randn(9, 1))
    return policy


def random_actions(policy, rows, generator):
    if isinstance(policy.action_space, spaces.Box):
        return torch.randn(rows, 2, generator=generator)
    sizes = torch.tensor(policy.head.sizes)
    return (torch.rand(rows, len(sizes), generator=generator) * sizes).long()


@torch.no_grad()
def largest_differences(policy, session, rows, steps):
    """The largest difference of outputs and of memories, and the number of episode starts."""
    generator = torch.Generator().manual_seed(rows)
    space = batch_space(policy.observation_space, rows)
    space.seed(rows)
    names = [each.name for each in session.get_inputs()]
    memory, farthest, starts = policy.initial_state(rows), [0.0, 0.0], 0
    theirs = [leaf.numpy() for leaf in tensors_in(memory) if leaf[0].numel()]
    for _ in range(steps):
        elapsed = torch.randint(40, (rows,), generator=generator)
        elapsed[elapsed < 2] = 0
        reward = torch.randn(rows, generator=generator)
        action = random_actions(policy, rows, generator)
        seen = to_tensors(space.sample(), policy.device)
        for leaf in theirs:
            # nothing from before an episode start may be read
            leaf[(elapsed == 0).numpy()] = np.nan if leaf.dtype.kind == "f" else 77
        given = [leaf.numpy() for leaf in tensors_in((seen, action, reward, elapsed))]
        said = session.run(None, dict(zip(names, [*given, *theirs], strict=True)))
        inputs = PolicyInput(seen, action, policy.reward_feature(reward), elapsed)
        output, memory = policy.step(inputs, memory)
        chosen = len(output.action)
        best, values = output.action.mode(), [] if policy.config.without_critic else [output.value]
        before_memory = chosen + 1 + len(values)
        acted = said.pop(before_memory)
        assert all(map(policy.action_space.contains, acted)), (policy.action_space, acted)
        given = policy.head.to_environment(torch.from_numpy(said[chosen]))
        assert np.allclose(acted, given, atol=1e-5)
        ours = [*output.action, best, *values, *tensors_in(memory)]
        if isinstance(policy.action_space, spaces.Discrete | spaces.MultiDiscrete):
            # either of two equally good actions may be chosen: compare their probabilities
            said[chosen] = output.action.log_prob(torch.from_numpy(said[chosen])).numpy()
            ours[chosen] = output.action.log_prob(best)
        ours = [leaf.numpy() for leaf in ours if leaf[0].numel() or leaf.dim() == 1]
        for place, (a, b) in enumerate(zip(said, ours, strict=True)):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            difference = np.abs(a - b) / np.maximum(1, np.abs(b))
            assert np.isfinite(difference).all()
            kept = place >= before_memory
            farthest[kept] = max(farthest[kept], float(difference.max(initial=0)))
        theirs = [leaf.copy() for leaf in said[before_memory:]]
        starts += int((elapsed == 0).sum())
    return farthest, starts


def compare_export(name):
    """The contents of an exported file, and the largest differences of its steps from PyTorch's."""
    policy, folder = build_policy(name), Path(tempfile.mkdtemp())
    before = torch.get_rng_state()
    export_onnx(folder / "policy.onnx", policy, {"steps": 7})
    untouched = torch.equal(before, torch.get_rng_state())
    session = onnxruntime.InferenceSession(folder / "policy.onnx")
    model = onnx.load(folder / "policy.onnx")
    onnx.checker.check_model(model)
    text = (folder / "policy.onnx").read_bytes().decode(errors="replace")
    # files compute in float32 whatever a policy was trained in
    policy = actor_of(policy)
    policy.config = policy.config.model_copy(update={"precision": "float32"})
    found = [largest_differences(policy, session, rows, steps) for rows, steps in STREAMS.items()]
    return {
        "inputs": {each.name: [each.type, *each.shape] for each in session.get_inputs()},
        "outputs": {each.name: [each.type, *each.shape] for each in session.get_outputs()},
        "domains": [each.domain for each in model.opset_import],
        "said": json.loads(session.get_modelmeta().custom_metadata_map["fwrl"]),
        "speaks of this machine": str(Path(__file__).parents[2]) in text or 'File "' in text,
        "untouched": untouched,
        "files": [path.name for path in folder.iterdir()],
        "farthest": max(far for (far, _), _ in found),
        "farthest memory": max(far for (_, far), _ in found),
        "starts": sum(starts for _, starts in found),
    }


def refusal_message(name):
    """The message that refuses to export a policy, and the files written, which must be none."""
    policy, folder = build_policy(name), Path(tempfile.mkdtemp())
    step = policy.step

    def wrong(inputs, memory):
        output, memory = step(inputs, memory)
        if name == "differs":
            return output._replace(value=output.value + torch.compiler.is_exporting()), memory
        return output._replace(value=abs(output.value)) if output.value[0] > 0 else output, memory

    if name != "sticky":
        policy.step = wrong
    try:
        export_onnx(folder / "policy.onnx", policy, {})
    except ConfigError as error:
        return {"message": str(error), "files": [path.name for path in folder.iterdir()]}
    raise AssertionError(f"it was written, although it {name}")


if __name__ == "__main__":
    answers = {n: refusal_message(n) if n in REFUSED else compare_export(n) for n in sys.argv[1:]}
    sys.stdout.write(json.dumps(answers))
