"""The store of written summaries: content-addressed, append-only, one file (a shard) a rank.

A shard is read up to its last complete record. A broken rest is either still being written or was torn by a kill, a
full disk or a power loss; only the process that holds the shard's lock can know which, and only that process truncates
it. So no reader ever keeps an offset that later moves.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock

from mllm_srec.files.folders import LONGEST_WAIT, wait_for
from mllm_srec.prompts.summaries import Summary
from mllm_srec.types import ConfigError, DataError

CRC = "crc32"
"""Last field of a stored record."""


def content_key(**parts: object) -> str:
    """Return the content address of a summary: 32 hexadecimal digits of a SHA-256.

    Args:
        parts: All that decides the text, by name, as JSON values: texts, numbers, booleans, None, lists and
            dictionaries of them. Their order does not matter; tuples count as lists.

    Raises:
        DataError: A part is not a JSON value, such as NaN or a Path.
    """
    try:
        content = json.dumps(parts, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"content_key: the parts {sorted(parts)} are not all JSON ({error}); give texts, finite numbers, booleans, "
            "None, or lists and dictionaries of them"
        ) from error
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@dataclass
class _Shard:
    """The file of a rank, and how far it has been read: to the end of its last complete record."""

    path: Path
    n_bytes: int = 0
    n_lines: int = 0

    def read(self, notices: list[str]) -> list[Summary]:
        """Read the complete records since the last read; broken lines between them are lost, and named in `notices`."""
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # no further: later bytes may belong to a later state
            file.seek(self.n_bytes)
            lines = file.read(max(size - self.n_bytes, 0)).split(b"\n")[:-1]
        parsed = [_parsed(line) for line in lines]
        n_read = max((index for index, record in enumerate(parsed, start=1) if record is not None), default=0)
        for number, record in enumerate(parsed[:n_read], start=self.n_lines + 1):
            if record is None:
                notices.append(f"{self.path}, line {number} is broken; its summary will be written again")
        self.n_bytes += sum(len(line) + 1 for line in lines[:n_read])
        self.n_lines += n_read
        return [record for record in parsed[:n_read] if record is not None]

    def append(self, descriptor: int, record: Summary) -> None:
        """Write one line, with one system call unless the disk is full or the call is interrupted."""
        fields = asdict(record)
        line = json.dumps({**fields, CRC: _checksum(fields)}).encode() + b"\n"
        written = os.write(descriptor, line)
        while written < len(line):
            written += os.write(descriptor, line[written:])
        self.n_bytes += len(line)
        self.n_lines += 1


def _parsed(line: bytes) -> Summary | None:
    """Return the record of a line; None where the line is broken. Fields of later versions are ignored."""
    try:
        fields = json.loads(line.decode("ascii"))
        record = Summary(fields["key"], fields["text"], fields["finish_reason"], fields["n_tokens"])
        stated = fields.get(CRC)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    types = [type(value) for value in asdict(record).values()]
    whole = types == [str, str, str, int] and stated in (None, _checksum(asdict(record)))
    return record if whole else None


def _checksum(fields: Mapping[str, Any]) -> int:
    """Return the CRC-32 of a record's values; none is stored in records of earlier versions."""
    return zlib.crc32(json.dumps(list(fields.values())).encode())


class SummaryStore:
    """Summaries of all ranks by key; new ones go to this rank's file.

    Reading needs no lock. Writing does: a `with` block waits for another process of the same rank, and then reads what
    it wrote. Two commands of several ranks each must be kept apart before their ranks start: each could hold a lock
    that the other waits for. Threads that share an instance must take turns at writing.

    Args:
        folder: Folder of the shards, `records-<rank>.jsonl`; made by the first write.
        rank: Rank of this process, at least 0. Shards of all ranks of earlier runs are read.
        longest_wait: Seconds to wait at most for another process that writes.

    Attributes:
        notices: Sentences about records that were lost or cut off, in the order of discovery.

    Raises:
        ConfigError: `rank` is negative.
    """

    def __init__(self, folder: Path, rank: int = 0, longest_wait: float = LONGEST_WAIT) -> None:
        if rank < 0:
            raise ConfigError(f"rank={rank}: is no rank of a process; give a number of at least 0")
        self.folder, self.rank, self.longest_wait = folder, rank, longest_wait
        self.notices: list[str] = []
        self._shards: dict[int, _Shard] = {}
        self._records: dict[str, tuple[int, Summary]] = {}  # key -> rank of the shard it is from, record
        self._n_read = 0
        self._lock = FileLock(folder / f"records-{rank}.lock", thread_local=False)
        self._descriptor: int | None = None
        self.refresh()

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __getitem__(self, key: str) -> Summary:
        return self._records[key][1]

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def duplicates(self) -> int:
        """Number of stored records whose key another record has; that of the lowest rank is used."""
        return self._n_read - len(self._records)

    def refresh(self) -> None:
        """Read what all processes appended since the last read, except a line that is still being written."""
        for path in self.folder.glob("records-*.jsonl"):
            name = re.fullmatch(r"records-(0|[1-9][0-9]*)\.jsonl", path.name)
            if name:
                rank = int(name[1])
                shard = self._shards.setdefault(rank, _Shard(path))
                for record in shard.read(self.notices):
                    self._add(rank, record)

    def append(self, records: Sequence[Summary]) -> None:
        """Write records to this rank's shard; once this returns, they survive a kill and a power loss.

        Takes the lock if it is not held yet.

        Args:
            records: New summaries; those whose key is stored already are skipped.

        Raises:
            ConfigError: The folder cannot be written or the disk is full; complete lines stay.
        """
        descriptor, shard = self._open(), self._shards[self.rank]
        try:
            for record in records:
                if record.key not in self:
                    shard.append(descriptor, record)
                    self._add(self.rank, record)
            os.fsync(descriptor)
        except OSError as error:
            os.ftruncate(descriptor, shard.n_bytes)  # the part of a line that fitted onto a full disk
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Release the lock; the store can still be read."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            self._lock.release()

    def _add(self, rank: int, record: Summary) -> None:
        """Index a record; which of several duplicates is used does not depend on the order of reading."""
        self._n_read += 1
        if record.key not in self or rank < self._records[record.key][0]:
            self._records[record.key] = (rank, record)

    def _open(self) -> int:
        """Lock this rank's shard, read what others wrote meanwhile, cut off a torn end, and return the descriptor."""
        if self._descriptor is None:
            path = self.folder / f"records-{self.rank}.jsonl"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._wait()
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            except OSError as error:
                self._lock.release()
                raise self._unwritable(error) from error
            self.refresh()
            self._cut_off_torn_end(self._descriptor, self._shards[self.rank])
        return self._descriptor

    def _cut_off_torn_end(self, descriptor: int, shard: _Shard) -> None:
        """Truncate an end that cannot be read: under the lock no process is writing, so it never will be readable."""
        torn = os.fstat(descriptor).st_size - shard.n_bytes
        if torn:
            os.ftruncate(descriptor, shard.n_bytes)
            self.notices.append(f"{shard.path}: cut off the last {torn} bytes, half-written by a run that was killed")

    def _wait(self) -> None:
        waiting = f"waiting for another process of rank {self.rank} that writes summaries into {self.folder}"
        wait_for(self._lock, lambda: print(waiting, file=sys.stderr, flush=True), self.longest_wait)

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(
            f"summaries cannot be written into {self.folder} ({error.strerror}); free space, or set data.root to a "
            "folder of yours, and start again: what was written is kept"
        )
