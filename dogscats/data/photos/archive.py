"""Verify a zip archive of a dataset and unpack it safely: the whole dataset, or nothing."""

import errno
import os
import shutil
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from dogscats.base.console import bytes_bar
from dogscats.base.errors import UserError
from dogscats.base.files import digest
from dogscats.base.text import shown, without_password

CHUNK = 1 << 20
"""Bytes copied at a time."""

MIN_ENTRY_BYTES = 200
"""Smallest accepted mean size of the archive's entries, in bytes: smaller entries are not photos, and so many of them
fill the disk's tables."""

MAX_RATIO = 20
"""Largest accepted ratio of unpacked size to archive size, against zip bombs: photos hardly compress."""

REFUSED = "The archive was refused and removed"


def verify(archive: Path, url: str, sha256: str | None) -> None:
    """Check that `archive` is a zip archive and matches its SHA-256, if known.

    Raises:
        UserError: if it does not.
    """
    if not zipfile.is_zipfile(archive):
        raise UserError(f"{named(url)}: the download is not a whole zip archive; it was removed.")
    if sha256 is not None:
        found = digest(archive)
        if found != sha256.lower():
            raise UserError(
                f"{named(url)}: the SHA-256 of the download is {found}, but data.sha256={sha256}; it was removed. "
                "Try again, or correct data.sha256."
            )


def unpack(archive: Path, root: Path) -> None:
    """Unpack a dataset to `root`, which appears only when complete.

    Args:
        archive: zip archive with `train/`, at the top level or in one folder.
        root: folder to create; an empty folder is replaced.

    Raises:
        UserError: if the archive is damaged, has no `train/`, or is unsafe: path traversal, links, or content of more
            than `MAX_RATIO` times its size.
        OSError: if disk space is insufficient.
    """
    unfinished = root.with_name(f".{root.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed run
    try:
        try:
            with zipfile.ZipFile(archive) as content:
                members = [member for member in content.infolist() if not member.is_dir()]
                total = _check_members(content.infolist(), archive.stat().st_size)
                check_room(root.parent, total)
                with bytes_bar("Unpacking", total) as bar:
                    for member in members:
                        _extract(content, member, unfinished)
                        bar.update(member.file_size)
        except UserError:
            raise
        except Exception as error:  # a damaged archive can raise almost anything
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise UserError(f"The archive for {root} is damaged ({error}); it was removed. Try again.") from error
        tops = [unfinished, *sorted(unfinished.iterdir())] if unfinished.exists() else []
        found = [top for top in tops if (top / "train").is_dir()]
        if not found:
            raise UserError(f"The archive for {root} has no folder train/; it was removed. Check data.url.")
        os.sync()
        found[0].replace(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_members(members: Sequence[zipfile.ZipInfo], archive_bytes: int) -> int:
    """Refuse an unsafe archive; return its unpacked size in bytes."""
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or PureWindowsPath(name).drive:
            raise UserError(f"{REFUSED}: {name!r} leads out of its folder.")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{REFUSED}: {name!r} is a link or a device.")
    if len(members) * MIN_ENTRY_BYTES > archive_bytes + 1000 * MIN_ENTRY_BYTES:
        raise UserError(
            f"{REFUSED}: its {megabytes(archive_bytes)} have {len(members):,} entries, too small for photos."
        )
    total = sum(member.file_size for member in members)
    if total > MAX_RATIO * archive_bytes:
        raise UserError(
            f"{REFUSED}: its {megabytes(archive_bytes)} would unpack to {megabytes(total)}, more than {MAX_RATIO} "
            "times as much."
        )
    return total


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Extract a file; zipfile reads at most the size declared in the header, and checks the CRC."""
    path = folder / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as source, path.open("xb") as out:
        shutil.copyfileobj(source, out, CHUNK)
    if path.stat().st_size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} is truncated")


def check_room(folder: Path, needed: int) -> None:
    """Refuse to fill the disk.

    Raises:
        OSError: if `needed` bytes are not free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{megabytes(needed)} are needed, but only {megabytes(free)} are free", str(folder))


def megabytes(size: int) -> str:
    """Return a size in bytes as text in megabytes."""
    return f"{size / 1e6:,.1f} MB"


def named(url: str) -> str:
    """Return the address of an archive as messages name it, without a password."""
    return f"data.url={shown(without_password(url))}"
