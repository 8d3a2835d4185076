"""Gate for changes that must change no result: runs the same commands in two checkouts and compares what they write.

    python tests/gate.py <checkout A> <checkout B> [--work <folder>] [--reuse] [--only lesson1,small] [--strict]

A is the baseline. Both see the same photos and run on this machine with this Python, on one thread: nothing that
depends on the processor is stored. Weights, metrics, tables, arrays, TensorBoard's scalars, outputs of exported files
and the names of files must be equal to the bit. Differences in texts (pages, cards, configs, logs) and pictures are
notes, and fail with --strict alone. Times, memory and folders are left out.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from itertools import groupby
from pathlib import Path

from gate_files import SIZE, difference, read
from PIL import Image, ImageOps

QUICK = f"data.size={SIZE} data.batch_size=16"
SAMPLE = f"train.py data=sample data.root=photos {QUICK}"
TABLE = f"train.py data.root=table data.labels=labels.csv data.decisions=table/decisions.csv {QUICK}"
TINY = "model=timm model.name=test_resnet model.weights=none"

API = """
import numpy as np
from dogscats import Predictor

predictor = Predictor.load("train")
paths = [f"photos/test1/{number}.jpg" for number in (1, 2, 3)]
predictions, _ = predictor.predict(paths, n_aug=2)
names, scores = zip(*(near for photo in predictor.similar(paths) for near in photo))
heat = np.stack([np.asarray(heat) for _, heat in predictor.explain(predictions)])
np.savez("api.npz", p=predictions.probabilities, unlike=predictions.unlike, names=names, scores=scores, heat=heat)
"""

COPY = """
import pathlib, shutil

shutil.copytree("../../A/lesson1/train", "resume")
pathlib.Path("resume/.unreported").touch()  # as if the run had been interrupted while its report was drawn
"""

CASES: dict[str, dict[str, str]] = {
    "lesson1": {
        "train": f"{SAMPLE} {TINY} callbacks.tta.n_aug=1 logger=[tensorboard,csv]",
        "evaluate": "evaluate.py run=train callbacks.tta.n_aug=2",
        "earlier": "evaluate.py ckpt=train/checkpoints/224_lastlayer.ckpt split=train callbacks.tta.n_aug=0",
        "onnx": "evaluate.py run=train export=onnx",
        "torch": "evaluate.py run=train export=torch",
        "copy": f"-c {shlex.quote(COPY)}",
        "resume": "train.py resume=resume",
    },
    "small": {
        "train": f"{SAMPLE} model=efficientnet_lite0 recipe=small data.fit=pad logger=csv",
        "old_run": "evaluate.py run=../../A/small/train keep=0.9",
        "predict": "evaluate.py run=train predict=photos/test1 explain=true",
        "suspects": "evaluate.py run=train suspects=true",
        "int8": "evaluate.py run=train export=onnx-int8 split=train",
        "api": f"-c {shlex.quote(API)}",
    },
    "adapt": {
        "train": f"{TABLE} model=efficientnet_lite0 recipe=adapt recipe.precompute.cycle_len=3 data.on_bad_image=skip "
        "class_weights=balanced logger=csv",
        "evaluate": "evaluate.py run=train split=test callbacks.tta.n_aug=1",
        "suspects": "evaluate.py run=train suspects=true",
    },
    "gradual": {
        "train": f"train.py data.root=photos/train 'data.group=\"([0-9]+)[.]jpg\"' {QUICK} recipe=gradual "
        "model=timm model.name=test_vit model.weights=none augment=top_down lr=find callbacks.lr_finder.before=all "
        "callbacks.sgdr.fastai_start=true",
    },
    "head_only": {
        "train": f"{SAMPLE} model=resnet34 model.weights=none recipe=head_only activations.views=2 data.fit=squash "
        "+recipe.precompute.schedule=one_cycle logger=[]",
    },
    "ranks": {
        "train": f"{SAMPLE} {TINY} ~recipe.finetune recipe.augmented.cycles=1 callbacks.lr_finder.before=none "
        "callbacks.tta.n_aug=1 trainer=ddp trainer.devices=2 trainer.accelerator=cpu",
    },
    "sweep": {"sweep": f"{SAMPLE.replace('train.py', 'train.py -m')} {TINY} lr=1e-3,1e-2 recipe=head_only"},
    "check": {"check": "-m dogscats.check table --labels labels.csv"},
}
"""Commands of each case, by the folder that they write to. They run in the folder of the case, in this order."""

EXIT_CODES = {"check": 1}
"""Of commands that do not end with 0: one photo is damaged."""

NOTES = re.compile(
    r"^(photos|table)/tmp/|(?<!check\.log )text$|pixels$|environment\.json|\.ckpt (?!state_dict)|\.safetensors metadata"
)
"""What is only noted, as `<file> <key>`: names in the cache, texts but what the check prints, pictures, settings."""

MOST_LINES = 3
"""Number of differences of a file that are printed."""

Differences = list[tuple[str, str]]
"""What differs, as `<file> <key>`, and how."""


def run(checkout: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a checkout in a folder."""
    script = str(checkout / arguments[0]) if arguments[0].endswith(".py") else arguments[0]
    own = {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, script, *arguments[1:]],
        cwd=folder, env=os.environ | own, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
    )  # fmt: skip


