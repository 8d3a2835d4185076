"""Download a dataset as a zip archive, verify it and unpack it safely: the whole dataset, or nothing."""

import base64
import errno
import http.client
import logging
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

from dogscats.base.console import bytes_bar
from dogscats.base.errors import UserError, as_user_error
from dogscats.base.files import digest, unfinished_folder
from dogscats.base.locks import locked
from dogscats.base.text import shown, without_password

log = logging.getLogger(__name__)

LESSON_URL = "http://files.fast.ai/data/dogscats.zip"
KNOWN_BYTES = {LESSON_URL: 857_214_334}
"""Known archive sizes, in bytes."""

ATTEMPTS = 6
PAUSE = 1.0
"""Seconds before the second attempt; doubled for each further attempt."""
TIMEOUT = 30
"""Seconds without data after which a connection counts as interrupted."""

MIN_BYTES_PER_SECOND, WINDOW = 1000, 60
"""Slowest accepted transfer, in bytes per second over a window of so many seconds."""

RESERVE = 500_000_000
"""Bytes of disk space that a download of unknown size leaves free."""

CHUNK = 1 << 20
"""Bytes copied at a time."""

MIN_ENTRY_BYTES = 200
"""Smallest accepted mean size of the archive's entries, in bytes: smaller entries are not photos, and so many of them
fill the disk's tables."""

MAX_RATIO = 20
"""Largest accepted ratio of unpacked size to archive size, against zip bombs: photos hardly compress."""

REFUSED = "The archive was refused and removed"


class CutConnectionError(Exception):
    """An interrupted or incomplete transfer."""


def download_dataset(url: str, root: Path, sha256: str | None = None) -> None:
    """Download a zip archive and unpack it to `root`, unless `root/train/` exists.

    Interrupted downloads are resumed, also by a later call: the partial file is kept next to `root` as
    `.<root>.zip.part`. `root` appears only when everything is unpacked.

    Args:
        url: address of the archive, with `train/` at the top level or in one folder.
        root: folder to create; an empty folder is replaced.
        sha256: SHA-256 of the archive, 64 hex digits; `None` if unknown. The CRC of each file is always checked.

    Raises:
        UserError: if `root` contains other files, disk space is insufficient, the download fails, or the archive is
            unexpected or unsafe. `root` is not created then.
    """
    root = root.resolve()
    archive = root.with_name(f".{root.name}.zip.part")
    with as_user_error(f"data.root={root}", "the dataset cannot be stored there", errors=OSError):
        root.parent.mkdir(parents=True, exist_ok=True)
        # If two runs need the dataset, one downloads it and the other waits.
        with locked(root.with_name(f".{root.name}.lock"), f"{root}"):
            if (root / "train").is_dir():
                return
            if root.exists() and any(root.iterdir()):
                raise UserError(
                    f"data.root={root}: it holds something, but no train/. Choose another folder for the download."
                )
            log.info("Downloading %s to %s", without_password(url), shown(root))
            fetch(url, archive)
            try:
                if not zipfile.is_zipfile(archive):
                    raise UserError(f"{named(url)}: the download is not a whole zip archive; it was removed.")
                if sha256 is not None and (found := digest(archive)) != sha256.lower():
                    raise UserError(
                        f"{named(url)}: the SHA-256 of the download is {found}, but data.sha256={sha256}; it was "
                        "removed. Try again, or correct data.sha256."
                    )
                unpack(archive, root)
            except UserError:
                # A bad archive must not be resumed by the next attempt.
                archive.unlink(missing_ok=True)
                raise
            archive.unlink()


