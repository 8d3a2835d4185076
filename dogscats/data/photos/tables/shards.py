"""Sets of files that are parts of one table: none may be missing."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dogscats.base.errors import UserError
from dogscats.base.text import listed

SHARD = re.compile(r"(?P<start>.*?)(?P<number>\d+)-of-(?P<count>\d+)(?P<end>.*)")
"""Name of a part of a set, as `datasets` writes it: `train-00000-of-00002-<hash>.parquet`."""

HASH = r"[-_.](?=[a-f-]*\d)(?=[\d-]*[a-f])[0-9a-f-]{5,}"
"""What differs between parts of a set: `-abc123`."""

NUMBERED = re.compile(rf"(?P<start>.*?)(?P<number>\d+)(?P<end>(?:{HASH})?(?:\.\w+)+)")
"""Name of a part by its number alone: `0000.parquet`, `part-00000-<id>.snappy.parquet`."""

PART = re.compile(r"(?:.*[\W_])?(?:part|chunk|shard|batch|fold|split|subset|volume|vol)[\W_]*", re.IGNORECASE)
"""Start of the name of a part, whose number is one of several; another number may be a version, a size or a year."""


def check_shards(files: Sequence[Path], whole: bool = False) -> None:
    """Refuse an incomplete set of files, or two sets of the same name.

    Args:
        files: all files of a dataset.
        whole: whether each file is used on its own.

    Raises:
        UserError: with the names of missing files, as far as they are known.
    """
    sets: dict[tuple[Path, str], dict[str, list[re.Match[str]]]] = defaultdict(lambda: defaultdict(list))
    for file in files:
        if part := SHARD.fullmatch(file.name):
            sets[file.parent, part["start"]][part["count"]].append(part)
        elif not whole and (part := NUMBERED.fullmatch(file.name)):
            sets[file.parent, part["start"]][""].append(part)
    for (folder, start), by_count in sets.items():
        parts = [part for each in by_count.values() for part in each]
        numbers = sorted(int(part["number"]) for part in parts)
        names = sorted(part[0] for part in parts)
        counts = [count for count in by_count if count]
        if whole and int(counts[0]) > 1:
            raise UserError(f"{folder / names[0]}: it is one of {int(counts[0])} parts of a table. Join them into one.")
        if len(counts) > 1 or len(set(numbers)) < len(numbers):
            raise UserError(f"{folder}: {listed(names, 6)} are parts of several sets. Remove those of the older one.")
        width, end = len(parts[0]["number"]), parts[0]["end"]
        padded = width >= 4 and numbers[0] < 10 ** (width - 1)  # of Spark, and of Hugging Face's conversion from 0 on
        dense = len(numbers) > 1 and (numbers[0] <= 1 or numbers[-1] <= 2 * len(numbers))
        if not (counts or padded or dense or PART.fullmatch(start)):
            continue
        if re.search(HASH, end):
            end = f"-*{Path(names[0]).suffix}"

        count = int(counts[0]) if counts else numbers[-1]
        first = 1 if counts else min(numbers[0], 1) if start else 0
        of = f"-of-{counts[0]}" if counts else ""
        name = {number: f"{start}{number:0{width}d}{of}{end}" for number in range(count + 1)}
        missing = [name[number] for number in range(first, count) if number not in numbers]
        if counts and not {0, count} & {*numbers}:  # they may be counted from 0 or 1
            missing.append(f"{name[0]} or {name[count]}")
        if missing:
            raise UserError(
                f"{folder}: {listed(missing, 5)} {'is' if len(missing) == 1 else 'are'} missing. Download "
                f"{'it' if len(missing) == 1 else 'them'} as well."
            )
