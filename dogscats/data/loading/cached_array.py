"""Arrays cached in files with checksums; all ranks compute one together, each a share of its batches."""

import hashlib
import logging
import math
import mmap
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import distributed

from dogscats.base.console import progress_bar
from dogscats.base.errors import UserError, user_message
from dogscats.base.files import atomic_path, digest, read_json, remove_unfinished, write_json
from dogscats.base.locks import locked

log = logging.getLogger(__name__)

T = TypeVar("T")

VISIBLE_WITHIN = 90
"""Seconds for which a network file system may hide a new file of another machine: NFS's `acdirmax`, and more."""

PART_BYTES = 1 << 20
"""Bytes of an array that are verified at once: a whole number of values, and little enough for the CPU's cache."""


_mapped: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""Maps of the arrays that were read, by their address."""


class Ranks:
    """The ranks of this run, for steps that they take together; without `torch.distributed`, this process alone.

    Attributes:
        rank: index of this rank.
        size: number of ranks.
    """

    def __init__(self, group: Any = None):
        self._group = group
        self.rank, self.size = (distributed.get_rank(), distributed.get_world_size()) if group else (0, 1)

    def each(self, step: Callable[[], T]) -> list[T]:
        """Take a step in every rank, and return the results of all, in the order of ranks.

        Raises:
            UserError: in all ranks, if the step raised one in any of them: none waits for a rank that has failed.
        """
        if self._group is None:
            return [step()]
        value, message, error = None, None, None
        try:
            value = step()
        except Exception as raised:
            message, error = user_message(raised), raised
            if message is None:  # a bug: this process ends, which the others notice
                raise
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, (value, message), self._group)
        if error is not None:
            raise error
        for _, said in found:
            if said is not None:
                raise UserError(said)
        return [value for value, _ in found]


@contextmanager
def all_ranks() -> Iterator[Ranks]:
    """Let the ranks exchange values through the CPU, and wait for each other without a time limit."""
    if not (distributed.is_available() and distributed.is_initialized()):
        yield Ranks()
        return
    group = distributed.new_group(backend="gloo", timeout=timedelta(days=1000))
    try:
        yield Ranks(group)
    finally:
        distributed.destroy_process_group(group)


def cached_array(
    file: Path,
    shape: tuple[int, int],
    share: Callable[[], Iterator[np.ndarray[Any, Any]]],
    batches: int,
    description: str,
) -> torch.Tensor | None:
    """Read an array from the cache, or let all ranks compute it.

    Batch `b` is computed by rank `b % size`, exactly as in a single process, and sent to the ranks that write. One
    rank writes in each folder: rank 0 alone if the machines share the cache folder, or else one rank a machine. If two
    runs need the same array, one computes it and the other waits.

    Args:
        file: the file, `.npy`; its checksum is in `<file>.json`.
        shape: shape of the array.
        share: function that computes this rank's batches of rows, in order.
        batches: number of batches of all ranks.
        description: description for the log and the progress bar.

    Returns:
        The array, float32, memory-mapped; `None` if not all values are finite.

    Raises:
        UserError: in all ranks, if any of them fails.
    """
    with all_ranks() as ranks, ExitStack() as locks:
        if (found := _read(ranks, file, shape)) is not None:
            log.info("Reusing %s: %s", description, file)
            return found
        writes = _lock(ranks, file, locks)
        if (found := _read(ranks, file, shape)) is not None:  # computed by another run in the meantime
            log.info("Reusing %s: %s", description, file)
            return found
        log.info("Computing %s: %s", description, file)
        with ExitStack() as opened:
            outputs: list[BinaryIO] = []
            ranks.each(lambda: outputs.append(opened.enter_context(_array_file(file, shape))) if writes else None)
            mine, rounds = share(), math.ceil(batches / ranks.size)
            for _ in progress_bar(range(rounds), f"Computing {description}", rounds, "batch"):
                for rows in ranks.each(lambda: next(mine, None)):
                    if rows is not None and outputs:
                        outputs[0].write(rows.tobytes())
            ranks.each(opened.close)
        ranks.each(lambda: _wait_for(file.with_suffix(".json")))
        return _read(ranks, file, shape)


def seal_array(file: Path) -> None:
    """Write the checksum of an array, `<file>.json`; without it, `read_array` does not use the array."""
    write_json(file.with_suffix(".json"), {"sha256": digest(file)})


def is_sealed(file: Path) -> bool:
    """Return whether a file is as it was when `seal_array` wrote its checksum."""
    try:
        return file.is_file() and digest(file) == read_json(file.with_suffix(".json"))["sha256"]
    except (OSError, ValueError, TypeError, KeyError):
        return False


def read_array(file: Path, shape: tuple[int, ...]) -> torch.Tensor | None:
    """Memory-map a float32 array; `None` if it is missing or fails its checksum, or has another shape or type."""
    try:
        expected: dict[str, str] = read_json(file.with_suffix(".json"))
        if not file.is_file():  # a pipe would be waited for
            return None
        # Copy-on-write: torch requires writable memory, but the file must not change.
        array = np.load(file, mmap_mode="c")
        good = array.shape == shape and array.dtype == np.float32 and _is_whole(file, array.offset, expected["sha256"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError):
        return None
    if not good:
        return None
    found = torch.from_numpy(array)
    _mapped[found.data_ptr()] = array._mmap
    return found


def release(array: torch.Tensor) -> None:
    """Free the memory for what was read of an array from `read_array`, or of its first columns; it is read again."""
    mapped = _mapped.get(array.data_ptr())
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def _is_whole(file: Path, offset: int, expected: str) -> bool:
    """Return whether the checksum holds and all values are finite. A part at a time is in memory."""
    checksum, finite = hashlib.sha256(), True
    with file.open("rb") as content:
        checksum.update(content.read(offset))
        while part := content.read(PART_BYTES):
            checksum.update(part)
            finite = finite and bool(np.isfinite(np.frombuffer(part, np.float32)).all())
    return finite and checksum.hexdigest() == expected


def _read(ranks: Ranks, file: Path, shape: tuple[int, int]) -> torch.Tensor | None:
    """Read the array; `None` in all ranks unless all of them have it."""
    found = read_array(file, shape)
    return found if all(ranks.each(lambda: found is not None)) else None


def _lock(ranks: Ranks, file: Path, locks: ExitStack) -> bool:
    """Lock the file once in each folder, and return whether this rank has done so.

    Which machines share a folder is found out in the order of ranks: each checks whether an earlier one has left a file
    there.
    """
    mark = file.with_name(f".{file.name}.{ranks.each(lambda: uuid.uuid4().hex)[0]}.part")

    def lock() -> bool:
        if mark.exists():
            return False
        locks.enter_context(locked(file.with_suffix(".lock"), f"{file}"))
        remove_unfinished(file.parent, file.name)
        if ranks.size > 1:
            mark.touch()
            locks.callback(mark.unlink, missing_ok=True)
        return True

    has_locked = False
    for turn in range(ranks.size):
        has_locked |= ranks.each(lock if turn == ranks.rank else lambda: False)[ranks.rank]
    return has_locked


@contextmanager
def _array_file(file: Path, shape: tuple[int, int]) -> Iterator[BinaryIO]:
    """Open a float32 array to append its rows; it becomes `file`, with a checksum, if the block succeeds."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with atomic_path(file) as temporary, temporary.open("wb") as content:
        np.lib.format.write_array_header_1_0(content, header)
        content.flush()
        if hasattr(os, "posix_fallocate"):  # a full disk is noticed now, not hours later
            os.posix_fallocate(content.fileno(), 0, content.tell() + 4 * math.prod(shape))
        yield content
    seal_array(file)


def _wait_for(file: Path) -> None:
    """Wait until a file written by another machine is visible here."""
    waiting = time.monotonic() + VISIBLE_WITHIN
    while not file.exists() and time.monotonic() < waiting:
        time.sleep(0.1)