def draw_photos(checkout: Path, work: Path) -> None:
    """Draw the sample by the baseline and keep some of it: `photos`, and `table` with three classes and odd photos."""
    if (work / "table" / "labels.csv").exists():
        return
    quick = ["recipe=head_only", "+trainer.fast_dev_run=true", "data.root=drawn/sample", "hydra.run.dir=drawn/run"]
    drawn = run(checkout, work, "train.py", "data=sample", *TINY.split(), *quick)
    assert drawn.returncode == 0, drawn.stdout
    for split, count in (("train", 25), ("valid", 30), ("test1", 6)):
        for photo in (work / "drawn" / "sample" / split).rglob("*.jpg"):
            if int(photo.stem.rpartition(".")[2]) <= count:
                kept = work / "photos" / photo.relative_to(work / "drawn" / "sample")
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(photo, kept)
    draw_table(sorted((work / "photos").glob("*/*/*.jpg")), work / "table")


def draw_table(photos: list[Path], table: Path) -> None:
    """Copy photos to one folder, inverted ones as a third class; some are large, grey, damaged, twice or decided."""
    (table / "images").mkdir(parents=True)
    labels, decisions = (
        ["path,label,split"],
        ["path,decision,label", "images/3.jpg,drop,", "images/5.jpg,relabel,unsure"],
    )
    for number, photo in enumerate(photos):
        label, picture = photo.parent.name, Image.open(photo).convert("RGB")
        if number % 3 == 0:
            label, picture = "unsure", ImageOps.invert(picture)
        if number % 15 in (1, 2):
            picture = picture.resize((1500, 1200)) if number % 15 == 1 else picture.convert("L")
        picture.save(table / "images" / f"{number}.jpg")
        labels.append(f"images/{number}.jpg,{label},{('train', 'valid', 'train', 'train', 'test')[number % 5]}")
    for copy in (11, 15):  # one in valid, one in train
        shutil.copy(table / "images" / "13.jpg", table / "images" / f"{copy}.jpg")
    (table / "images" / "10.jpg").write_bytes(b"no photo")
    (table / "decisions.csv").write_text("\n".join(decisions) + "\n")
    (table / "labels.csv").write_text("\n".join(labels) + "\n")


def run_case(checkout: Path, folder: Path, steps: dict[str, str]) -> Differences:
    """Run the commands of a case in a new folder with photos, and keep what they print. Return those that failed."""
    shutil.rmtree(folder, ignore_errors=True)
    for photos in ("photos", "table"):
        if photos in str(steps):
            shutil.copytree(folder.parent.parent / photos, folder / photos)
    failed = []
    for step, command in steps.items():
        arguments = shlex.split(command)
        if arguments[0].endswith(".py") and "resume=" not in command:
            arguments.append(f"hydra.{'sweep' if '-m' in arguments else 'run'}.dir={step}")
        started = time.perf_counter()
        result = run(checkout, folder, *arguments)
        print(f"ran {folder.parent.name}/{folder.name}/{step} in {time.perf_counter() - started:.0f} s", flush=True)
        (folder / f"{step}.log").write_text(result.stdout)
        if result.returncode != EXIT_CODES.get(step, 0):
            failed.append((f"{step}.log", f"exit code {result.returncode}: {result.stdout.strip()[-500:]}"))
    return failed


