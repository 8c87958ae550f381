"""Files of a model's folder: a check that they are there and whole, and a hash of the weights; none is loaded."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from mllm_srec.families.config_file import check_content
from mllm_srec.types import ConfigError

END_BYTES = 1 << 20
"""Bytes at both ends of a file of weights that are always hashed."""

HASHED_WHOLE = 64 << 20
"""Size up to which a file of weights is hashed whole; of a larger one, a sample of every tensor is."""

_SAMPLE = 4096
_VOCABULARIES = (
    *("tokenizer.json", "*vocab*", "*.model", "*.model.v*", "*.spm", "*.tiktoken", "*.tokenizer", "*.codes"),
    *("tekken.json", "merges.txt", "dict.txt", "byte_maps.json"),
)
"""Names of files that a tokenizer is made from, in transformers and in what families publish beside it."""

_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
"""Classes of tokenizers whose vocabulary are bytes or characters, so that they have no file of one."""

_OF_TRAINING = ("training_args.bin", "optimizer.bin", "scheduler.bin", "random_states_*", "rng_state*")
"""Files that trainers leave beside weights."""

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_ELSEWHERE = "copy it from where the model was published"


def check_files(folder: Path, name: str, pictures: bool) -> None:
    """Check that a folder holds a whole model: weights, tokenizer and, where it sees pictures, an image processor.

    Args:
        folder: The folder.
        name: Name of the model for errors.
        pictures: The model sees pictures.

    Raises:
        ConfigError: A file is missing, cut off, damaged or a pointer of git-lfs; it is named.
    """
    check_whole(folder, name)
    for path in sorted(folder.glob("*.safetensors.index.json")) + sorted(folder.glob("*.bin.index.json")):
        missing = [shard for shard in _shards(path, name) if not (folder / shard).exists()]
        if missing:
            raise _missing(name, missing[0], f", which {path.name} names; {_ELSEWHERE}")
    if all(any(path.match(pattern) for pattern in _OF_TRAINING) for path in weight_files(folder)):
        raise _missing(name, "model.safetensors", " (and no shard of it is there); copy the weights too")
    if not _has_tokenizer(folder):
        raise _missing(
            name, "tokenizer.json", "; copy the tokenizer's files from the model that this one was made from"
        )
    if pictures and not any((folder / file).exists() for file in _PROCESSORS):
        raise _missing(name, _PROCESSORS[0], "; copy it from the model that this one was made from")


def _has_tokenizer(folder: Path) -> bool:
    """Return True if some file is of a tokenizer; whether it is a whole one is seen when it is loaded."""
    if any(next(folder.glob(pattern), None) is not None for pattern in _VOCABULARIES):
        return True
    try:
        about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return about["tokenizer_class"].removesuffix("Fast") in _BYTES
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def check_whole(folder: Path, name: str) -> None:
    """Check the files that are there: a snapshot of a hub model may not hold all of them yet.

    Raises:
        ConfigError: One is a pointer of git-lfs or cannot be read, or a file of weights is cut off or damaged.
    """
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        check_content(name, path)
        if path.suffix == ".safetensors":
            expected, size = _tensors(path, name)[1], path.stat().st_size
            if size != expected:
                raise ConfigError(
                    f"backbone={name!r}: {path.name} is not whole: {size:,} bytes where its header promises "
                    f"{expected:,}; {_ELSEWHERE} again"
                )


def weight_files(folder: Path) -> list[Path]:
    """Return the files of weights of a folder, in alphabetical order."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def hash_ends(digest: hashlib._Hash, folder: Path) -> None:
    """Feed name, size and both ends of every file of weights."""
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as weights:
            digest.update(weights.read(END_BYTES))
            weights.seek(max(0, size - END_BYTES))
            digest.update(weights.read(END_BYTES))


def hash_middles(digest: hashlib._Hash, folder: Path, name: str) -> None:
    """Feed what lies between the ends: all of it, or of a very large file a sample of every tensor.

    A model that was trained further differs from its base in the middle only, where the ends hold embeddings and the
    vision tower.
    """
    for path in weight_files(folder):
        status = path.stat()
        if status.st_size > 2 * END_BYTES:
            digest.update(_hash_middle(path, name, status.st_size, status.st_mtime_ns, status.st_ino))


@lru_cache(maxsize=256)
def _hash_middle(path: Path, name: str, size: int, mtime_ns: int, inode: int) -> bytes:
    """Hash the middle of a file once; size, time and inode tell whether it is still the same one."""
    digest = hashlib.sha256()
    with path.open("rb") as weights:
        if size <= HASHED_WHOLE:
            weights.seek(END_BYTES)
            digest.update(weights.read(size - 2 * END_BYTES))
            return digest.digest()
        for place in _places(path, name, size):
            weights.seek(place)
            digest.update(weights.read(_SAMPLE))
    return digest.digest()


def _places(path: Path, name: str, size: int) -> Iterator[int]:
    """Yield where to read samples: in the middle of every tensor, or evenly where the format tells of no tensors."""
    if path.suffix != ".safetensors":
        yield from range(END_BYTES, size - END_BYTES, END_BYTES)
        return
    yield from _tensors(path, name)[0]


def _tensors(path: Path, name: str) -> tuple[list[int], int]:
    """Read the header of a safetensors file: the middle of every tensor in bytes, and the size of a whole file."""
    with path.open("rb") as file:
        try:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
            spans = [about["data_offsets"] for key, about in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise ConfigError(
                f"backbone={name!r}: {path.name} is not whole, or is no file of weights ({error}); {_ELSEWHERE} again"
            ) from error
    begin = 8 + length
    return [begin + (first + last) // 2 for first, last in sorted(spans)], begin + max(
        (last for _, last in spans), default=0
    )


def _shards(index: Path, name: str) -> list[str]:
    """Return the files of weights that an index names."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"backbone={name!r}: {index.name} is damaged ({error}); {_ELSEWHERE}") from error


def _missing(name: str, file: str, what: str) -> ConfigError:
    return ConfigError(f"backbone={name!r}: {file} is missing{what}")
