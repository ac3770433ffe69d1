"""A few tokens through all layers of a plain decoder on a CPU, by one call.

A step of some answers, or the end of a prompt whose beginning is known: with a small model the
calls of its modules take longer than what they compute. Results are those of the decoder to the
last bit.
"""

import weakref
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..kernels import built, layers
from ..kernels.dense import pays
from ..kernels.products import packed_weight
from .attention import FlatBatch, Rows
from .block_store import BlockStore

if TYPE_CHECKING:
    from .decoder import Decoder, Ends

_PARTS = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_MOST_PACKED = 1 << 26  # bytes of weights that are kept twice


class _Held(NamedTuple):
    """A decoder of the moment.

    Fields:
        pointers: to weights, keys and values.
        epsilons: what norms add: those of layers, and the last.
        head: what follows the layers, where that is to be computed with them.
        weights: of a decoder that does not change; they stay where they are while this is held,
            even if it did.
    """

    shape: layers.Shape
    pointers: Any
    epsilons: tuple[float, float]
    head: layers.Head | None
    weights: tuple[torch.Tensor, ...]


class FewTokens:
    """The layers of a decoder, as `kernels.layers` takes them."""

    def __init__(self, decoder: "Decoder"):
        self._decoder = weakref.proxy(decoder)  # whose part it is
        self._shapes_of: dict[int, list[tuple[int, ...] | None]] = {}
        self._fixed: tuple[tuple[int, ...], _Held] | None = None  # with the places of its store
        self._packed: dict[int, torch.Tensor | None] = {}  # by the address of a weight

    def compute(
        self,
        embeds: torch.Tensor,
        batch: FlatBatch,
        store: BlockStore,
        turns: tuple[torch.Tensor, torch.Tensor],
        keep: torch.Tensor | None,
        ends: "Ends | None",
    ) -> torch.Tensor | None:
        """Logits of the tokens of `keep`; None where the batch or the model is not one to compute
        here. Arguments are those of `Decoder.step`."""
        decoder = self._decoder
        if not 0 < len(embeds) <= layers.MOST_TOKENS or embeds.dtype != decoder.dtype:
            return None
        if embeds.shape[1] != decoder.hidden_size:
            return None
        library = built() if decoder.device.type == "cpu" else None
        if library is None or not pays(library, decoder.dtype) or torch.is_grad_enabled():
            return None
        rows, pieces = _rows(batch.rows), _pieces(batch)
        wanted = _wanted(keep, ends)
        if rows is None or wanted is None:
            return None
        held = self._known(store) if decoder.is_fixed else self._held(store)
        if held is None:
            return None
        shape, pointers, epsilons, head, _ = held
        own = embeds.clone(memory_format=torch.contiguous_format)
        factors = layers.Factors(decoder.scaling, decoder.residual_scale, *epsilons)
        decoder.at_work()
        found = layers.compute(
            library, own, shape, pointers, batch.slots, turns, *rows, pieces, factors,
            *wanted, head,
        )  # fmt: skip
        return found if found is None or head is not None else decoder.logits_of(found)

    def _known(self, store: BlockStore) -> _Held | None:
        """`_held` of a model that does not change, looked at again where the store has moved."""
        # Of keys alone they may be what they were, after it moved there and back and was enlarged.
        places = tuple(part.data_ptr() for part in chain(store.keys, store.values))
        if self._fixed is None or self._fixed[0] != places:
            held = self._held(store)
            self._fixed = None if held is None else (places, held)
            return held
        return self._fixed[1]

    def _held(self, store: BlockStore) -> _Held | None:
        """The weights of the moment; None where a module is more than its class."""
        decoder = self._decoder
        modules = decoder.plain_modules()
        if modules is None or any(window is not None for window in decoder.windows):
            return None
        head, last_eps = self._head()
        packed = self._packed_of(modules, head) if decoder.is_fixed else {}
        tensors: list[torch.Tensor | None] = []
        for own, keys, values in zip(modules, store.keys, store.values, strict=True):
            tensors += (own["input_layernorm"].weight, own["post_attention_layernorm"].weight)
            for name in (*_PARTS, *_MLP):
                parameters = own[name]._parameters
                weight = parameters["weight"]
                own_packed = packed.get(weight.data_ptr()) if packed else None
                tensors += (weight, parameters["bias"], own_packed)
            tensors += (keys, values)
        inner = len(modules[0]["gate_proj"]._parameters["weight"])
        # Heads and channels of single layers may have been taken away.
        for tensor, wanted in zip(tensors, self._shapes(inner), strict=True):
            if tensor is not None and not (
                tensor.dtype == decoder.dtype
                and tensor.is_contiguous()
                and (wanted is None or tensor.shape == wanted)
            ):
                return None
        eps = {
            own[name].variance_epsilon
            for own in modules
            for name in ("input_layernorm", "post_attention_layernorm")
        }
        if len(eps) != 1:
            return None
        shape = layers.Shape(
            len(modules), decoder.hidden_size, decoder.num_heads, decoder.num_kv_heads,
            decoder.head_dim, inner,
        )  # fmt: skip
        if not shape.is_taken:
            return None
        if head is not None:
            head = head._replace(packed=packed.get(head.weight.data_ptr()))
        kept: tuple[torch.Tensor, ...] = ()
        if decoder.is_fixed:  # as tensors of their own: the data of a parameter may be replaced
            kept = tuple(
                each.detach()
                for each, wanted in zip(tensors, self._shapes(inner), strict=True)
                if each is not None and wanted is not None
            )
            if head is not None:
                bias = None if head.bias is None else head.bias.detach()
                head = layers.Head(head.norm.detach(), head.weight.detach(), bias, head.packed)
        return _Held(shape, layers.pointers(tensors), (eps.pop(), last_eps), head, kept)

    def _head(self) -> tuple[layers.Head | None, float]:
        """What follows the layers, where that is plain, and what its norm adds."""
        decoder = self._decoder
        modules = decoder.plain_head()
        if modules is None:
            return None, 0.0
        norm, linear = (module._parameters for module in modules)
        head = layers.Head(norm["weight"], linear["weight"], linear["bias"], None)
        shapes = (decoder.hidden_size,), (len(head.weight), decoder.hidden_size)
        is_taken = (
            head.is_taken
            and (head.norm.shape, head.weight.shape) == shapes
            and all(
                each is None or (each.dtype == decoder.dtype and each.is_contiguous())
                for each in head
            )
        )
        return head if is_taken else None, modules[0].variance_epsilon

    def _packed_of(
        self, modules: Sequence[dict[str, Any]], head: layers.Head | None
    ) -> dict[int, torch.Tensor | None]:
        """The weights of a model that does not change once more, where all of them are small."""
        weights = [own[name].weight for own in modules for name in (*_PARTS, *_MLP)]
        weights += [] if head is None else [head.weight]
        library = built()
        if library is not None and sum(each.nbytes for each in weights) <= _MOST_PACKED:
            for weight in weights:
                address = weight.data_ptr()
                if address not in self._packed:
                    self._packed[address] = packed_weight(library, weight)
        return self._packed

    def _shapes(self, inner: int) -> list[tuple[int, ...] | None]:
        """Of the weights of all layers, in their order; None for packed ones, keys and values."""
        if inner not in self._shapes_of:
            decoder = self._decoder
            hidden, width = decoder.hidden_size, decoder.num_heads * decoder.head_dim
            kv_width = decoder.num_kv_heads * decoder.head_dim
            products = (
                (width, hidden), (kv_width, hidden), (kv_width, hidden), (hidden, width),
                (inner, hidden), (inner, hidden), (hidden, inner),
            )  # fmt: skip
            shapes: list[tuple[int, ...] | None] = [(hidden,), (hidden,)]
            for outputs, inputs in products:
                shapes += ((outputs, inputs), (outputs,), None)
            self._shapes_of = {inner: [*shapes, None, None] * decoder.num_layers}
        return self._shapes_of[inner]


def _rows(rows: Rows | None) -> tuple[layers.Rows | None] | None:
    """Those of a batch where they are its first tokens, else None."""
    if rows is None:
        return (None,)
    if rows.index is not None and int(rows.index[-1]) != len(rows.index) - 1:
        return None
    return (layers.Rows(rows.tables, rows.lengths),)


def _pieces(batch: FlatBatch) -> list[layers.Piece]:
    found = []
    for piece in batch.pieces:
        begin, length = piece.place.start, piece.place.stop - piece.place.start
        run = piece.blocks
        places = (run.start, 0) if isinstance(run, slice) else (0, run.data_ptr())
        found.append(layers.Piece(begin, length, piece.start, *places))
    return found


def _wanted(
    keep: torch.Tensor | None, ends: "Ends | None"
) -> tuple[tuple[torch.Tensor, layers.Rows] | None] | None:
    """None where the last layer attends for more tokens than are kept."""
    if keep is None:
        return (None,)
    if ends is None or ends.batch.rows is None or ends.batch.rows.index is not None:
        return None
    if ends.batch.pieces or len(ends.chosen) != len(ends.kept):
        return None
    return ((ends.chosen, layers.Rows(ends.batch.rows.tables, ends.batch.rows.lengths)),)
