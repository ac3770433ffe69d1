"""Everything that `minicpmv train pretrain` can be told. Imports no torch."""

import dataclasses
from pathlib import Path

from minicpmv.train.options import check_options, option

# In the order of `recipe.STAGES`, which needs torch.
STAGE_NAMES = ("dense", "captions", "places", "reading", "pairs", "forms", "slices", "chat")
SIZE_NAMES = ("micro", "tiny", "nano", "small")
DTYPES = ("auto", "bfloat16", "bf16", "float32", "fp32")


def parse_steps(text: str) -> list[int]:
    """The steps of every stage.

    Raises:
        ValueError: not one whole number per stage.
    """
    parts = text.split(",")
    if len(parts) != len(STAGE_NAMES) or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(
            f"give {len(STAGE_NAMES)} numbers, one for each of the stages {', '.join(STAGE_NAMES)}"
        )
    return [int(part) for part in parts]


def parse_cores(text: str) -> tuple[int, ...]:
    """Numbers of processor cores, from "2,3".

    Raises:
        ValueError: not numbers.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError("it is numbers of cores, such as 1 or 2,3")
    return tuple(map(int, parts))


def _check_steps(text: str) -> str:
    try:
        parse_steps(text or ",".join("1" * len(STAGE_NAMES)))
    except ValueError as error:
        return str(error)
    return ""


def _check_cores(text: str) -> str:
    try:
        parse_cores(text)
    except ValueError as error:
        return str(error)
    return ""


def _check_output(text: str) -> str:
    if not text:
        return "give a folder"
    return "that is a file; give a folder" if Path(text).is_file() else ""


def _check_start(text: str) -> str:
    if not text or (Path(text) / "config.json").is_file():
        return ""
    return "there is no config.json in it; give the folder of a checkpoint or of another run"


@dataclasses.dataclass
class PretrainOptions:
    """Options of a pre-training; see the help texts."""

    output: str = option(
        "runs/nano",
        "folder for the checkpoint; a run that was interrupted goes on from there",
        check=_check_output,
    )
    size: str = option("nano", "size of the model: micro, tiny, nano or small", choices=SIZE_NAMES)
    minutes: float = option(
        0.0, "time for all stages together; 0 trains the steps of the recipe", least=0
    )
    steps: str = option(
        "",
        "steps of every stage, such as 4000,800,600,2000,600,400,1000,1500, instead of the "
        "recipe's",
        check=_check_steps,
    )
    batch: int = option(
        1, "multiple of 32 slices per step and process: more for a graphics card", least=1
    )
    learning_rate: float = option(0.006, "of Muon, for the matrices of the layers", above=0)
    adam_learning_rate: float = option(
        0.0015, "of AdamW, for embeddings, norms, resampler and heads", above=0
    )
    weight_decay: float = option(0.01, "of the matrices", least=0)
    warmup_steps: int = option(
        40, "steps until the full learning rate, at the beginning of each stage", least=0
    )
    start: str = option(
        "",
        "checkpoint folder whose weights to start from, instead of random ones",
        check=_check_start,
    )
    seed: int = option(0, "of the weights and the scenes", least=0)
    device: str = option("auto", "cpu, cuda, mps, or auto: the fastest that is there")
    dtype: str = option(
        "auto",
        "of weights and activations: bfloat16, float32, or auto: bfloat16 where the device has "
        "instructions for it; the optimizer keeps float32 copies",
        choices=DTYPES,
    )
    compile: bool = option(
        True,
        "use torch.compile: some four minutes in all before training, a third faster afterwards",
    )
    threads: int = option(0, "threads of the processor for training; 0: one per core", least=0)
    workers: int = option(1, "processes that render; 0 renders in the training process", least=0)
    worker_cores: str = option(
        "",
        "cores for them, such as 1 or 2,3, where the system can bind processes",
        check=_check_cores,
    )
    save_every: int = option(250, "steps between checkpoints", least=1)
    evaluate_every: int = option(250, "steps between looks at held-out scenes", least=1)
    log_every: int = option(25, "steps between progress lines", least=1)

    def check(self) -> None:
        """Raise ValueError for a value out of its range, or one without effect."""
        check_options(self)
        if self.steps and self.minutes:
            raise ValueError("--minutes has no effect beside --steps; give one of them.")
        if self.worker_cores and not self.workers:
            raise ValueError("--worker-cores has no effect with --workers 0.")
