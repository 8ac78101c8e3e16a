"""Exported policies on the Hugging Face Hub, one to a repository, with a page about it.

A repository holds a policy under one name, and that is all that is ever fetched: no name that a
stranger has chosen becomes a path, and no code is read. The policy is loaded before it is kept.
"""

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from agents.saving import load_policy, read_exported
from envs import env_name
from fwrl.config import ConfigError, OneLineError, without_passwords
from fwrl.cores import kinds_of, name_of
from fwrl.files.names import ENDING
from fwrl.files.plain_files import (
    MEBIBYTE,
    FileError,
    check_target,
    make_folder,
    read_plain,
    replace_plain,
)
from fwrl.run.config import RunConfig
from fwrl.run.evaluation import steps_of, stored_config

POLICY, PAGE = "policy.safetensors", "README.md"
LARGEST = 4096 * MEBIBYTE
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# By these a downloader names files of its own.
TAG = re.compile(r"[\w.-]{1,200}", re.ASCII)

CARD = """---
{metadata}---

# {title}

A policy for `{env}` with a `{core}` memory, trained by fwrl for {steps:,} steps.

```
fwrl hub pull {repository} policy.safetensors
fwrl evaluate policy.safetensors
```

In Python, `fwrl.load("policy.safetensors")` is an agent with `predict`. Loading it runs no code.

| score | value |
|---|---|
| mean return of {episodes} episodes, {how} actions, at the evaluation in training | {score} |

## Trained by

```
fwrl train config.yaml
```

with this `config.yaml`:

```yaml
{config}```
"""


class HubError(OneLineError):
    """The hub refuses something, or cannot be reached. The message is one line."""


def push_policy(file: Path, repository: str, private: bool) -> str:
    """Write an exported policy and a page about it to a repository; returns its address.

    Args:
        file: Written by ``fwrl export``.
        repository: ``USER/NAME``; made if it is not there.
        private: Whether only its owner sees it, if it is made now.

    Raises:
        ConfigError: If the repository's name is none, nobody is logged in, or a package is missing.
        CheckpointError: If the file is no exported policy, or damaged.
        HubError: If the hub refuses it, or cannot be reached.
    """
    _check_names(file, repository)
    library, api = _hub()
    if library.get_token() is None:
        raise ConfigError("hub push: not logged in; `hf auth login`, or set HF_TOKEN")
    config, page = stored_config(file), model_card(file, repository)
    # whoever pulls it will load it
    load_policy(file)
    data = read_plain(file, LARGEST, links=True)
    with _told(repository):
        api.create_repo(repository, private=private or None, exist_ok=True)
        parts = {POLICY: data, PAGE: page.encode()}
        additions = [
            library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
            for name, content in parts.items()
        ]
        message = f"Policy for {env_name(config.env)}"
        api.create_commit(repository, additions, commit_message=message)
    return f"{api.endpoint}/{repository}"


def pull_policy(repository: str, file: Path, revision: str, force: bool) -> str:
    """Write the policy of a repository to ``file``, once it was loaded; returns its revision.

    Args:
        repository: ``USER/NAME``.
        file: Its name ends with ``.safetensors``.
        revision: A branch, a tag or a commit.
        force: Replace an existing file.

    Raises:
        ConfigError: If the file is there already, the repository's name is none, or a package is
            missing.
        CheckpointError: If what the repository holds is no exported policy, or damaged.
        HubError: If there is no such repository, or the hub cannot be reached.
    """
    _check_names(file, repository)
    check_target(file)
    if file.exists() and not force:
        raise ConfigError(f"{file}: is there already; choose another name, or --force replaces it")
    library, api = _hub()
    with TemporaryDirectory() as folder:
        with _told(repository):
            address = library.hf_hub_url(
                repository, POLICY, revision=revision, endpoint=api.endpoint
            )
            found = api.get_hf_file_metadata(url=address)
            _check_found(found, repository)
            path = api.hf_hub_download(
                repository, POLICY, revision=found.commit_hash, local_dir=folder
            )
        load_policy(Path(path))
        data = read_plain(Path(path), LARGEST)
    make_folder(file.parent)
    replace_plain(file, data)
    return str(found.commit_hash)


