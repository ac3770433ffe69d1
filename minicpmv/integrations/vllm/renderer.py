"""Messages and prompts to token ids, as `MiniCPMVProcessor` writes them."""

from dataclasses import replace
from typing import Any

from vllm.renderers.hf import HfRenderer

from ...processing.encoding import encode
from ...processing.prompt import adds_special_tokens
from ...processing.quoting import QUOTE_START, unquoted
from ...processing.templates import keys_read
from .tokenizer import RENDERED, check_markers, marker_ids


class MiniCPMVRenderer(HfRenderer):
    """vLLM's renderer with our encoding of texts."""

    def render_messages(self, messages: Any, params: Any) -> Any:
        return super().render_messages(messages, self._with_blocks(params))

    async def render_messages_async(self, messages: Any, params: Any) -> Any:
        return await super().render_messages_async(messages, self._with_blocks(params))

    def _with_blocks(self, params: Any) -> Any:
        """Messages go to a template of blocks as blocks: vLLM looks for a loop in the template, and
        where it does not find one, it writes the markers into the text, in front of all of it."""
        template = params.chat_template or self.get_tokenizer().chat_template
        if params.chat_template_content_format != "auto" or "type" not in keys_read(template):
            return params
        return replace(params, chat_template_content_format="openai")

    def _tokenize_prompt(self, prompt: Any, params: Any) -> Any:
        text = prompt["prompt"]
        is_rendered = text.startswith(RENDERED)
        text = text.removeprefix(RENDERED)
        if not is_rendered and QUOTE_START not in text and self._wants_offsets(prompt, params):
            return super()._tokenize_prompt(prompt, params)
        tokenizer = self.get_tokenizer()
        wanted = is_rendered or params.add_special_tokens
        special = bool(wanted) and adds_special_tokens(tokenizer, text)
        ids = encode(tokenizer, text, special).ids
        bare, _, _ = unquoted(text)
        return self._build_tokens_prompt(ids, {**prompt, "prompt": bare})

    def _process_tokens(self, prompt: Any, **kwargs: Any) -> Any:
        self._check_markers(prompt)
        return super()._process_tokens(prompt, **kwargs)

    async def _process_tokens_async(self, prompt: Any, **kwargs: Any) -> Any:
        self._check_markers(prompt)
        return await super()._process_tokens_async(prompt, **kwargs)

    def _check_markers(self, prompt: Any) -> None:
        if "prompt_token_ids" in prompt:
            given = prompt.get("multi_modal_data") or {}
            tokens = marker_ids(self.get_tokenizer())
            counts = {kind: 0 for kind in tokens if not _has_any(given.get(kind))}
            check_markers(prompt["prompt_token_ids"], counts, tokens)


def _has_any(items: Any) -> bool:
    return items is not None and not (isinstance(items, list | tuple) and not items)
