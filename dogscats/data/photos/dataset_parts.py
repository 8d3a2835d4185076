"""Folders and file names that are not classes: parts of a dataset, masks, dates and names of cameras."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from posixpath import splitext

from dogscats.base.text import listed
from dogscats.data.photos.split import SPELLINGS

KINDS = {
    "train": (*SPELLINGS["train"], "trn", "labeled", "labelled"),
    "valid": (*SPELLINGS["valid"], "dev", "development"),
    "test": (*SPELLINGS["test"], "tst", "eval", "evaluation", "holdout", "unlabeled", "unlabelled"),
    "photo": (
        *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "jpg", "jpgs"),
        *("jpeg", "jpegs", "png", "pngs", "jpegimages", "raw", "original", "originals", "rgb"),
        *("input", "inputs", "hr", "lr", "highres", "lowres"),
    ),
    "mask": (
        *("mask", "masks", "annotation", "annotations", "annot", "annots", "label", "labels", "gt", "groundtruth"),
        *("seg", "segs", "segmentation", "segmentations", "bbox", "bboxes", "boxes", "trimap", "trimaps", "depth"),
        *("xml", "xmls", "json", "imagesets", "thumb", "thumbs", "thumbnail", "thumbnails", "contour", "contours"),
        *("matte", "mattes", "heatmap", "heatmaps", "resized", "cropped", "augmented", "processed", "preprocessed"),
        *("target", "targets", "output", "outputs"),
    ),
    "part": ("part", "parts", "batch", "fold", "chunk", "shard", "subset", "dataset", "archive", "volume", "vol"),
    "": ("set", "sets", "data", "files", "folder", "public", "private"),
}
"""Words in the names of a dataset's parts; those of the kind "" say nothing."""

KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}

NEVER_CLASSES = (
    r"(?:^|_)(?:annot(?:ation)?s?|ground_?truths?|segmentations?|bbox(?:es)?|trimaps?|image_?sets|un_?labell?ed|unsorted)"
    r"(?:$|_)"
)
"""Names of folders that are not classes even among others."""

OBJECTS = {"mask", "label", "boxes", "depth", "contour", "target", "targets", "output", "outputs"}
"""Words of masks that may also be what a class has more than another: `face` and `face_mask`."""

CLASS_WORDS = {"class", "type", "category", "grade", "level", "label", "stage", "kind", "digit", "number", "star"}
"""Words before a number that tells classes apart: `type_1`, `type_2`."""

YEAR, MONTH = r"(?:19|20)\d\d", r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}"

WEEKDAY = r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}"

DATE_OR_CAMERA = re.compile(
    rf"(?i){YEAR}([-_. ])[01]?\d\1[0-3]?\d(?:[-_. T].*)?|{YEAR}[01]\d[0-3]\d(?:[-_ T].*)?|"
    rf"{YEAR}[-_. ](?:0?[1-9]|1[0-2])|{YEAR}[-_. ]*{MONTH}|(?:[0-3]?\d[-_. ]*)?{MONTH}[-_. ]*{YEAR}|"
    rf"[0-3]?\d[-_.][01]?\d[-_.](?:{YEAR}|\d\d)|[1-9]\d\d[A-Z_]{{5}}|DCIM"
)
"""Names of folders that cameras and photo managers make."""

MASK = (
    "(?:masks?|annot(?:ation)?s?|labels?|gt|ground_?truth|segs?|segmentations?|trimaps?|mattes?|contours?|"
    "thumb(?:nail)?s?)"
)

AFFIX = re.compile(rf"[ _.-]+{MASK}(?:[ _.-]*\d+)?$|^{MASK}[ _.-]+", re.IGNORECASE)
"""What the name of a mask has besides that of its photo."""

CAMERA = r"(?:img|_?dsc[a-z]?|pxl|mvimg|cimg|dji|imgp|fb_img|gopr[a-z]?|whatsapp image|whatsapp video)"

GENERIC = (
    r"(?:image|images|photo|foto|picture|pic|scan|screen ?shots?|bildschirmfoto|captura(?: de pantalla)?|frame|file|"
    r"page|untitled|unnamed|download|video|clip|copy|snapshot|bild|document|new|received)"
)

