"""Find photos that cannot be decoded before they stop a training."""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dogscats.atomic import atomic_path
from dogscats.cache import fingerprint
from dogscats.console import progress_bar
from dogscats.images import UnreadableImageError, read_image


def unreadable_images(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Decode every photo in full.

    Args:
        root: folder that `paths` are relative to.
        paths: the photos.

    Returns:
        The reason for each photo that cannot be read; empty when all can.
    """

    def reason(path: str) -> str | None:
        try:
            read_image(root / path)
        except UnreadableImageError as error:
            return str(error)
        return None

    # Threads do: the decoders let go of the interpreter's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = progress_bar(pool.map(reason, paths), "Checking photos", len(paths), "photo")
        return {path: why for path, why in zip(paths, reasons, strict=True) if why is not None}


def check_images(root: Path, paths: Sequence[str], cache_dir: Path) -> dict[str, str]:
    """Find unreadable photos, unless the same files were found whole before.

    Args:
        root: folder that `paths` are relative to.
        paths: the photos.
        cache_dir: where the result is remembered, as `checked-<fingerprint>.json`.

    Returns:
        The reason for each photo that cannot be read; empty when all can.
    """
    remembered = cache_dir / f"checked-{fingerprint(root, paths)}.json"
    if remembered.exists():
        return {}
    bad = unreadable_images(root, paths)
    if not bad:
        with atomic_path(remembered) as temporary:
            temporary.write_text(json.dumps({"photos": len(paths)}))
    return bad
