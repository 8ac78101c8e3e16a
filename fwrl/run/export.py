"""Export of a trained policy as one file, with all that its evaluation needs."""

from pathlib import Path

from agents.onnx_export import ENDING as ONNX_ENDING
from agents.onnx_export import export_onnx
from agents.saving import export_policy, load_saved
from fwrl.config import ConfigError
from fwrl.files.names import ENDING
from fwrl.files.plain_files import check_target, make_folder
from fwrl.run.directory import read_run_config
from fwrl.run.evaluation import steps_of


def export_run(run: Path, file: Path, checkpoint: str, force: bool, onnx: bool = False) -> Path:
    """Write a checkpoint's policy to ``file``; returns the checkpoint.

    Args:
        run: A run directory.
        file: Ends with ``.safetensors``, or with ``.onnx``: one step, for other programs.
        checkpoint: ``best``, ``last``, a step or a path.
        force: Replace an existing file.
        onnx: Refuse any ending but ``.onnx``.

    Raises:
        ConfigError: If the file is there already, or the directory is no run.
        FileError: If the file cannot be written.
        CheckpointError: If there is no such checkpoint, or it is damaged.
    """
    endings = [ONNX_ENDING] if onnx else [ENDING, ONNX_ENDING]
    if file.suffix not in endings:
        wanted = " or ".join(f"{file.stem}{ending}" for ending in endings)
        raise ConfigError(f"{file}: its name says what is written; use {wanted}")
    check_target(file)
    if file.exists() and not force:
        raise ConfigError(f"{file}: is there already; choose another name, or --force replaces it")
    config = read_run_config(run)
    folder, document, policy = load_saved(run, checkpoint)
    said = {
        "run": config.model_dump(mode="json"),
        "steps": steps_of(document, folder),
        "score": document.get("score"),
    }
    make_folder(file.parent)
    write = export_onnx if file.suffix == ONNX_ENDING else export_policy
    write(file, policy, said)
    return folder
