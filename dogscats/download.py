"""Fetch a dataset's archive, verify it and unpack it: the whole dataset, or nothing."""

import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock

from dogscats.console import bytes_bar
from dogscats.errors import UserError

log = logging.getLogger(__name__)

LESSON_URL = "http://files.fast.ai/data/dogscats.zip"
KNOWN_BYTES = {LESSON_URL: 857_214_334}
"""Sizes of archives that are known beforehand."""

ATTEMPTS = 6
PAUSE = 1.0
"""Seconds before the second attempt; doubled before each further one."""
TIMEOUT = 30
"""Seconds without a byte after which a connection counts as cut."""
CHUNK = 1 << 20

MAX_RATIO = 20
"""An archive that would unpack to more than this many times its size is refused: photos hardly shrink."""


class CutConnectionError(Exception):
    """A transfer that ended before the file did."""


def download_dataset(url: str, root: Path, sha256: str | None = None) -> None:
    """Download a zip archive and unpack it to `root`, unless `root/train/` is there.

    A cut connection is resumed, by the next call too: what has come is kept beside `root` as
    `.<root>.zip.part`. `root` appears when everything is unpacked.

    Args:
        url: of the archive, with `train/` at its top or in one folder.
        root: the folder to create; an empty one is taken over.
        sha256: of the archive, 64 hex digits; `None` if unknown. Each file has a checksum in any case.

    Raises:
        UserError: if `root` holds something else, there is too little room, the server does not give the
            archive, or the archive is not what was expected or not safe. Nothing is left at `root`.
    """
    root = root.resolve()
    if (root / "train").is_dir():
        return
    archive = root.with_name(f".{root.name}.zip.part")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # Of two runs that want the dataset one fetches it, and the other waits for it.
        with FileLock(root.with_name(f".{root.name}.lock")):
            if (root / "train").is_dir():
                return
            if root.exists() and any(root.iterdir()):
                raise UserError(
                    f"data.root={root}: it holds something, but no train/; choose another folder for the "
                    "download."
                )
            log.info("Downloading %s to %s", url, root)
            fetch(url, archive)
            try:
                verify(archive, url, sha256)
                unpack(archive, root)
            except UserError:
                # Whatever is wrong with it, a further attempt must not build on it.
                archive.unlink(missing_ok=True)
                raise
            archive.unlink()
    except OSError as error:
        raise UserError(f"data.root={root}: the dataset cannot be stored there ({error}).") from error


def fetch(url: str, file: Path) -> None:
    """Download `url` to `file`, going on with what is there already, and after cut connections.

    Raises:
        UserError: if the server does not give it, is not reached in `ATTEMPTS` attempts, or gives a web page
            in its place.
        OSError: if `file` cannot be written, or there is too little room for it and its content.
    """
    if not re.match("https?://", url):
        raise UserError(f"data.url={url}: expected an address that begins with http:// or https://.")
    pause = PAUSE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_rest(url, file)
            return
        except CutConnectionError as error:
            reason = str(error)
        if attempt < ATTEMPTS:
            log.info("%s; trying again in %.0f s (%d of %d)", reason, pause, attempt + 1, ATTEMPTS)
            time.sleep(pause)
            pause *= 2
    kept = f" The {_mb(file.stat().st_size)} that have come are kept." if file.exists() else ""
    raise UserError(
        f"data.url={url}: it cannot be downloaded ({reason}).{kept}\n"
        "Try again later, or get the archive in another way, unpack it and pass data.root=<folder>."
    )


