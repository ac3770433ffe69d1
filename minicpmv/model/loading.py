"""Strict loading, for every model class of the package.

transformers fills a tensor that a checkpoint lacks with random numbers and prints a table. Here
that is an error, one line, with the names as they stand in the released files.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..quantization import reader_for
from ..quantization.bits import check_unpacked


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
        has_tensors = kwargs.get("state_dict") is not None
        looks_itself = (
            kwargs.get("output_loading_info")
            or kwargs.get("ignore_mismatched_sizes")
            or has_tensors
        )
        path = pretrained_model_name_or_path
        with _damage_named(path):
            reader = None if has_tensors else reader_for(cls, path, kwargs)
        if reader is not None:
            kwargs = reader.keywords
            if not looks_itself:
                _check_tensors(path, reader.missing, reader.unexpected, [])
        if looks_itself:
            loaded = load(path, *args, **kwargs)
            if reader is not None:
                reader.finish(loaded[0] if isinstance(loaded, tuple) else loaded)
            return loaded
        logger = logging.getLogger("transformers.modeling_utils")
        logger.addFilter(_is_no_load_report)
        try:
            with _damage_named(path):
                model, info = load(
                    path,
                    *args,
                    **kwargs,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # so that all differences are reported at once
                )
        finally:
            logger.removeFilter(_is_no_load_report)
        missing = [cls.released_name(name) for name in info["missing_keys"]]
        fresh = [name for name in missing if name.startswith(cls._fresh_on_load)]
        mismatched = list(info["mismatched_keys"])
        if reader is not None:
            mismatched += [entry for entry in reader.finish(model) if entry not in mismatched]
        _check_tensors(
            path,
            [name for name in missing if name not in fresh],
            [cls.released_name(name) for name in info["unexpected_keys"]],
            [
                f"{cls.released_name(name)} {tuple(found)}, expected {tuple(expected)}"
                for name, found, expected in mismatched
            ],
        )
        if fresh:
            logger.warning(
                f"{', '.join(fresh)} is not in {str(path)!r} and starts with random numbers: train "
                "it before use."
            )
        return model

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers.

        Raises:
            ValueError: int4 weights are no longer those that were loaded.
        """
        check_unpacked(self)  # type: ignore[arg-type]
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]


def _check_tensors(
    path: Any, missing: list[str], unexpected: list[str], mismatched: list[str]
) -> None:
    problems = [
        _list_problem("missing", missing),
        _list_problem("unexpected", unexpected),
        _list_problem("of another shape", mismatched),
    ]
    if any(problems):
        raise ValueError(
            f"The tensors of {str(path)!r} are not those of its config: "
            f"{'; '.join(filter(None, problems))}. Download the checkpoint again, or check that "
            "config.json belongs to it."
        )


def _is_no_load_report(record: logging.LogRecord) -> bool:
    """transformers prints a table of the differences that we raise as one line."""
    message = record.getMessage()
    return "LOAD REPORT" not in message or "CONVERSION" in message


@contextmanager
def _damage_named(path: Any) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise OSError(
            f"{_damaged_file(path)} is damaged or not complete ({error}). Download it again."
        ) from error


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
