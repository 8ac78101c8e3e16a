"""How far steps of a policy by ONNX are from those by PyTorch; ``python onnx_agreement.py KIND``.

A process of its own: types that are checked at every call would be traced as well.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from counting_env import EPISODES, CountingEnv, small_policy
from gymnasium import spaces

from agents.encoders import EncoderConfig
from agents.onnx_export import export_onnx
from agents.policy import PolicyInput
from fwrl.state import tensors_in

STEPS, ROWS = 500, 3
NESTED = spaces.Dict({"seen": spaces.Box(-9, 9, (3,)), "sign": spaces.Discrete(4)})


def random_inputs(policy, rows, generator):
    """What a policy might read, with an episode that begins now and then."""
    inputs = PolicyInput(
        {
            "seen": torch.randn(rows, 3, generator=generator),
            "sign": torch.randint(4, (rows,), generator=generator),
        },
        torch.randint(3, (rows, 1), generator=generator),
        torch.randn(rows, generator=generator),
        torch.randint(40, (rows,), generator=generator),
    )
    return inputs._replace(elapsed=torch.where(inputs.elapsed < 2, 0, inputs.elapsed))


@torch.no_grad()
def agreement(kind):
    """The names in the file, what it says of itself, and the largest difference."""
    torch.manual_seed(0)
    env = CountingEnv(EPISODES, space=NESTED)
    policy = small_policy(env, kind, encoder=EncoderConfig(time_frequencies=2)).eval()
    file = Path(tempfile.mkdtemp()) / "policy.onnx"
    export_onnx(policy, file, {"steps": 7})
    session = onnxruntime.InferenceSession(file)
    names = [each.name for each in session.get_inputs()]
    generator, memory, farthest, starts = torch.Generator().manual_seed(1), None, 0.0, 0
    memory = policy.initial_state(ROWS)
    theirs = [leaf.numpy() for leaf in tensors_in(memory) if leaf[0].numel()]
    for _ in range(STEPS):
        inputs = random_inputs(policy, ROWS, generator)
        given = [leaf.numpy() for leaf in tensors_in(inputs)] + theirs
        said = session.run(None, dict(zip(names, given, strict=True)))
        log_probs, _, value, *theirs = said
        output, memory = policy.step(inputs, memory)
        pairs = (log_probs, output.action.log_probs), (value, output.value)
        farthest = max(farthest, *(float(np.abs(a - b.numpy()).max()) for a, b in pairs))
        starts += int(inputs.starts.sum())
    return {
        "inputs": names,
        "outputs": [each.name for each in session.get_outputs()],
        "said": json.loads(session.get_modelmeta().custom_metadata_map["fwrl"]),
        "farthest": farthest,
        "starts": starts,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(agreement(sys.argv[1])))
