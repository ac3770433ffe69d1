"""What computes for one state of the model's modules, with the memory that it needs."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from .block_store import BLOCK, BlockStore
from .decoder import Decoder
from .features import FeatureCache
from .inputs import context_length
from .kv_cache import BlockCache
from .limits import EngineLimits
from .protocols import CausalModel
from .scheduler import Scheduler
from .vision import VisionEncoder


class Runtime:
    """What computes for one state of the model's modules: the scheduler and what it keeps."""

    def __init__(
        self,
        model: CausalModel,
        features: FeatureCache,
        limits: EngineLimits,
        turn: AbstractContextManager[Any],
    ):
        self.decoder = decoder = Decoder(model)
        store = BlockStore(
            decoder.num_layers,
            decoder.num_kv_heads,
            decoder.head_dim,
            decoder.dtype,
            decoder.device,
        )
        token_bytes = store.bytes_per_block // BLOCK
        context = context_length(model.config)
        self.cache = BlockCache(store, *limits.of_cache(token_bytes, context, decoder.device))
        encoder = VisionEncoder(model) if hasattr(model, "get_image_features") else None
        limits = replace(limits, piece_tokens=limits.of_piece(_num_parameters(model.config)))
        self.scheduler = Scheduler(decoder, encoder, self.cache, features, limits, turn)

    def takes(self, num_tokens: int) -> bool:
        """Whether keys of so many tokens do not depend on how many there are."""
        most = self.decoder.max_tokens()
        return most is None or num_tokens <= most


def _num_parameters(config: Any) -> int:
    """Of the layers of the decoder, about."""
    text = config.get_text_config()
    hidden: int = text.hidden_size
    return int(text.num_hidden_layers * hidden * (3 * hidden + 3 * text.intermediate_size))
