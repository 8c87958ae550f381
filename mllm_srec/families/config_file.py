"""config.json of a model in a folder or on the hub, the commit that it is of, and what to give if there is none."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mllm_srec.types import ConfigError

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"
"""Beginning of the file that a clone without git-lfs has in place of a large one."""

_GIVE = "give a folder with config.json and weights, or the name of a hub model that is reachable or cached"

BELIEVED = 300.0
"""Seconds for which a hub that gave no answer is not asked again."""

_asked: dict[str, tuple[float, str]] = {}
"""Address of a hub -> when it was asked, and why it gave no answer; empty: it did."""

_blocks = {"open": 0}
"""Blocks in which the hub is switched off, in all threads."""

_switch = threading.RLock()


def read_config(name: str, revision: str | None = None) -> Any:
    """Read a model's config.json; no weight is loaded.

    Raises:
        ConfigError: The folder or hub model cannot be read, or is an adapter; the message says what to give.
    """
    from transformers import AutoConfig

    _check_place(name)
    with hub_given_up_early(name):
        try:
            return AutoConfig.from_pretrained(name, revision=revision)
        except (OSError, ValueError, KeyError, TypeError) as error:
            of = f" (revision {revision})" if revision else ""
            raise ConfigError(f"backbone={name!r}{of}: cannot be read: {first_line(error)}; {_hint(name)}") from error


def pinned_revision(name: str, revision: str | None = None) -> str | None:
    """Return the commit that a revision of a hub model stands for in the local cache.

    All files of a model are read at this commit, and it is part of the model's identity: a branch moves, a commit does
    not. Cached files of a commit are also read without asking the hub.

    Returns:
        The commit; `revision` as it is for a folder, and for a model that is not cached yet.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).exists():
        return revision
    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return revision
    return Path(cached).parent.name if isinstance(cached, str) else revision


@contextmanager
def hub_given_up_early(name: str) -> Iterator[None]:
    """Within the block, read a model from cached files only if the hub cannot be reached.

    Its library would try again and again for each file, two minutes in all, before it looks at what is cached. One
    answer of any kind within HF_HUB_ETAG_TIMEOUT (10 seconds) is enough; one that is missing is believed for `BELIEVED`
    seconds. Outside the block the library is as it was, for other code of this process.

    Args:
        name: Hub name or folder of the model; a folder is read without asking.
    """
    from huggingface_hub import constants

    if Path(name).exists() or not _given_up():
        yield
        return
    with _switch:
        _blocks["open"] += 1
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        with _switch:
            _blocks["open"] -= 1
            constants.HF_HUB_OFFLINE = _blocks["open"] > 0


def _given_up() -> bool:
    """Ask the hub whether it is there, unless that is known or the user has switched it off."""
    from huggingface_hub import constants

    with _switch:
        if constants.HF_HUB_OFFLINE:
            return _blocks["open"] > 0
        endpoint, now = constants.ENDPOINT, time.monotonic()
        before = _asked.get(endpoint)
        if before is not None and (not before[1] or now - before[0] < BELIEVED):
            return bool(before[1])
        reason = _unreachable(endpoint)
        _asked[endpoint] = (time.monotonic(), reason)
    if reason and (before is None or not before[1]):
        print(
            f"the hub at {endpoint} cannot be reached ({reason}): only files that are cached here are used; "
            "HF_HUB_OFFLINE=1 says so without asking it",
            file=sys.stderr,
        )
    return bool(reason)


def _unreachable(endpoint: str) -> str:
    """Return why a server gives no answer; empty if it does."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(endpoint, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # of whichever HTTP library is below
        return first_line(error)
    return ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error of a library, without a full stop; its type where it says nothing."""
    if "Weights only load failed" in str(error):  # torch goes on with how to run the code in the file
        return "a file holds more than numbers and names, which could run code"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__


def _check_place(name: str) -> None:
    """Refuse a path that is no model's folder, before a library takes it for something else.

    Raises:
        ConfigError: The path is a file, an adapter, a run, a folder without config.json or with a broken one.
    """
    folder = Path(name)
    if folder.is_file():
        raise ConfigError(f"backbone={name!r}: is a file; {_GIVE}")
    if not folder.is_dir():
        if folder.is_absolute() or name.startswith((".", "~")):
            raise ConfigError(f"backbone={name!r}: cannot be read: there is no such folder; {_GIVE}")
        return
    if (folder / "adapter_config.json").exists():
        raise ConfigError(f"backbone={name!r}: is a LoRA adapter, not a model; {_base_of(folder)}")
    if not (folder / "config.json").exists():
        if (folder / "adapter").is_dir():
            raise ConfigError(
                f"backbone={name!r}: is a run folder; give {folder / 'adapter'} if the run trained every weight "
                "(model.finetune=full), else the run's own backbone and --ckpt_path with a file of its checkpoints/"
            )
        raise ConfigError(f"backbone={name!r}: cannot be read: config.json is missing; {_GIVE}")
    check_content(name, folder / "config.json")


def check_content(name: str, path: Path) -> None:
    """Check that a file of a model can be read and is the file itself.

    Args:
        name: Hub name or folder of the model.
        path: The file.

    Raises:
        ConfigError: It cannot be read, or is what git-lfs leaves in place of a large file.
    """
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError as error:
        raise _unreadable(name, path.name, error) from error
    if is_pointer:
        raise ConfigError(
            f"backbone={name!r}: {path.name} is a pointer of git-lfs, not the file itself; run `git lfs pull` in the "
            "clone, or download the model with `hf download`"
        )


def _unreadable(name: str, file: str, error: OSError) -> ConfigError:
    """Make the error about a file that is there and that this process cannot read."""
    return ConfigError(
        f"backbone={name!r}: {file} cannot be read ({error.strerror}); see to its permissions or the disk, and start "
        "again"
    )


def _base_of(adapter: Path) -> str:
    """Say what to give in place of an adapter."""
    try:
        about = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        base, revision = about.get("base_model_name_or_path"), about.get("revision")
    except (OSError, ValueError, AttributeError):
        base, revision = None, None
    named = f"the model that it names, {base}" if base else "the model that it was trained on"
    if base and Path(base).is_absolute() and not Path(base).exists():
        named = f"the folder that was at {base} when it was trained, wherever it is now"
    at = f" (model.revision {revision})" if base and revision else ""
    return f"give {named}{at}, and test its trained weights with --ckpt_path RUN/checkpoints/best.ckpt"


def _hint(name: str) -> str:
    """Say what to do about a model that cannot be read."""
    from huggingface_hub import constants

    if Path(name).is_dir():
        return "copy config.json from where the model was published"
    if constants.HF_HUB_OFFLINE:
        return f"the hub is out of reach, or switched off by HF_HUB_OFFLINE: {_GIVE}"
    return _GIVE
