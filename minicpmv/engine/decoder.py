"""The language model over a flat batch, with keys and values in blocks.

What computes are the modules of the loaded transformers model, called one by one, so that layers
of adapters, packed weights, hooks and training steps take effect at once. Ours are the order of
the calls, the rotation, and attention:

    embeds -> layers: norm -> q, k, v -> rotate -> write -> attend -> o
                      norm -> MLP
           -> tokens to keep -> norm -> lm_head

Modules that are the plain class of their kind, without hooks, are not called but computed here
with the weights that they have at the moment: beside one row's products, calls take much time.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import nn

from ..kernels import dense_linear, ops
from . import supported
from .attention import Batcher, FlatBatch, Span, attend
from .block_store import BlockStore
from .few_tokens import FewTokens
from .graphs import RecordedSteps
from .widen import MIN_ROWS, WidenedProducts

_NORMS = ("input_layernorm", "post_attention_layernorm")
_KEPT_OF = 32  # tokens of a prompt, for each that is kept, so that these are computed alone


class Ends(NamedTuple):
    """What the last layer attends for.

    Fields:
        batch: tokens as spans of their own.
        chosen: int64, where these are among all tokens.
        kept: int64, which of these are wanted.
    """

    batch: FlatBatch
    chosen: torch.Tensor
    kept: torch.Tensor


class Decoder:
    """A model as a function from a flat batch of tokens to logits.

    Attributes:
        num_layers, num_heads, num_kv_heads, head_dim: of queries, keys and values.
        scaling, residual_scale: of the scores, and of what a layer adds.
        windows: of each layer, how many tokens are attended to; None for all.
        dtype, device: of the embeddings and of what is stored.
        is_fixed: whether weights and modules stay as they are from now on.
        recorded_steps: replayed in place of steps of one token per sequence; None but on CUDA.
    """

    @staticmethod
    def why_not(model: Any) -> str | None:
        """A clause that says why a model cannot be computed here; None where it can."""
        return supported.why_not(model)

    def __init__(self, model: Any):
        """
        Raises:
            ValueError: the model is not supported, see `why_not`.
        """
        reason = supported.why_not(model)
        if reason is not None:
            raise ValueError(f"The engine cannot compute this model itself: {reason}.")
        self.model = model
        self._causal = supported.causal_model(model)
        self._decoder = supported.decoder_of(self._causal)
        self._config = self._decoder.config
        first = self._decoder.layers[0].self_attn
        self.num_layers: int = len(self._decoder.layers)
        self.num_kv_heads: int = self._config.num_key_value_heads
        self.num_heads: int = self._config.num_attention_heads
        self.head_dim: int = first.head_dim
        self.hidden_size: int = self._config.hidden_size
        self.vocab_size: int = self._config.vocab_size
        embeddings = model.get_input_embeddings().weight
        if not embeddings.is_floating_point():  # packed: they come in the dtype of the model
            embeddings = self._decoder.norm.weight
        self.dtype: torch.dtype = embeddings.dtype
        self.device: torch.device = self._causal.device
        self.scaling: float = first.scaling
        self.windows = supported.windows(self._decoder)
        self.residual_scale: float = getattr(self._config, "residual_scale", 1.0)
        self._logits_scaling: float = getattr(self._config, "logits_scaling", 1.0)
        is_minicpm = hasattr(self._decoder, "rotary")
        self._rotary = (
            MiniCPMRotary(self._decoder) if is_minicpm else Rotary(self._decoder, self.dtype)
        )
        self._batcher, self._ends = Batcher(self.device), Batcher(self.device)
        self._few_tokens = FewTokens(self)
        self.is_fixed = False
        self._at_work: Callable[[], None] | None = None
        self.recorded_steps = RecordedSteps(self) if self.device.type == "cuda" else None

    def fix(self) -> None:
        """Take weights and modules as they are now; they stay so."""
        self._few_tokens, self.is_fixed = FewTokens(self), True

    def max_tokens(self) -> int | None:
        """Length up to which keys do not depend on the length; None where they never do.

        Positions that stretch do so once a sequence is longer than the model was trained for.
        """
        return supported.max_tokens(self._config)

    @torch.inference_mode()
    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, hidden) of token ids (n,)."""
        module, ids = self.model.get_input_embeddings(), ids.to(self.device)
        is_plain = type(module) is nn.Embedding and module.max_norm is None
        if is_plain and not supported.is_followed(module):
            return module.weight.index_select(0, ids)
        # As a batch of one: what watches the module expects (batch, seq).
        result: torch.Tensor = module(ids[None])[0]
        return result

    @torch.inference_mode()
    def forward(
        self,
        embeds: torch.Tensor,
        spans: Sequence[Span],
        store: BlockStore,
        keep: Sequence[int] | torch.Tensor,
        at_work: Callable[[], None] | None = None,
    ) -> torch.Tensor:
        """One pass over new tokens, whose keys and values are written to the store.

        Args:
            embeds: (n, hidden), the tokens of all spans in their order.
            keep: the tokens whose logits are wanted, counted in the batch, in their order.
            at_work: called as late as can be before much is computed without the interpreter's
                lock: threads that it wakes neither wait for this one nor hold it up.

        Returns:
            float32 (len(keep), vocab).

        Raises:
            ValueError: spans and embeddings differ in length, or a span has too few blocks.
        """
        num_tokens = sum(span.length for span in spans)
        if len(embeds) != num_tokens:
            raise ValueError(
                f"There are {len(embeds)} embeddings and spans of {num_tokens} tokens; each token "
                "of a span needs one."
            )
        batch = self._batcher.batch(spans)
        ends = None
        self._at_work = at_work
        try:
            if not isinstance(keep, torch.Tensor):
                ends = self._ends_of(spans, keep)
                if ends is None and len(keep) == num_tokens:
                    return self._all(embeds, batch, store)
                keep = torch.tensor(list(keep), dtype=torch.int64)
            return self.step(embeds, batch, store, keep.to(self.device), ends)
        finally:
            self._at_work = None

    def at_work(self) -> None:
        """See `forward`."""
        if self._at_work is not None:
            self._at_work()

    def _ends_of(self, spans: Sequence[Span], keep: Sequence[int]) -> Ends | None:
        """What the last layer attends for; None where that is all tokens as they stand. Kept tokens
        of a prompt are steps, however it was divided: all on a CPU, elsewhere if they are few."""
        own: list[Span] = []
        chosen: list[int] = []
        kept: list[int] = []
        first = place = 0
        is_cpu = self.device.type == "cpu"
        for span in spans:
            begin, last = place, first + span.length
            while place < len(keep) and keep[place] < last:
                place += 1
            wanted = keep[begin:place]
            are_few = len(wanted) * _KEPT_OF <= max(span.length, _KEPT_OF)
            if span.is_prompt and (are_few or is_cpu):
                kept += range(len(chosen), len(chosen) + len(wanted))
                chosen += wanted
                own += (Span(span.start + token - first, 1, span.blocks) for token in wanted)
            else:
                kept += (len(chosen) + token - first for token in wanted)
                chosen += range(first, last)
                own.append(span)
            first = last
        if not own or own == list(spans):
            return None
        indices = (torch.tensor(each, dtype=torch.int64).to(self.device) for each in (chosen, kept))
        return Ends(self._ends.batch(own), *indices)

    def _all(self, embeds: torch.Tensor, batch: FlatBatch, store: BlockStore) -> torch.Tensor:
        """Logits of all tokens, recorded where that helps."""
        logits = None
        if self.recorded_steps is not None:
            self.at_work()
            logits = self.recorded_steps.compute(embeds, batch, store)
        return self.step(embeds, batch, store) if logits is None else logits

    def step(
        self,
        embeds: torch.Tensor,
        batch: FlatBatch,
        store: BlockStore,
        keep: torch.Tensor | None = None,
        ends: Ends | None = None,
    ) -> torch.Tensor:
        """As `forward`, of a batch that is made; nothing is read back from the device.

        Args:
            keep: int64, None for all.
            ends: of `keep`; None where the last layer attends for all tokens.
        """
        with self._products(len(embeds)):
            return self._step(embeds, batch, store, keep, ends)

    def plain_modules(self) -> list[dict[str, Any]] | None:
        """The norms and products of each layer by their names; None where one is more than its
        class, or decides by what it is given."""
        found = []
        for layer in self._decoder.layers:
            modules = layer._modules
            own = {name: modules[name] for name in _NORMS}
            if not all(map(supported.is_plain_norm, own.values())):
                return None
            if not supported.is_plain_mlp(modules["mlp"]):
                return None
            for part in (modules["self_attn"]._modules, modules["mlp"]._modules):
                for name, module in part.items():
                    if name.endswith("_proj"):
                        if not supported.is_plain_linear(module):
                            return None
                        own[name] = module
            found.append(own)
        return found

    def plain_head(self) -> tuple[Any, Any] | None:
        """The norm after the layers and the product after it; None as of `plain_modules`, and where
        there is something between them."""
        norm, head = self._decoder.norm, self._causal.lm_head
        is_plain = supported.is_plain_norm(norm) and supported.is_plain_linear(head)
        return (norm, head) if is_plain and self._logits_scaling == 1 else None

    def plain_weights(self) -> list[int] | None:
        """Addresses of all weights that `step` reads; None as of `plain_modules`."""
        norm, head, layers = self._decoder.norm, self._causal.lm_head, self.plain_modules()
        if layers is None or not supported.is_plain_norm(norm):
            return None
        if not supported.is_plain_linear(head):
            return None
        parts = (norm, head, *(module for layer in layers for module in layer.values()))
        return [
            tensor.data_ptr()
            for module in parts
            for tensor in module._parameters.values()
            if tensor is not None
        ]

    def _products(self, num_tokens: int) -> AbstractContextManager[Any]:
        is_widened = (
            num_tokens >= MIN_ROWS
            and self.device.type == "cpu"
            and supported.is_widened(self._causal)
        )
        return WidenedProducts() if is_widened else nullcontext()

    def _step(
        self,
        hidden: torch.Tensor,
        batch: FlatBatch,
        store: BlockStore,
        keep: torch.Tensor | None,
        ends: Ends | None,
    ) -> torch.Tensor:
        turns = self._rotary(batch.positions)
        found = self._few_tokens.compute(hidden, batch, store, turns, keep, ends)
        if found is not None:
            return found
        hidden = self._layers(hidden, batch, store, turns, keep, ends)
        if keep is not None and not len(keep):
            return torch.empty((0, self.vocab_size), device=self.device)
        return self.logits_of(hidden)

    def logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """What follows the last layer."""
        hidden = _norm(self._decoder.norm, hidden)
        if self._logits_scaling != 1:
            hidden = hidden / self._logits_scaling
        return _linear(self._causal.lm_head, hidden).float()

    def _layers(
        self,
        hidden: torch.Tensor,
        batch: FlatBatch,
        store: BlockStore,
        turns: tuple[torch.Tensor, torch.Tensor],
        keep: torch.Tensor | None,
        ends: Ends | None,
    ) -> torch.Tensor:
        """What the last layer gives for the tokens of `keep`."""
        scale = self.residual_scale
        self.at_work()
        last = self.num_layers - 1
        for number, layer in enumerate(self._decoder.layers):
            modules = layer._modules
            attention = modules["self_attn"]._modules
            query = self._write(
                attention, _norm(modules["input_layernorm"], hidden), turns, batch, store, number
            )
            if number == last and keep is not None:
                if not len(keep):  # only its keys and values are wanted of the last layer
                    return hidden
                hidden = hidden[keep]
            window = self.windows[number]
            if number == last and keep is not None and ends is not None:
                own = query[ends.chosen]
                attended = attend(own, store, number, ends.batch, self.scaling, window)[ends.kept]
            else:
                attended = attend(query, store, number, batch, self.scaling, window)
                if number == last and keep is not None:
                    attended = attended[keep]
            update = _linear(attention["o_proj"], attended.flatten(1))
            hidden = hidden + (update if scale == 1 else update * scale)
            update = _mlp(modules["mlp"], _norm(modules["post_attention_layernorm"], hidden))
            hidden = hidden + (update if scale == 1 else update * scale)
        return hidden

    def _write(
        self,
        attention: dict[str, Any],
        hidden: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        batch: FlatBatch,
        store: BlockStore,
        layer: int,
    ) -> torch.Tensor:
        """Write keys and values of one layer; queries (n, heads, head_dim), turned."""
        head_dim, dtype = self.head_dim, self.dtype
        query, key, value = (
            _projected(attention[name], hidden, dtype).view(len(hidden), -1, head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        ops.rotate_and_write(
            query, key, value, *turns, store.keys[layer], store.values[layer], batch.slots
        )
        return query


class Rotary:
    """Cosines and sines of positions, as transformers' Llama has them: in the model's dtype."""

    def __init__(self, decoder: Any, dtype: torch.dtype):
        self._module = decoder.rotary_emb
        self._dtype = dtype

    def _frequencies(self, device: torch.device) -> tuple[torch.Tensor, float]:
        # Those of before any stretching, which is a state of the module.
        frequencies = self._module.original_inv_freq.to(device).float()
        return frequencies, self._module.attention_scaling

    def __call__(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each (n, head_dim)."""
        frequencies, scale = self._frequencies(positions.device)
        angles = positions[:, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        if scale != 1:
            cos, sin = cos * scale, sin * scale
        return cos.to(self._dtype), sin.to(self._dtype)


class MiniCPMRotary(Rotary):
    """The same in float32."""

    def __init__(self, decoder: Any):
        self._module = decoder.rotary
        self._dtype = torch.float32
        self._cached: tuple[torch.Tensor, float] | None = None

    def _frequencies(self, device: torch.device) -> tuple[torch.Tensor, float]:
        if self._cached is None or self._cached[0].device != device:
            self._cached = self._module.frequencies(1, device)
        return self._cached


def _linear(module: Any, x: torch.Tensor) -> torch.Tensor:
    if supported.is_plain_linear(module):
        parameters = module._parameters
        return dense_linear(x, parameters["weight"], parameters["bias"])
    result: torch.Tensor = module(x)
    return result


def _projected(module: Any, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A product that may be written to, in the dtype of the store."""
    result = _linear(module, x)
    if result.dtype != dtype:
        return result.to(dtype)
    return result.clone() if module._forward_hooks else result  # a hook may have kept it


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    if supported.is_plain_norm(module):
        weight = module._parameters["weight"]
        if weight.dtype == x.dtype:
            return ops.rms_norm(x, weight, module.variance_epsilon)
    result: torch.Tensor = module(x)
    return result


def _mlp(module: Any, x: torch.Tensor) -> torch.Tensor:
    if supported.is_plain_mlp(module):
        parts = module._modules
        gate, up = _linear(parts["gate_proj"], x), _linear(parts["up_proj"], x)
        return _linear(parts["down_proj"], ops.silu_and_mul(gate, up))
    result: torch.Tensor = module(x[None])[0]
    return result
