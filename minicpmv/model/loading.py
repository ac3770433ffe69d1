"""Strict loading, for every model class of the package.

transformers fills a tensor that a checkpoint lacks with random numbers and prints a table. Here
that is an error, one line, with the names as they stand in the released files.
"""

import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


class StrictLoading:
    """Stands before `PreTrainedModel` in a class's bases; makes `from_pretrained` strict."""

    # What a checkpoint may lack, by the start of its name: it is trained next.
    _fresh_on_load: tuple[str, ...] = ()

    @staticmethod
    def released_name(name: str) -> str:
        """The name in released files of our parameter `name`."""
        return name

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, strictly: a missing, extra or mis-shaped tensor is a named error.

        As in transformers otherwise. Who passes `output_loading_info=True`,
        `ignore_mismatched_sizes=True` or a `state_dict` of their own looks at the differences
        themselves.

        Raises:
            ValueError: the checkpoint's tensors are not the model's.
            OSError: a file is missing, damaged or cut short.
        """
        load = super().from_pretrained  # type: ignore[misc]
        looks_itself = (
            kwargs.get("output_loading_info")
            or kwargs.get("ignore_mismatched_sizes")
            or kwargs.get("state_dict") is not None
        )
        if looks_itself:
            return load(pretrained_model_name_or_path, *args, **kwargs)
        logger = logging.getLogger("transformers.modeling_utils")
        logger.addFilter(_is_no_load_report)
        try:
            model, info = load(
                pretrained_model_name_or_path,
                *args,
                **kwargs,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that all differences are reported at once
            )
        except SafetensorError as error:
            raise OSError(
                f"{_damaged_file(pretrained_model_name_or_path)} is damaged or not complete "
                f"({error}). Download it again."
            ) from error
        finally:
            logger.removeFilter(_is_no_load_report)
        missing = [cls.released_name(name) for name in info["missing_keys"]]
        fresh = [name for name in missing if name.startswith(cls._fresh_on_load)]
        problems = [
            _list_problem("missing", [name for name in missing if name not in fresh]),
            _list_problem(
                "unexpected", [cls.released_name(name) for name in info["unexpected_keys"]]
            ),
            _list_problem(
                "of another shape",
                [
                    f"{cls.released_name(name)} {tuple(found)}, expected {tuple(expected)}"
                    for name, found, expected in info["mismatched_keys"]
                ],
            ),
        ]
        if any(problems):
            raise ValueError(
                f"The tensors of {str(pretrained_model_name_or_path)!r} are not those of its "
                f"config: {'; '.join(filter(None, problems))}. Download the checkpoint again, or "
                "check that config.json belongs to it."
            )
        if fresh:
            logger.warning(
                f"{', '.join(fresh)} is not in {str(pretrained_model_name_or_path)!r} and starts "
                "with random numbers: train it before use."
            )
        return model


def _is_no_load_report(record: logging.LogRecord) -> bool:
    """transformers prints a table of the differences that we raise as one line."""
    message = record.getMessage()
    return "LOAD REPORT" not in message or "CONVERSION" in message


def _damaged_file(folder: Any) -> str:
    for path in sorted(Path(str(folder)).glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError:
            return repr(str(path))
    return f"A weight file of {str(folder)!r}"


def _list_problem(kind: str, names: list[str], most: int = 6) -> str:
    """ "2 missing: a, b"; empty without names."""
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {kind}: {', '.join(sorted(names)[:most])}{more}"
