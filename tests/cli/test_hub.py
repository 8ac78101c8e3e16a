"""Exported policies on a hub: pushed, pulled and used, and what is refused."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import run_command
from saved_runs import saved_run

import fwrl
from fwrl.config import validate
from fwrl.run.config import RunConfig

pytest.importorskip("huggingface_hub")
# how the library calls its network library
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

import hub_server  # noqa: E402
from huggingface_hub import constants  # noqa: E402

CONTENTS = {"policy.safetensors", "README.md"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    saved_run(folder / "run")
    assert run_command("export", folder / "run", folder / "policy.safetensors") == 0
    return folder / "policy.safetensors"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub that this user has a token for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
    with hub_server.serving() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture
def pushed(server, exported):
    assert run_command("hub", "push", exported, "me/agent") == 0
    return server


def acts(file):
    agent, observation, state, actions = fwrl.load(file), np.zeros(1, np.int64), None, []
    for time in range(20):
        reward = np.array([time % 2], np.float32)
        start = np.array([time == 0])
        observation = np.array([time % 4])
        action, state = agent.predict(
            observation, state, start, deterministic=True, previous_reward=reward
        )
        actions.append(action.tolist())
    return actions


def test_a_policy_comes_back_byte_for_byte_and_acts_alike(server, exported, capsys):
    assert run_command("hub", "push", exported, "me/agent") == 0
    assert set(server.repositories["me/agent"]) == CONTENTS
    out = capsys.readouterr().out
    assert run_command("hub", "pull", "me/agent", "folder/mine.safetensors") == 0
    mine = Path("folder/mine.safetensors")
    assert mine.read_bytes() == exported.read_bytes()
    assert acts(mine) == acts(exported)
    out += capsys.readouterr().out
    assert f"policy.safetensors is now at {server.address}/me/agent\n" in out
    assert f"folder/mine.safetensors is me/agent at {hub_server.REVISION}\n" in out
    assert run_command("evaluate", mine, "--episodes", 2) == 0


def test_it_is_pushed_again_and_privately_if_so_wished(server, exported):
    assert run_command("hub", "push", exported, "me/agent", "--private") == 0
    assert server.wishes["me/agent"]["visibility"] == "private"
    assert run_command("hub", "push", exported, "me/agent") == 0
    assert run_command("hub", "push", exported, "me/other") == 0
    assert server.wishes["me/other"].get("visibility") != "private"
    assert server.repositories["me/other"] == server.repositories["me/agent"] | {
        "README.md": server.repositories["me/other"]["README.md"]
    }


def test_the_page_has_the_configuration_the_score_and_the_commands(pushed, exported):
    card = pushed.repositories["me/agent"]["README.md"].decode()
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata)["library_name"] == "fwrl"
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    stored = yaml.safe_load((exported.parent / "run/config.yaml").read_text())
    assert validate(RunConfig, yaml.safe_load(config)).model_dump(mode="json") == stored
    assert "fwrl hub pull me/agent policy.safetensors\nfwrl evaluate policy.safetensors" in text
    assert "for 7 steps" in text
    assert "| not evaluated |" in text


def test_a_score_is_on_the_page(server, tmp_path):
    from agents.saving import export_policy, load_policy  # noqa: PLC0415
    from fwrl.run.hub import model_card  # noqa: PLC0415

    config = saved_run(tmp_path / "run") / "config.yaml"
    document = {"run": yaml.safe_load(config.read_text()), "steps": 7, "score": 0.71234}
    export_policy(Path("a.safetensors"), load_policy(tmp_path / "run"), document)
    card = model_card(Path("a.safetensors"), "me/agent")
    assert "| 0.7123 |" in card
    metadata = yaml.safe_load(card.split("---\n")[1])
    (result,) = metadata["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.71234
    assert result["dataset"]["name"] == "fwrl/RepeatPrevious-v0"


def test_a_page_names_the_memories_of_all_layers(server, tmp_path):
    from fwrl.run.hub import model_card  # noqa: PLC0415

    saved_run(tmp_path / "run", core=[{"kind": "gru"}, {}, {"kind": "gru"}])
    assert run_command("export", "run", "a.safetensors") == 0
    _, metadata, text = model_card(Path("a.safetensors"), "me/agent").split("---\n", 2)
    assert "gru+fast_weight+gru" in text
    assert yaml.safe_load(metadata)["tags"][2:-1] == ["gru", "fast_weight"]


def test_nothing_else_is_fetched(pushed):
    files = pushed.repositories["me/agent"]
    files |= {"../../evil.py": b"x", "policy.py": b"x", "model.pkl": b"x", "/etc/evil": b"x"}
    pushed.asked.clear()
    assert run_command("hub", "pull", "me/agent", "mine.safetensors") == 0
    assert {path.rpartition("/")[2] for _, path in pushed.asked} == {"policy.safetensors"}
    assert [path.name for path in Path().iterdir() if not path.is_dir()] == ["mine.safetensors"]


HOSTILE = {
    "no tensors": b"import os",
    "a pickle": b"\x80\x04\x95",
    "other tensors": None,
    "nothing": b"",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_policy_is_not_kept(name, pushed, capsys):
    files = pushed.repositories["me/agent"]
    whole = files["policy.safetensors"]
    files["policy.safetensors"] = (
        HOSTILE[name] if HOSTILE[name] is not None else whole[:-4] + b"\1" * 4
    )
    told(("hub", "pull", "me/agent", "mine.safetensors"), "", capsys)
    assert not Path("mine.safetensors").exists()


NO_REVISION = "me/agent: the hub's answer names no revision"
LIES = [
    ({"ETag": '"../../../x"'}, NO_REVISION),
    ({"X-Repo-Commit": "../../x"}, NO_REVISION),
    ({"ETag": ""}, NO_REVISION),
    ({"X-Linked-Size": str(2**40)}, "me/agent: its policy.safetensors has 1,099,511,627,776 bytes"),
]


@pytest.mark.parametrize(("lie", "line"), LIES, ids=lambda each: str(each)[:20])
def test_a_hub_that_lies_is_refused(lie, line, pushed, monkeypatch, capsys):
    monkeypatch.setattr(hub_server, "LIES", lie)
    told(("hub", "pull", "me/agent", "mine.safetensors"), line, capsys)
    assert list(Path().iterdir()) == []


def told(words, line, capsys):
    """Check that a command is refused in one line that begins so."""
    capsys.readouterr()
    assert run_command(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fwrl: {line}"), error
    assert error.count("\n") == 1, error


@pytest.mark.parametrize(
    "name", ["../x", "x", "a/b/c", "/etc/passwd", "a/..", "a/b..c", "a b/c", "", "a/b--c", ".a/b"]
)
def test_a_strange_repository_is_refused(name, server, exported, capsys):
    line = f"{name!r}: not the name of a repository; it should be USER/NAME"
    told(("hub", "pull", name, "mine.safetensors"), line, capsys)
    told(("hub", "push", exported, name), line, capsys)
    assert server.asked == []


def test_mistakes_are_told_in_one_line(pushed, exported, monkeypatch, capsys):
    pull, file = ("hub", "pull", "me/agent"), "mine.safetensors"
    told((*pull, "mine.pkl"), "mine.pkl: not a name of an exported policy", capsys)
    told(("hub", "pull", "me/nothing", file), "me/nothing: no such repository", capsys)
    told((*pull, file, "--revision", "v9"), "me/agent: no such revision", capsys)
    told((*pull, file, "--revision", "../x"), "me/agent: no such", capsys)
    told(("hub", "push", "nothing.safetensors", "me/a"), "nothing.safetensors: no such", capsys)
    Path(file).write_text("mine")
    told((*pull, file), "mine.safetensors: is there already", capsys)
    told(("hub", "push", file, "me/agent"), "mine.safetensors: not a safetensors file", capsys)
    assert run_command(*pull, file, "--force") == 0
    assert Path(file).read_bytes() == exported.read_bytes()
    del pushed.repositories["me/agent"]["policy.safetensors"]
    told((*pull, "other.safetensors"), "me/agent: has no policy.safetensors; it holds", capsys)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    told(("hub", "push", exported, "me/agent"), "me/agent: ", capsys)
    monkeypatch.delenv("HF_TOKEN")
    told(("hub", "push", exported, "me/agent"), "hub push: not logged in; `hf auth", capsys)
    # as where the package is missing
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    told((*pull, "b.safetensors"), "hub needs the package huggingface_hub; pip install", capsys)


def test_where_no_hub_answers(server, exported, monkeypatch, capsys):
    # nobody listens at this port
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    told(
        ("hub", "pull", "me/agent", "a.safetensors"), "me/agent: the hub cannot be reached", capsys
    )
    told(("hub", "push", exported, "me/agent"), "me/agent: the hub cannot be reached", capsys)