def model_card(file: Path, repository: str) -> str:
    """The page of a repository: what its policy is for, how it scored, and how it was trained.

    Raises:
        CheckpointError: If the file is no exported policy.
    """
    document, config = read_exported(file), stored_config(file)
    score, env = document.get("score"), env_name(config.env)
    number = float(score) if isinstance(score, int | float) else None
    chosen = config.evaluation
    return CARD.format(
        metadata=_as_yaml(_metadata(env, config, number)),
        title=repository.partition("/")[2],
        repository=repository,
        env=env,
        core=name_of(config.core),
        steps=steps_of(document, file),
        episodes=chosen.episodes,
        how="most probable" if chosen.deterministic else "sampled",
        score="not evaluated" if number is None else f"{number:.4g}",
        config=_as_yaml(config.model_dump(mode="json")),
    )


def _metadata(env: str, config: RunConfig, score: float | None) -> dict[str, Any]:
    """The part of a page that the hub itself reads."""
    tags = ["reinforcement-learning", "fwrl", *dict.fromkeys(kinds_of(config.core)), env]
    found = {"library_name": "fwrl", "pipeline_tag": "reinforcement-learning", "tags": tags}
    if score is None:
        return found
    metric = {"type": "mean_reward", "name": "mean return", "value": score}
    task = {"type": "reinforcement-learning", "name": "reinforcement learning"}
    result = {"task": task, "dataset": {"name": env, "type": env}, "metrics": [metric]}
    return found | {"model-index": [{"name": "fwrl", "results": [result]}]}


def _as_yaml(values: Any) -> str:
    return without_passwords(yaml.safe_dump(values, sort_keys=False))


def _check_names(file: Path, repository: str) -> None:
    if file.suffix != ENDING:
        raise ConfigError(f"{file}: not a name of an exported policy, which ends with {ENDING}")
    if not REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise ConfigError(f"{repository!r}: not the name of a repository; it should be USER/NAME")


def _check_found(found: Any, repository: str) -> None:
    if not TAG.fullmatch(found.etag or "") or not TAG.fullmatch(found.commit_hash or ""):
        raise HubError(f"{repository}: the hub's answer names no revision")
    if (found.size or 0) > LARGEST:
        raise FileError(
            f"{repository}: its {POLICY} has {found.size:,} bytes; at most {LARGEST:,} are fetched"
        )


def _hub() -> tuple[Any, Any]:
    """The library and its client of the hub.

    Raises:
        ConfigError: If the library is not installed.
    """
    try:
        library: Any = import_module("huggingface_hub")
        import_module("huggingface_hub.utils").disable_progress_bars()
    except ImportError:
        raise ConfigError(
            "hub needs the package huggingface_hub; pip install 'fwrl[hub]'"
        ) from None
    return library, library.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


@contextmanager
def _told(repository: str) -> Generator[None]:
    """Tell in one line what the hub refuses."""
    errors: Any = import_module("huggingface_hub.errors")
    try:
        yield
    except OneLineError:
        raise
    except errors.GatedRepoError:
        raise HubError(f"{repository}: its owner gives access by request only") from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"{repository}: no such repository, or not one that you may see; "
            "`hf auth login` says who you are"
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{repository}: no such revision") from None
    except errors.EntryNotFoundError as error:
        # where it cannot be reached, the library says that it has no copy
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise HubError(f"{repository}: the hub cannot be reached") from None
        raise HubError(f"{repository}: has no {POLICY}; it holds no policy of fwrl") from None
    except errors.HfHubHTTPError as error:
        raise HubError(f"{repository}: the hub refuses it ({error})") from None
    # errors of its network library, whichever that is
    except Exception as error:
        raise HubError(f"{repository}: the hub cannot be reached ({_cause(error)})") from None


def _cause(error: BaseException) -> str:
    """The error that an error came from, in words."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
