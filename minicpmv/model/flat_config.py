"""Configs that remember the `config.json` they were read from, and write it back."""

import copy
import json
import os
from typing import Any

from huggingface_hub.errors import StrictDataclassFieldValidationError

from .config_checks import check_config


class FlatConfigMixin:
    """Mixin for configs, before `PreTrainedConfig`.

    `_released` holds the file as it was read, None for a config that is written as transformers
    does; `_released_values` what `_flat_values` gave for it, so that changes can be told.
    """

    _released: dict[str, Any] | None
    _released_values: dict[str, Any]

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; the values of the file are validated.

        Raises:
            ValueError: names the field and what it may be.
        """
        released = copy.deepcopy(config_dict)  # the call below adds its keywords to config_dict
        check_config({"model_type": cls.model_type, **released})  # type: ignore[attr-defined]
        try:
            out = super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        except StrictDataclassFieldValidationError as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"config.json: {reason}.") from error
        except ValueError as error:
            if "config.json" in str(error):
                raise
            raise ValueError(f"config.json: {error}") from error
        config = out[0] if isinstance(out, tuple) else out
        if config._released is not None:
            config._released_values = cls(**copy.deepcopy(released))._flat_values()
            config._released = released
        return out

    def fill_in(self, field: str, value: Any) -> None:
        """Set a field that the file leaves out; it is not written when the config is saved."""
        if getattr(self, field) is None:
            setattr(self, field, value)
            if self._released is not None:
                self._released_values[field] = value

    def _flat_values(self) -> dict[str, Any]:
        """Every field under the key that a released file gives it."""
        raise AssertionError("each config names its own keys")

    def to_released_dict(self) -> dict[str, Any]:
        """The flat `config.json` that released code, llama.cpp and other engines read.

        For a config that came from such a file: that file, with only the values rewritten that
        have changed since, and without code files of its folder.
        """
        released, values = copy.deepcopy(self._released or {}), self._flat_values()
        for key in self._released_values.keys() - values.keys():
            released.pop(key, None)  # such as a quantisation that the weights have no more
        for key, value in values.items():
            if key not in self._released_values or self._released_values[key] != value:
                released[key] = value
        code = released.pop("auto_map", None) or {}
        # A saved folder holds no code; what stands in another repository is still there.
        elsewhere = {name: place for name, place in code.items() if "--" in str(place)}
        return released | ({"auto_map": elsewhere} if elsewhere else {})

    def to_json_file(self, json_file_path: str | os.PathLike, use_diff: bool = True) -> None:
        if self._released is None:
            super().to_json_file(json_file_path, use_diff=use_diff)  # type: ignore[misc]
            return
        with open(json_file_path, "w", encoding="utf-8") as file:
            json.dump(self.to_released_dict(), file, indent=2, ensure_ascii=False)
            file.write("\n")

    def _remove_keys_not_serialized(self, d: dict[str, Any]) -> None:
        d.pop("_released", None)
        d.pop("_released_values", None)
        super()._remove_keys_not_serialized(d)  # type: ignore[misc]