def run_baseline(checkout: Path, folder: Path, steps: dict[str, str], reuse: bool) -> None:
    """Run a case of the baseline, unless results of the same commands and commit are to be reused."""
    commit = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    made, done = f"{commit}{steps}", folder / ".done"
    if reuse and done.exists() and done.read_text() == made:
        return
    if failed := run_case(checkout, folder, steps):
        raise SystemExit(f"The baseline fails: {failed}")
    done.write_text(made)


def files(folder: Path) -> dict[str, Path]:
    """Return the files of a case by name. Those of TensorBoard are named without time, host and process."""
    names = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {re.sub(r"tfevents.*\.", "tfevents.", name): path for name, path in names.items() if name[0] != "."}


def compare(a: Path, b: Path, hidden: list[str]) -> Counter[str]:
    """Compare the folders of a case, and print a line for each command. Count differences by kind."""
    old, new = files(a), files(b)
    kinds = Counter[str]()
    for step, group in groupby(sorted(old.keys() | new.keys()), lambda name: re.split(r"[/.]", name)[0]):
        names, values, found = list(group), 0, []
        for name in names:
            before, after = (read(each[name], hidden) if name in each else {"": "no file"} for each in (old, new))
            pairs = {key: (before.get(key, "none"), after.get(key, "none")) for key in {**before, **after}}
            values += len(pairs)
            found += [(f"{name} {key}", text) for key, pair in pairs.items() if (text := difference(*pair))]
        print(f"{a.name}/{step}: {len(names)} files, {values} values, {len(found)} differ", flush=True)
        kinds += report(found)
    return kinds


def report(found: Differences) -> Counter[str]:
    """Print the first differences of each file. Count all by kind."""
    kinds, printed = Counter[str](), Counter[str]()
    for what, text in found:
        kind, file = "note" if NOTES.search(what) else "DIFFERENT", what.split(" ")[0]
        kinds[kind] += 1
        printed[file] += 1
        if printed[file] <= MOST_LINES:
            print(f"  {kind} {what}: {text}", flush=True)
    for file, count in printed.items():
        if count > MOST_LINES:
            print(f"  ... and {count - MOST_LINES} more of {file}")
    return kinds


def main() -> None:
    """Run and compare the cases; exit with 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", type=Path, help="checkout of the baseline")
    parser.add_argument("b", type=Path, help="checkout to compare with it")
    parser.add_argument("--work", type=Path, default=Path("gate-work"), help="folder of photos and results")
    parser.add_argument("--name", help="folder of B's results in it; by default the name of the checkout")
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas; by default %(default)s")
    parser.add_argument("--reuse", action="store_true", help="keep A's results of the same commit and commands")
    parser.add_argument("--strict", action="store_true", help="also fail at differences in texts and pictures")
    options = parser.parse_args()
    a, b, work = options.a.resolve(), options.b.resolve(), options.work.resolve()
    results = {"A": work / "A", "B": work / (options.name or b.name)}
    if results["B"].name in ("A", "photos", "table", "drawn"):
        parser.error(f"{results['B']} is in use: choose another --name.")
    work.mkdir(parents=True, exist_ok=True)
    for checkout in (a, b):
        imported = run(checkout, work, "-c", "import dogscats; print(dogscats.__file__)").stdout.strip()
        assert imported == str(checkout / "dogscats" / "__init__.py"), f"{checkout} runs the code of {imported}"
    draw_photos(a, work)
    hidden = sorted(map(str, (a, b, *results.values())), key=len, reverse=True)
    total, started = Counter[str](), time.perf_counter()
    for case in options.only.split(","):
        run_baseline(a, results["A"] / case, CASES[case], options.reuse)
        failed = run_case(b, results["B"] / case, CASES[case])
        total += report(failed) if failed else compare(results["A"] / case, results["B"] / case, hidden)
    verdict = "DIFFERENT" if total["DIFFERENT"] or (options.strict and total["note"]) else "equal"
    print(f"{verdict}: {total['DIFFERENT']} differences, {total['note']} notes, {time.perf_counter() - started:.0f} s")
    sys.exit(verdict != "equal")


if __name__ == "__main__":
    main()