NO_CLASS = re.compile(
    rf"(?i){CAMERA}[\W_\d]*|{GENERIC}\b.*\d.*|{GENERIC}_*\d.*|(?!n\d{{8}}$).*\d\d[a-z_]?\d\d.*|"
    r".*\d[-_. /]\d+[-_. /]\d.*|.*\d[h:]\d.*|.*\(\d+\).*|\d\d+|(?=.*\d)[0-9a-f]{8,}|.*\bcopy\b.*|.*_(?:jpe?g|png)"
)
"""Beginnings of file names that are dates, times, counters or a camera's; those of ImageNet, n02085620, are classes."""


def _words(name: str) -> list[str]:
    """Split a name into words and numbers: `trainSet_01` into train, set and 01."""
    return [word.lower() for word in re.findall(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|[^\W\d_]+", name)]


def _kinds(name: str) -> set[str]:
    """Return the kinds of parts that a name tells of."""
    words = _words(name)
    return {kind for word in ("".join(words), *words) if (kind := KIND_OF.get(word))}


def _rest(name: str) -> tuple[str, ...]:
    """Return the words of a name that tell of no part, without numbers."""
    words = _words(name)
    if "".join(words) in KIND_OF:
        return ()
    rest = tuple(word for word in words if word not in KIND_OF and not word.isdecimal())
    return () if all(len(word) == 1 for word in rest) else rest


def parts_among(names: Sequence[str]) -> list[str]:
    """Return the names that look like parts of a dataset, not classes: splits, photos and masks, numbered parts.

    `train_images` and `test_images` are parts, and so are `images` and `masks`, and `images_001` and `images_002`;
    `mask` and `no_mask` are classes.
    """
    dates = [name for name in names if DATE_OR_CAMERA.fullmatch(name)]
    if len(dates) > 1 and 2 * len(dates) > len(names):
        return dates
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        alike[_rest(name)].append(name)
    for rest, group in alike.items():
        kinds = [_kinds(name) for name in group]
        every = set[str]().union(*kinds)
        if len(group) < 2:
            continue
        masks = [
            name for name, kind in zip(group, kinds, strict=True) if kind == {"mask"} and not OBJECTS & {*_words(name)}
        ]
        if rest and masks and set() in kinds:  # `cats` and `cats_masks`
            return masks
        if ("train" in every and every & {"valid", "test"}) or ({"photo"} in kinds and {"mask"} in kinds):
            return group
        words = [[word for word in _words(name) if not word.isdecimal()] for name in group]
        numbered = all(each == words[0] for each in words)
        classes = numbered and (every <= {"mask"} or CLASS_WORDS & {*words[0]})
        if len(group) == len(names) and all(kinds) and not classes:
            return group
    return [name for name in names if re.search(NEVER_CLASSES, "_".join(_words(name)))]


def numbered_note(names: Sequence[str]) -> list[str]:
    """Point to folders whose names differ by a number alone, as those of sessions, days and patients do."""
    words = {tuple(word for word in _words(name) if not word.isdecimal()) for name in names}
    (first, *_) = [*words, ()]
    if len(names) < 2 or len(words) > 1 or CLASS_WORDS & {*first} or all(len(word) == 1 for word in first):
        return []
    return [
        f"{listed(names, 3)} differ by a number alone. If they are not classes, but sessions, days or patients, give "
        "the labels in a table: data.labels=<table>"
    ]


def unlike_classes(where: Path, found: Mapping[str, Sequence[str]], depth: int) -> str:
    """Say which folders look like parts of a dataset, splits or photos and masks; empty if they look like classes.

    Args:
        where: folder that has them.
        found: paths of the photos in each folder.
        depth: number of `/` in the path of a photo that is in such a folder, and in none in it.
    """
    parts = parts_among(list(found))
    nested = all(path.count("/") > depth for paths in found.values() for path in paths)
    splits = {kind: each for each in parts or (found if nested else ()) for kind in _kinds(each) if kind in SPELLINGS}
    if "train" in splits and len(splits) > 1:
        others = " and ".join(f"{splits[split]}/ to {split}/" for split in SPELLINGS if split in splits)
        return (
            f"{listed(list(found))} may be splits or classes. If they are splits, rename {others}, or make links of "
            "these names."
        )
    if parts:
        inner = where / next((each for each in parts if "photo" in _kinds(each)), parts[0])
        choice = f" If {inner.name} has the class folders, set data.root={inner}." if nested else ""
        return (
            f"{listed(parts)} in {where} look like parts of a dataset. If they are classes, rename them; or else move "
            f"them elsewhere.{choice}"
        )
    if masks := masks_among([path for paths in found.values() for path in paths]):
        return f"{len(masks)} files look like masks of other photos: {listed(masks, 3)}. Move them elsewhere."
    return ""


def masks_among(paths: Sequence[str]) -> list[str]:
    """Return the paths that look like masks or annotations of other photos.

    These are `1_mask.png` beside `1.jpg`; and the files of a folder such as `masks/` if they are named after photos
    beside that folder, in `images/` beside it, or, with another extension, in any folder beside it.
    """
    likely = [path for path in paths if re.search(MASK, path, re.IGNORECASE)]
    if not likely:
        return []
    endings: dict[str, set[str]] = defaultdict(set)  # of the files of each path without its ending
    beside: dict[str, set[str]] = defaultdict(set)  # folders in each folder
    for path in paths:
        bare, extension = splitext(path)
        folder = path.rpartition("/")[0]
        endings[bare].add(extension.lower())
        beside[folder.rpartition("/")[0]].add(folder)

    def named_after(path: str) -> bool:
        """Return whether a file in a folder of masks is named after a photo beside that folder."""
        folder, _, name = path.rpartition("/")
        parent, (stem, extension) = folder.rpartition("/")[0], splitext(name)
        bare = AFFIX.sub("", stem) or stem
        others = beside[parent] - {folder}
        if any(f"{each}/{bare}" in endings for each in (parent, *(o for o in others if _is_only(o, "photo")))):
            return True
        elsewhere = [endings[key] for each in others if (key := f"{each}/{bare}") in endings]
        return any(bare != stem or extension.lower() not in each for each in elsewhere)

    found, in_folders = list[str](), defaultdict[str, list[str]](list)
    for path in likely:
        folder, _, name = path.rpartition("/")
        stem = splitext(name)[0]
        bare = AFFIX.sub("", stem)
        if bare not in ("", stem) and path.removesuffix(name) + bare in endings:
            found.append(path)
        elif _is_only(folder, "mask") or AFFIX.sub("", folder) in beside[folder.rpartition("/")[0]] - {folder}:
            in_folders[folder].append(path)
    for masks in in_folders.values():
        found += masks if all(map(named_after, masks)) else []
    return found


def _is_only(folder: str, kind: str) -> bool:
    """Return whether the name of a folder has words of one kind alone."""
    name = folder.rpartition("/")[2]
    return _kinds(name) == {kind} and not _rest(name)


def flat_classes(images: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Group flat file names, `<class>.<number>.jpg`, by class.

    Returns:
        The names of each class; and those whose beginning is not a class: a date, a time, a counter or a camera's.
    """
    found: dict[str, list[str]] = defaultdict(list)
    unknown = []
    for image in images:
        name, *rest = image.split(".")
        numbers = [part for part in rest[:-1] if part.isdecimal()]
        numbered = any(char.isdecimal() for part in rest[:-1] for char in part)
        abbreviation = re.match(r"[^.]*\.\s", image)  # `Dr. Smith 1.jpg`
        time = re.match(r"[^.]*\W(?:[01]?\d|2[0-3])\.[0-5]\d\b", image)  # `Sunset at 10.20.jpg`
        date = len(numbers) > 1 and any(re.fullmatch(YEAR, number) for number in numbers)  # `Jan.1.2020.jpg`
        several = name.isdecimal() and len(rest) > 2
        if numbered and name.strip() and not (NO_CLASS.fullmatch(name) or abbreviation or time or date or several):
            found[name].append(image)
        else:
            unknown.append(image)
    texts = {name: re.sub(r"\d+", "", name) for name in found if re.search(r"\d", name)}
    same_text = Counter(
        text for name, text in texts.items() if text not in ("", "n") and not CLASS_WORDS & {*_words(name)}
    )
    generic = any(all(re.fullmatch(f"(?i){kind}", name) for name in found) for kind in (GENERIC, MONTH, WEEKDAY))
    for name in [name for name in found if generic or same_text[texts.get(name, "")] > 1]:
        unknown += found.pop(name)
    return dict(sorted(found.items())), unknown
