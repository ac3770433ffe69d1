"""What vLLM's own settings must say for the family, and what is refused before a weight is read."""

from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from vllm.config import ModelConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform

from ...checkpoint.hub import Checkpoint
from ...checkpoint.token_ids import added_token_ids
from ...model.configuration import MiniCPMVConfig
from ...model.configuration_minicpm import MiniCPMConfig
from ...releases import text_release_of
from .registration import TOKENIZER_MODE


class MiniCPMVSettings(VerifyAndUpdateConfig):
    """For models that support images."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        if model_config.tokenizer_mode in ("auto", "hf"):
            model_config.tokenizer_mode = TOKENIZER_MODE


class MiniCPMSettings(VerifyAndUpdateConfig):
    """For the text models, which vLLM's own class runs."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        if isinstance(model_config.hf_config, MiniCPMConfig):
            MiniCPMVSettings.verify_and_update_model_config(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        config = vllm_config.model_config.hf_config
        if not isinstance(config, MiniCPMConfig):
            return
        if config.num_experts and current_platform.is_cpu():
            raise ValueError(
                "vLLM runs MiniCPM-MoE-8x2B on GPUs only: its kernel for experts has no version "
                "for CPUs. Use `minicpmv serve` there."
            )
        check_rope(config, vllm_config.model_config.max_model_len)


def check_rope(config: MiniCPMConfig, max_model_len: int) -> None:
    """Take frequencies that follow the length of a prompt (2B-128k) for fixed ones where no prompt
    is so long that they would differ.

    Raises:
        ValueError: prompts may be longer.
    """
    rope = config.rope_parameters
    if rope["rope_type"] != "dynamic":
        return
    fixed = config.max_position_embeddings
    if max_model_len > fixed:
        raise ValueError(
            f"Beyond {fixed} tokens this model has other positions for each length of a prompt, "
            f"which vLLM cannot compute: it would answer wrongly. Pass --max-model-len {fixed}, or "
            "use `minicpmv serve` for longer prompts."
        )
    config.rope_parameters = {"rope_type": "default", "rope_theta": rope["rope_theta"]}


def complete_terminators() -> None:
    """Let vLLM end an answer at all terminators of a release: released files name some of them."""
    read = ModelConfig.try_get_generation_config
    if hasattr(read, "_completes_terminators"):
        return

    def try_get_generation_config(self: ModelConfig) -> dict[str, Any]:
        fields = read(self)
        if isinstance(self.hf_config, MiniCPMVConfig | MiniCPMConfig):
            checkpoint = Checkpoint.at(self.model, {"revision": self.revision})
            fields = {**fields, "eos_token_id": ends_of(self.hf_config, checkpoint, fields)}
        return fields

    try_get_generation_config._completes_terminators = True  # type: ignore[attr-defined]
    ModelConfig.try_get_generation_config = try_get_generation_config


def ends_of(
    config: PreTrainedConfig, checkpoint: Checkpoint, fields: dict[str, Any]
) -> int | list[int] | None:
    """`eos_token_id` of a generation config with the terminators of the release.

    Args:
        fields: what `generation_config.json` says.
    """
    said = fields.get("eos_token_id", config.eos_token_id)
    ends = [] if said is None else said if isinstance(said, list) else [said]
    release = getattr(config, "release", None) or text_release_of(config.to_dict())
    found = added_token_ids(checkpoint, release.terminators)
    ends = list(dict.fromkeys([*ends, *found.values()]))
    return ends[0] if len(ends) == 1 else ends or None