def _fetch_rest(url: str, file: Path) -> None:
    """Make one attempt to get what `file` has not yet of `url`."""
    done = file.stat().st_size if file.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{done}":
                return  # nothing is missing
            file.unlink()
            raise CutConnectionError("what had come does not fit the server's file") from error
        if error.code >= 500 or error.code in (408, 429):
            raise CutConnectionError(f"the server answers {error.code} {error.reason}") from error
        raise UserError(
            f"data.url={url}: the server answers {error.code} {error.reason}. Check the address."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise CutConnectionError(f"the server is not reached: {reason or type(error).__name__}") from error
    with response:
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise UserError(f"data.url={url}: the server gives a web page, no archive. Check the address.")
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if not resumed:
            done = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            file.unlink()
            raise CutConnectionError("the server gives another part than was asked for")
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdecimal() else None
        expected = KNOWN_BYTES.get(url, total)
        if total is not None and total != expected:
            file.unlink(missing_ok=True)
            raise UserError(f"data.url={url}: it has {total:,} bytes instead of {expected:,}.")
        # The content of a photo archive is about as large as itself.
        _check_room(file.parent, 2 * expected - done if expected else 0)
        with file.open("ab" if resumed else "wb") as out, bytes_bar("Downloading", expected, done) as bar:
            while True:
                try:
                    chunk = response.read(CHUNK)
                except (OSError, http.client.HTTPException) as error:
                    raise CutConnectionError(f"the connection was cut after {_mb(done)}") from error
                if not chunk:
                    break
                out.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
    if expected is not None and done != expected:
        raise CutConnectionError(f"the connection was cut after {_mb(done)} of {_mb(expected)}")


def verify(archive: Path, url: str, sha256: str | None) -> None:
    """Check that `archive` is a zip archive, and the one that is expected.

    Raises:
        UserError: if not.
    """
    if not zipfile.is_zipfile(archive):
        raise UserError(f"data.url={url}: what was downloaded is not a whole zip archive; it was removed.")
    if sha256 is not None:
        with archive.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise UserError(
                f"data.url={url}: the SHA-256 of what was downloaded is {found}, but data.sha256={sha256}; "
                "it was removed. Try again, or correct data.sha256."
            )


def unpack(archive: Path, root: Path) -> None:
    """Unpack a dataset to `root`, which appears when it is whole.

    Args:
        archive: a zip archive with `train/`, at its top or in one folder.
        root: the folder to create; an empty one is replaced.

    Raises:
        UserError: for an archive that is damaged, has no `train/`, or could do harm: names that lead out of
            the folder, links, or a content of more than `MAX_RATIO` times its size.
        OSError: if there is too little room.
    """
    unfinished = root.with_name(f".{root.name}.unpacking")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    try:
        try:
            with zipfile.ZipFile(archive) as content:
                members = [member for member in content.infolist() if not member.is_dir()]
                total = _check_members(content.infolist(), archive.stat().st_size)
                _check_room(root.parent, total)
                with bytes_bar("Unpacking", total) as bar:
                    for member in members:
                        _extract(content, member, unfinished)
                        bar.update(member.file_size)
        except UserError:
            raise
        except Exception as error:  # a broken archive can raise almost anything
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise UserError(
                f"The archive for {root} is damaged ({error}); it was removed. Try again."
            ) from error
        tops = [unfinished, *sorted(unfinished.iterdir())] if unfinished.exists() else []
        found = [top for top in tops if (top / "train").is_dir()]
        if not found:
            raise UserError(f"The archive for {root} has no folder train/; it was removed. Check data.url.")
        os.sync()
        found[0].replace(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check_members(members: Sequence[zipfile.ZipInfo], archive_bytes: int) -> int:
    """Refuse an archive that could do harm; give the bytes that it unpacks to."""
    for member in members:
        name = member.filename
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or PureWindowsPath(name).drive:
            raise UserError(f"The archive was refused and removed: {name!r} leads out of its folder.")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"The archive was refused and removed: {name!r} is a link or a device.")
    total = sum(member.file_size for member in members)
    if total > MAX_RATIO * archive_bytes:
        raise UserError(
            f"The archive was refused and removed: its {_mb(archive_bytes)} would become {_mb(total)}, more "
            f"than {MAX_RATIO} times as much."
        )
    return total


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path) -> None:
    """Extract a file; zipfile reads no more bytes than the header declares, and checks the CRC."""
    path = folder / member.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as source, path.open("xb") as out:
        shutil.copyfileobj(source, out, CHUNK)
    if path.stat().st_size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} is cut short")


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{_mb(needed)} are needed, but only {_mb(free)} are free", str(folder))


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
