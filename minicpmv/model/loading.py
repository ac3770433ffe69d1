"""Strict loading, for every model class of the package.

transformers fills a tensor that a checkpoint lacks with random numbers and prints a table. Here
that is an error, one line, with the names as they stand in the released files.
"""

import logging
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..checkpoint.hub import Checkpoint
from ..checkpoint.tensors import check_tensors, listed, other_shape
from ..checkpoint.token_ids import added_token_ids, read_token_ids
from ..checkpoint.weights import all_headers, unreadable
from ..devices import check_tied_devices
from ..errors import AdviceError
from ..precision import dtype_name
from ..quantization import reader_for
from ..quantization.bits import check_unpacked
from ..quantization.block_layers import BlockEmbedding
from ..quantization.packed_linear import PackedEmbedding
from ..releases import text_release_of
from .generation_checks import check_generation_config, set_own_generation
from .header_checks import check_headers
from .size_hints import config_hints


class StrictLoadingMixin:
    """Mixin that makes `from_pretrained` strict; list it before `PreTrainedModel`."""

    # What a checkpoint may lack, by the start of its name: it is trained next.
    _fresh_on_load: tuple[str, ...] = ()
    # What a whole checkpoint has beside this part of the model, by the start of its name. Not
    # transformers' `_keys_to_ignore_on_load_unexpected`: engines that build on it skip those
    # tensors for the whole model, and would run with a random head.
    _whole_model_parts: tuple[str, ...] = ()

    @staticmethod
    def released_name(name: str) -> str:
        """The name in released files of our parameter `name`."""
        return name

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, strictly: a missing, extra or mis-shaped tensor is a named error.

        As in transformers otherwise. With `output_loading_info=True`,
        `ignore_mismatched_sizes=True` or a `state_dict`, the differences are left to the caller.

        Raises:
            ValueError: the checkpoint's tensors are not the model's, or a pickle holds more than
                tensors.
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
        checkpoint = Checkpoint.at(path, kwargs)
        with checkpoint.naming_damage():
            has_settings = path is not None and check_generation_config(checkpoint)
            if not looks_itself:
                check_headers(cls, path, kwargs)
            reader = None if has_tensors else reader_for(cls, path, kwargs)
        source, has_own_generation = path, kwargs.get("generation_config") is not None
        if reader is not None:
            source, kwargs = reader.path, reader.keywords
            if not looks_itself:
                check_tensors(path, reader.missing, reader.unexpected, [])
        if looks_itself:
            loaded = load(source, *args, **kwargs)
            if reader is not None:
                reader.finish(loaded[0] if isinstance(loaded, tuple) else loaded)
            return loaded
        logger = logging.getLogger("transformers.modeling_utils")
        logger.addFilter(_is_no_load_report)
        try:
            with checkpoint.naming_damage():
                model, info = load(
                    source,
                    *args,
                    **kwargs,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # so that all differences are reported at once
                )
        except (SafetensorError, pickle.UnpicklingError) as error:
            raise unreadable(f"A weight file of {str(path)!r}", error) from error
        finally:
            logger.removeFilter(_is_no_load_report)
        missing = [cls.released_name(name) for name in info["missing_keys"]]
        fresh = [name for name in missing if name.startswith(cls._fresh_on_load)]
        mismatched = list(info["mismatched_keys"])
        if reader is not None:
            mismatched += [entry for entry in reader.finish(model) if entry not in mismatched]
        missing = [name for name in missing if name not in fresh]
        unexpected = [
            cls.released_name(name)
            for name in info["unexpected_keys"]
            if not name.startswith(cls._whole_model_parts)
        ]
        if missing or unexpected or mismatched:
            released = [(cls.released_name(name), *shapes) for name, *shapes in mismatched]
            hints = config_hints(model.config, _names_in_files(cls, model, info), released)
            shapes = [other_shape(*entry) for entry in released]
            check_tensors(path, missing, unexpected, shapes, hints)
        check_finite(model, path, getattr(reader, "not_finite", ()), checkpoint)
        if not has_settings:
            set_own_generation(model)
        if fresh:
            logger.warning(
                f"{', '.join(fresh)} is not in {str(path)!r} and starts with random numbers: train "
                "it before use."
            )
        check_tied_devices(model)
        if model.can_generate() and not has_own_generation:
            complete_ends(model, checkpoint)
        return model

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers.

        Raises:
            ValueError: the table is packed, and has no room.
        """
        table = self.get_input_embeddings()  # type: ignore[attr-defined]
        if isinstance(table, PackedEmbedding | BlockEmbedding):
            raise ValueError(
                "The table of embeddings is packed and keeps its size. Resize that of the full "
                "weights, save them, and quantise the folder."
            )
        return super().resize_token_embeddings(*args, **kwargs)  # type: ignore[misc]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers.

        Raises:
            ValueError: int4 weights are no longer those that were loaded.
        """
        check_unpacked(self)  # type: ignore[arg-type]
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]


