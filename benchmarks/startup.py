"""What `train.py` and `evaluate.py` cost before they do anything: `python -m benchmarks.startup`.

Each row compares a command with the least that it can take, alternately, in one run:

- `--help` with that of an empty Hydra program that has the same `conf/`;
- the start to the first training step, on augmented photos of the sample, checked before, with that of importing torch
  and Lightning and building ResNet34;
- one photo predicted by `evaluate.py predict=`, with test-time augmentation, with the same imports and network.

Prints the CPU seconds of each, medians with one thread, as JSON: other programs hardly change them. Where nothing else
runs, they are the seconds that a user waits.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.settings import from_command_line
from dogscats.data.loading.sample_data import draw_sample

REPOSITORY = Path(__file__).parent.parent

EMPTY = """
import hydra
hydra.main(version_base="1.3", config_path={conf!r}, config_name={name!r})(print)()
"""

IMPORTS_AND_NETWORK = """
import pytorch_lightning, torch
from torchvision.models import resnet34
resnet34()
"""

FIRST_STEP = """
import os, runpy, sys
from dogscats.lesson.classifier import Classifier
Classifier.training_step = lambda *_: os._exit(0)
sys.argv = [{script!r}, *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
"""

RECIPE = ["model.weights=none", "recipe=head_only", "callbacks.lr_finder.before=none", "callbacks.reports=null"]
IN_THE_LOOP = [f"recipe.precompute.{key}" for key in ("precompute=false", "augment=true", "epochs=1")]


@dataclass
class Startup:
    """Settings of the measurement.

    Attributes:
        repetitions: number of repetitions of each measurement.
    """

    repetitions: int = 5


def cpu_seconds(*arguments: str, cwd: Path) -> float:
    """Run Python with one thread, and return the CPU seconds of the process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    """Measure all rows and print them."""
    settings = from_command_line(Startup())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_sample(folder / "photos", train=8, valid=4, test=1)
        data = f"data.root={folder / 'photos'}"
        train, evaluate = (str(REPOSITORY / script) for script in ("train.py", "evaluate.py"))
        cpu_seconds(train, data, *RECIPE, "hydra.run.dir=run", cwd=folder)  # also checks the photos
        commands = {"imports and network": ["-c", IMPORTS_AND_NETWORK]}
        for name, script in (("train", train), ("evaluate", evaluate)):
            empty = folder / f"{name}_empty.py"
            empty.write_text(EMPTY.format(conf=str(REPOSITORY / "conf"), name=name))
            commands |= {f"{name} --help, empty": [str(empty), "--help"], f"{name} --help": [script, "--help"]}
        commands["first step"] = ["-c", FIRST_STEP.format(script=train), data, *RECIPE, *IN_THE_LOOP]
        photo = next((folder / "photos" / "test1").iterdir())
        commands["predict one photo"] = [evaluate, "run=run", f"predict={photo}"]
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(settings.repetitions):
            for name, command in commands.items():
                taken[name].append(cpu_seconds(*command, cwd=folder))
    seconds = {name: round(statistics.median(values), 2) for name, values in taken.items()}
    ratios = {
        f"{name} --help": round(seconds[f"{name} --help"] / seconds[f"{name} --help, empty"], 2)
        for name in ("train", "evaluate")
    }
    for name in ("first step", "predict one photo"):
        ratios[name] = round(seconds[name] / seconds["imports and network"], 2)
    print(json.dumps({"seconds": seconds, "ratios": ratios}))


if __name__ == "__main__":
    main()
