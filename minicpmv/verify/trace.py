"""One model, some prompts: what comes out of every stage, kept on the CPU as float32.

The stages are those of a request: `pixels` (what the tower reads), `slices` (patches per slice),
`ids` (the prompt), `vision`, `resampler`, `logits` (of the prompt's last places and of every new
token), `text` (the greedy answer). A text-only model has the last three and `ids`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..chat import Chat
from ..engine.attention import Span
from ..engine.block_store import BLOCK, BlockStore
from ..engine.decoder import Decoder
from ..engine.supported import causal_model
from ..engine.vision import VisionEncoder
from .prompts import Prompt

STAGES = ("pixels", "slices", "ids", "vision", "resampler", "logits", "text")
PIECE = 100  # tokens of each text that the engine takes at a time; no multiple of its blocks
NUM_PROMPT_LOGITS = 16  # rows kept of each prompt: with 150,000 words a row is 0.6 MB


@dataclass
class Trace:
    """What one model made of one prompt.

    Fields:
        stages: a tensor per numeric stage, lists for `slices` and `ids`; `logits` (rows, vocab)
            are those of the prompt's last places, then of every new token but the last.
        num_prompt_rows: how many of the rows belong to the prompt; its last one gives the first
            new token.
        new_ids, text: the greedy answer.
    """

    stages: dict[str, Any] = field(default_factory=dict)
    num_prompt_rows: int = 0
    new_ids: list[int] = field(default_factory=list)
    text: str = ""


def greedy(num_tokens: int) -> dict[str, Any]:
    """Options of `Chat.ask` under which an answer has one right value."""
    return {
        "sampling": False,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "max_new_tokens": num_tokens,
    }


def trace_each(chat: Chat, prompts: Sequence[Prompt], num_tokens: int) -> list[Trace]:
    """One by one."""
    return [trace_batch(chat, [prompt], num_tokens)[0] for prompt in prompts]


@torch.inference_mode()
def trace_batch(chat: Chat, prompts: Sequence[Prompt], num_tokens: int) -> list[Trace]:
    """All prompts in one padded batch."""
    inputs, plan = chat.prepare([prompt.conversation for prompt in prompts], **greedy(num_tokens))
    mask = inputs["attention_mask"].bool()
    traces = [
        Trace({"ids": ids[is_token].tolist()})
        for ids, is_token in zip(inputs["input_ids"], mask, strict=True)
    ]
    inputs = _encode(chat.model, inputs, traces)
    rows = min(NUM_PROMPT_LOGITS, int(mask.sum(dim=1).min()))
    prompt_logits = chat.model(
        **inputs,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        logits_to_keep=rows,
        use_cache=False,
    ).logits.cpu()
    plan.config.return_dict_in_generate = plan.config.output_logits = True
    output = chat.model.generate(**inputs, generation_config=plan.config)
    new = output.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    steps = torch.stack(output.logits, dim=1).cpu()  # (batch, new, vocab)
    for trace, ids, before, after in zip(traces, new, prompt_logits, steps, strict=True):
        trace.new_ids = _until_end(ids, set(plan.config.eos_token_id))
        trace.num_prompt_rows = rows
        # The prompt's last row stands in both; the one that generated is kept.
        logits = [before[:-1], after[: len(trace.new_ids)]]
        trace.stages["logits"] = torch.cat(logits).float()
        trace.text = chat.processor.decode_answer(trace.new_ids)
    return traces


@torch.inference_mode()
def trace_uncached(
    chat: Chat, prompts: Sequence[Prompt], reference: Sequence[Trace]
) -> list[Trace]:
    """The same answers, every token computed from the whole text before it.

    One forward over prompt and answer gives the logits of all steps.
    """
    traces = []
    for prompt, expected in zip(prompts, reference, strict=True):
        inputs, _ = chat.prepare([prompt.conversation], **greedy(1))
        inputs = _encode(chat.model, inputs, [Trace()])
        num_steps = len(expected.new_ids)
        answer = torch.tensor([expected.new_ids[:-1]], dtype=torch.long).to(chat.model.device)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], dim=1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            if name in inputs:
                inputs[name] = torch.nn.functional.pad(
                    inputs[name], (0, answer.shape[1]), value=value
                )
        rows = expected.num_prompt_rows + num_steps - 1
        logits = chat.model(**inputs, logits_to_keep=rows, use_cache=False).logits[0]
        trace = Trace({"logits": logits.float().cpu()}, expected.num_prompt_rows)
        trace.new_ids = trace.stages["logits"][-num_steps:].argmax(dim=-1).tolist()
        trace.text = chat.processor.decode_answer(trace.new_ids)
        traces.append(trace)
    return traces


def trace_streamed(chat: Chat, prompts: Sequence[Prompt], num_tokens: int) -> list[Trace]:
    """Only the text, put together from its pieces."""
    traces = []
    for prompt in prompts:
        with chat.stream_conversation(prompt.conversation, **greedy(num_tokens)) as stream:
            traces.append(Trace(text="".join(stream)))
    return traces


@torch.inference_mode()
def trace_engine(
    chat: Chat, prompts: Sequence[Prompt], reference: Sequence[Trace], num_tokens: int
) -> list[Trace]:
    """What the engine computes: slices piece by piece, all texts in one flat batch piece by piece
    over blocks of keys and values, and all answers at the same time."""
    decoder = Decoder(chat.model)
    store = BlockStore(
        decoder.num_layers, decoder.num_kv_heads, decoder.head_dim, decoder.dtype, decoder.device
    )
    traces, texts = [], []
    for prompt, expected in zip(prompts, reference, strict=True):
        inputs, _ = chat.prepare([prompt.conversation], **greedy(1))
        answer = torch.tensor(expected.new_ids[:-1], dtype=torch.long, device=decoder.device)
        embeds = decoder.embed(torch.cat([inputs["input_ids"][0], answer]))
        trace = Trace(num_prompt_rows=expected.num_prompt_rows)
        if "pixel_values" in inputs:
            sizes = inputs["target_sizes"]
            features = VisionEncoder(chat.model).encode(inputs["pixel_values"], sizes)
            trace.stages["resampler"] = _joined(features)
            places = inputs["mm_token_type_ids"][0].nonzero().flatten()
            embeds[places] = features.flatten(0, 1).to(embeds)
        num_blocks = -(-len(embeds) // BLOCK)
        blocks = range(store.num_blocks, store.num_blocks + num_blocks)
        store.grow(store.num_blocks + num_blocks)
        traces.append(trace)
        texts.append((embeds, blocks))
    rows: list[list[torch.Tensor]] = [[] for _ in texts]
    for start in range(0, max(len(embeds) for embeds, _ in texts), PIECE):
        going_on = [index for index, (embeds, _) in enumerate(texts) if start < len(embeds)]
        pieces = [texts[index][0][start : start + PIECE] for index in going_on]
        spans = [
            Span(start, len(piece), texts[index][1], is_prompt=True)
            for index, piece in zip(going_on, pieces, strict=True)
        ]
        together = torch.cat(pieces)
        logits = decoder.forward(together, spans, store, range(len(together)))
        for index, part in zip(going_on, logits.split([len(p) for p in pieces]), strict=True):
            rows[index].append(part.cpu())
    answers = chat.batch([prompt.conversation for prompt in prompts], **greedy(num_tokens))
    for trace, expected, parts, whole in zip(traces, reference, rows, answers, strict=True):
        trace.stages["logits"] = torch.cat(parts)[-len(expected.stages["logits"]) :]
        trace.new_ids, trace.text = list(whole.token_ids), whole.text
    return traces


def _encode(model: Any, inputs: dict[str, Any], traces: Sequence[Trace]) -> dict[str, Any]:
    """Record pixels, slices, vision and resampler; the inputs then hold the encoded slices."""
    if "mm_token_type_ids" not in inputs or "pixel_values" not in inputs:
        return inputs
    inputs = dict(inputs)
    pixels, sizes = inputs.pop("pixel_values"), inputs.pop("target_sizes")
    counts = causal_model(model).model.count_slices(inputs["mm_token_type_ids"] > 0, len(pixels))
    encoded = model.get_image_features(pixels, sizes, slices_per_sample=counts, return_dict=True)
    inputs["image_features"] = encoded.pooler_output
    lengths = sizes.prod(dim=1).tolist()
    start = 0
    for trace, count in zip(traces, counts, strict=True):
        rows = range(start, start + count)
        start += count
        if not count:
            continue
        side = pixels.shape[2]
        trace.stages |= {
            "pixels": _joined(pixels[row, ..., : lengths[row] * side].flatten() for row in rows),
            "slices": sizes[list(rows)].tolist(),
            "vision": _joined(encoded.last_hidden_state[row, : lengths[row]] for row in rows),
            "resampler": _joined(encoded.pooler_output[row] for row in rows),
        }
    return inputs


def _joined(parts: Any) -> torch.Tensor:
    return torch.cat([part.float().cpu() for part in parts])


def _until_end(ids: list[int], terminators: set[int]) -> list[int]:
    """The ids up to and with the first terminator."""
    end = next((index for index, token in enumerate(ids) if token in terminators), None)
    return ids if end is None else ids[: end + 1]