def _names_in_files(cls: Any, model: Any, info: Mapping[str, Any]) -> set[str]:
    """Names of the tensors that a model was loaded from, as far as the report of loading tells."""
    absent = set(info["missing_keys"])
    kept = [name for name, _ in model.named_parameters() if name not in absent]
    return {cls.released_name(name) for name in [*kept, *info["unexpected_keys"]]}


def complete_ends(model: Any, checkpoint: Checkpoint) -> None:
    """Complete `eos_token_id`, so that plain `generate` ends an answer where the release does.

    Some `generation_config.json` files name no terminator, or not all.
    """
    release = getattr(model.config, "release", None) or text_release_of(model.config.to_dict())
    settings = model.generation_config
    said = settings.eos_token_id
    ends = [] if said is None else said if isinstance(said, list) else [said]
    if len(ends) < len(release.terminators):
        found = added_token_ids(checkpoint, release.terminators)
        ends = list(dict.fromkeys([*ends, *found.values()]))
        settings.eos_token_id = ends if len(ends) > 1 else ends[0] if ends else None


def check_finite(
    model: Any, path: Any, packed: Iterable[str] = (), checkpoint: Checkpoint | None = None
) -> None:
    """Check that no weight is NaN or infinite; those offloaded to disk are left out.

    Args:
        packed: released names of weights that were found so while they were packed.
        checkpoint: whose files are named.

    Raises:
        AdviceError: names the tensors, and the files where they stand.
    """
    wrong = dict.fromkeys(packed, dtype_name(model.config.dtype))
    for name, weight in model.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        if weight.element_size() == 1:  # packed in floats of 8 bits, which have no minimum
            continue
        least, most = torch.aminmax(weight.detach())
        if not bool(torch.isfinite(torch.stack([least, most])).all()):
            wrong[model.released_name(name)] = dtype_name(weight.dtype)
    if wrong:
        files = {} if checkpoint is None else _files_of(checkpoint)
        places = [
            f"{name} in {files[name]} ({dtype})" if name in files else f"{name} ({dtype})"
            for name, dtype in wrong.items()
        ]
        raise AdviceError(
            f"The weights of {str(path)!r} hold numbers that are not finite (NaN or infinity): "
            f"{len(wrong)} tensors: {listed(places)}. Download the checkpoint again; if it was "
            "loaded with `dtype=float16`, its numbers may be too large for that: pass "
            "`dtype=float32`."
        )


def _files_of(checkpoint: Checkpoint) -> dict[str, str]:
    """The name of the weight file in which each tensor stands."""
    if Path(checkpoint.location).is_file():  # GGUF, whose tensors have other names
        return {}
    paths = checkpoint.kept_weight_files()
    return {name: path.name for path in paths for name in all_headers([path])}


def set_token_ids(config: Any, path: Any, keywords: Mapping[str, Any]) -> None:
    """Fill in the ids of visual tags that a config does not say, from the tokenizer's files.

    What came from elsewhere than `config.json` is not written to it when the config is saved.

    Args:
        path, keywords: of `from_pretrained`.
    """
    if path is None or config.image_token_id is not None:
        return
    commit = getattr(config, "_commit_hash", None)
    checkpoint = Checkpoint.at(path, {**keywords, "_commit_hash": commit})
    for field, token_id in read_token_ids(checkpoint, config.release).items():
        config.fill_in(field, token_id)


def _is_no_load_report(record: logging.LogRecord) -> bool:
    """transformers prints a table of the differences that we raise as one line."""
    message = record.getMessage()
    return "LOAD REPORT" not in message or "CONVERSION" in message
