import json

import pytest
import torch
from torch import nn

from fwrl.files import checkpoint
from fwrl.files.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_tensors,
    read_document,
    save_checkpoint,
)

DOCUMENT = {"steps": 12_000, "nested": {"numbers": [1, 2.5, None]}, "text": "Größe"}


def make_tensors():
    torch.manual_seed(0)
    return {
        "policy": {"a.weight": torch.randn(3, 2), "count": torch.tensor(7.0, dtype=torch.float64)},
        "generators": {"torch": torch.arange(5, dtype=torch.uint8)},
    }


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "checkpoints" / "100"
    save_checkpoint(folder, make_tensors(), DOCUMENT)
    return folder


def refusal(folder):
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def equal(content):
    saved = make_tensors()
    return content.document == DOCUMENT and all(
        content.tensors[group].keys() == leaves.keys()
        and all(torch.equal(content.tensors[group][name], leaf) for name, leaf in leaves.items())
        for group, leaves in saved.items()
    )


def test_what_was_saved_is_loaded(folder):
    content = load_checkpoint(folder)
    assert equal(content)
    assert content.tensors["policy"]["count"].dtype == torch.float64
    assert content.tensors["generators"]["torch"].dtype == torch.uint8
    assert read_document(folder) == DOCUMENT
    assert sorted(path.name for path in folder.iterdir()) == [
        "generators.safetensors",
        "manifest.json",
        "policy.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["100"]


def test_tensors_of_any_layout_with_gradients(tmp_path):
    weight = torch.randn(4, 3, requires_grad=True)
    save_checkpoint(tmp_path / "1", {"policy": {"t": weight.T, "row": weight[1]}}, {})
    found = load_checkpoint(tmp_path / "1").tensors["policy"]
    assert torch.equal(found["t"], weight.T)
    assert torch.equal(found["row"], weight[1])


def noticed_or_harmless(folder):
    try:
        return equal(load_checkpoint(folder))
    except CheckpointError as error:
        return "\n" not in str(error)


def test_no_byte_can_change_unnoticed(folder):
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        step = 1 if path.name == "manifest.json" else 17
        for i in range(0, len(good), step):
            for flip in (0x01, 0x80):
                path.write_bytes(good[:i] + bytes([good[i] ^ flip]) + good[i + 1 :])
                assert noticed_or_harmless(folder), (path.name, i)
        path.write_bytes(good)
    assert equal(load_checkpoint(folder))


def test_a_damaged_file_is_named(folder):
    path = folder / "policy.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert refusal(folder) == f"{path}: damaged, its sha256 is not the manifest's"
    path.write_bytes(data[:-3])
    assert "damaged" in refusal(folder)
    path.unlink()
    assert "No such file" in refusal(folder)


def test_a_changed_document_is_noticed(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("12000", "13000"))
    assert refusal(folder) == f"{path}: damaged, its document is not what was saved"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ("\xff", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[1]", "not a manifest"),
        ('{"format": 1, "files": [], "document": {}}', "not a manifest"),
        ('{"format": 1, "files": {}}', "not a manifest"),
        (
            '{"format": 99, "files": {}, "document": {}}',
            "format 99; this version of fwrl reads 1, 2",
        ),
        ("{}", "format None"),
    ],
)
def test_other_manifests_are_refused(folder, text, message):
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    assert message in refusal(folder)


def test_a_folder_without_a_manifest_is_no_checkpoint(folder, tmp_path):
    (folder / "manifest.json").unlink()
    assert "not a checkpoint" in refusal(folder)
    assert "not a checkpoint" in refusal(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot be read" in refusal(file)


def test_a_manifest_cannot_reach_outside_its_folder(folder):
    outside = folder.parent / "secret.safetensors"
    outside.write_bytes((folder / "policy.safetensors").read_bytes())
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"] = {"../secret.safetensors": manifest["files"]["policy.safetensors"]}
    path.write_text(json.dumps(manifest))
    assert "'../secret.safetensors' is no name of a file of tensors" in refusal(folder)


def test_what_is_not_safetensors_is_refused(folder):
    path = folder / "manifest.json"
    (folder / "policy.safetensors").write_bytes(b"not at all")
    manifest = json.loads(path.read_text())
    digest = checkpoint.hashlib.sha256(b"not at all").hexdigest()
    manifest["files"]["policy.safetensors"] = {"size": 10, "sha256": digest}
    path.write_text(json.dumps(manifest))
    assert "not a safetensors file" in refusal(folder)


def test_saving_again_replaces(folder):
    save_checkpoint(folder, {"policy": {"b": torch.zeros(1)}}, {"steps": 2})
    content = load_checkpoint(folder)
    assert content.tensors.keys() == {"policy"}
    assert content.document == {"steps": 2}
    assert [path.name for path in folder.parent.iterdir()] == ["100"]


def test_keys_that_json_turns_into_text(tmp_path):
    save_checkpoint(tmp_path / "1", {}, {"runs": {10: "ten", 9: "nine"}})
    assert read_document(tmp_path / "1") == {"runs": {"10": "ten", "9": "nine"}}


@pytest.mark.parametrize("where", ["tensors", "document", "disk", "rename"])
def test_a_failed_save_leaves_the_old_checkpoint(folder, monkeypatch, where):
    tensors, document = {"policy": {"b": torch.zeros(1)}}, {}
    if where == "tensors":
        tensors = {"policy": {"b": torch.zeros(1), "c": "no tensor"}}
    if where == "document":
        document = {"steps": object()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    if where == "disk":
        write, calls = checkpoint.write_plain, []
        monkeypatch.setattr(
            checkpoint, "write_plain", lambda *a: fail() if calls else (calls.append(1), write(*a))
        )
    if where == "rename":
        rename = checkpoint.Path.rename
        monkeypatch.setattr(
            checkpoint.Path,
            "rename",
            lambda path, to: fail() if path.name.endswith(".tmp") else rename(path, to),
        )
    with pytest.raises((OSError, TypeError, AttributeError)):
        save_checkpoint(folder, tensors, document)
    monkeypatch.undo()
    assert equal(load_checkpoint(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["100"]


def test_leftovers_of_a_killed_save_do_no_harm(folder):
    for name in (".100.tmp", ".100.old"):
        (folder.parent / name).mkdir()
        (folder.parent / name / "junk").write_text("")
    save_checkpoint(folder, make_tensors(), DOCUMENT)
    assert equal(load_checkpoint(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["100"]


def test_tensors_are_copied_into_a_module_that_has_exactly_these():
    module, other = nn.Linear(2, 3), nn.Linear(2, 3)
    tensors = dict(other.state_dict())
    load_tensors(module, tensors, "run")
    assert torch.equal(module.weight, other.weight)
    assert module.weight.requires_grad
    wrong = {
        "run: bias is missing": {"weight": tensors["weight"]},
        "run: more is unknown here": tensors | {"more": torch.zeros(1)},
        r"run: weight has shape \[3, 5\], this policy needs \[3, 2\]": tensors
        | {"weight": torch.zeros(3, 5)},
    }
    for message, given in wrong.items():
        with pytest.raises(CheckpointError, match=message):
            load_tensors(module, given, "run")
    assert torch.equal(module.weight, other.weight)