def fetch(url: str, file: Path) -> None:
    """Download `url` to `file`. Resume a partial file, and retry interrupted connections.

    Raises:
        UserError: if the server refuses, is unreachable in `ATTEMPTS` attempts, or returns a web page instead.
        OSError: if `file` cannot be written, or disk space is insufficient for the archive and its content.
    """
    if not _is_web_address(url):
        raise UserError(f"{named(url)}: expected an address that begins with http:// or https://.")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_rest(url, file)
            return
        except CutConnectionError as error:
            reason = str(error)
        if attempt < ATTEMPTS:
            pause = PAUSE * 2 ** (attempt - 1)
            log.info("%s; retrying in %.0f s (attempt %d of %d)", reason, pause, attempt + 1, ATTEMPTS)
            time.sleep(pause)
    kept = f" The {megabytes(file.stat().st_size)} already downloaded are kept." if file.exists() else ""
    raise UserError(
        f"{named(url)}: it cannot be downloaded ({reason}).{kept}\n"
        "Try again later, or download and unpack the archive yourself and set data.root=<folder>."
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to web addresses only, and not from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Refuse other addresses."""
        if not newurl.startswith("https://" if req.full_url.startswith("https://") else ("http://", "https://")):
            raise UserError(f"{named(req.full_url)}: a redirect to {shown(newurl)} was refused.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(url: str, done: int) -> urllib.request.Request:
    """Make the request for the rest of a file; user and password in the address become a header."""
    parts = urlsplit(url)
    headers = {"Range": f"bytes={done}-"} if done else {}
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(user).decode()}"
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return urllib.request.Request(url, headers=headers)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # may raise
    except ValueError:
        return False


def _fetch_rest(url: str, file: Path) -> None:
    """Make one attempt to download the missing rest of `file`."""
    done = file.stat().st_size if file.exists() else 0
    try:
        response = urllib.request.build_opener(_Redirects).open(_request(url, done), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{done}":
                return  # nothing is missing
            file.unlink()
            raise CutConnectionError("the partial file does not match the server's file") from error
        refused = f"the server responded with {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise CutConnectionError(refused) from error
        raise UserError(f"{named(url)}: {refused}. Check the address.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise CutConnectionError(f"the server cannot be reached: {reason or type(error).__name__}") from error
    with response:
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise UserError(f"{named(url)}: the server returned a web page instead of an archive. Check the address.")
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if not resumed:
            done = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            file.unlink()
            raise CutConnectionError("the server returned another byte range than requested")
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdecimal() else None
        expected = KNOWN_BYTES.get(url, total)
        if total is not None and total != expected:
            file.unlink(missing_ok=True)
            raise UserError(f"{named(url)}: it has {total:,} bytes instead of {expected:,}.")
        # The content of a photo archive is about as large as the archive.
        _check_room(file.parent, 2 * expected - done if expected else 0)
        with file.open("ab" if resumed else "wb") as out, bytes_bar("Downloading", expected, done) as bar:
            started, before = time.monotonic(), done
            while True:
                try:
                    chunk = response.read1(CHUNK)  # at most: it does not wait for more
                except (OSError, http.client.HTTPException) as error:
                    raise CutConnectionError(f"the connection was interrupted after {megabytes(done)}") from error
                if not chunk:
                    break
                out.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
                if expected is None and shutil.disk_usage(file.parent).free < RESERVE:
                    out.close()
                    file.unlink()  # it would never fit
                    full = f"the archive, of unknown size, fills the disk: {megabytes(done)} so far"
                    raise OSError(errno.ENOSPC, full)
                if time.monotonic() - started > WINDOW:
                    if done - before < MIN_BYTES_PER_SECOND * WINDOW:
                        raise CutConnectionError(f"the server is too slow: {megabytes(done - before)} in {WINDOW} s")
                    started, before = time.monotonic(), done
    if expected is not None and done != expected:
        raise CutConnectionError(f"the connection was interrupted after {megabytes(done)} of {megabytes(expected)}")


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
    with unfinished_folder(root) as unfinished:
        try:
            with zipfile.ZipFile(archive) as content:
                total = _check_members(content.infolist(), archive.stat().st_size)
                _check_room(root.parent, total)
                with bytes_bar("Unpacking", total) as bar:
                    for member in content.infolist():
                        if not member.is_dir():
                            _extract(content, member, unfinished / member.filename)
                            bar.update(member.file_size)
        except Exception as error:  # a damaged archive can raise almost anything
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
            if full or isinstance(error, UserError):
                raise
            raise UserError(f"The archive for {root} is damaged ({error}); it was removed. Try again.") from error
        found = [top for top in (unfinished, *sorted(unfinished.glob("*"))) if (top / "train").is_dir()]
        if not found:
            raise UserError(f"The archive for {root} has no folder train/; it was removed. Check data.url.")
        os.sync()
        found[0].replace(root)


def _check_members(members: Sequence[zipfile.ZipInfo], archive_bytes: int) -> int:
    """Refuse an unsafe archive; return its unpacked size in bytes."""
    size = megabytes(archive_bytes)
    for member in members:
        name, parts = member.filename, PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or PureWindowsPath(name).drive:
            raise UserError(f"{REFUSED}: {name!r} leads out of its folder.")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{REFUSED}: {name!r} is a link or a device.")
    if len(members) * MIN_ENTRY_BYTES > archive_bytes + 1000 * MIN_ENTRY_BYTES:
        raise UserError(f"{REFUSED}: its {size} have {len(members):,} entries, too small for photos.")
    total = sum(member.file_size for member in members)
    if total > MAX_RATIO * archive_bytes:
        raise UserError(
            f"{REFUSED}: its {size} would unpack to {megabytes(total)}, more than {MAX_RATIO} times as much."
        )
    return total


def _extract(content: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Extract a file; zipfile reads at most the size declared in the header, and checks the CRC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with content.open(member) as source, path.open("xb") as out:
        shutil.copyfileobj(source, out, CHUNK)
    if path.stat().st_size != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename} is truncated")


def _check_room(folder: Path, needed: int) -> None:
    """Refuse to fill the disk: raise OSError if `needed` bytes are not free."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{megabytes(needed)} are needed, but only {megabytes(free)} are free", str(folder))


def megabytes(size: int) -> str:
    """Return a size in bytes as text in megabytes."""
    return f"{size / 1e6:,.1f} MB"


def named(url: str) -> str:
    """Return the address of an archive as messages name it, without a password."""
    return f"data.url={shown(without_password(url))}"
