"""Replay of a conversation with pictures: from its messages to logits; `generation.py` goes on."""

from functools import cached_property
from typing import Any

import torch
from PIL import Image

from minicpmv.processing.packing import rows_per_slice

from .comparison import sha256
from .generation import Generation
from .recording import Part
from .replayer import compares


class Conversation(Generation):
    """One call of the released `chat()`."""

    kinds = ("conversation",)

    # Inputs, each computed once.

    @cached_property
    def options(self) -> dict[str, Any]:
        """What was chosen besides messages: `chat()` keywords and the image processor's mode."""
        options = dict(self.given("options", {}))
        options.pop("store_u8", None)
        options.pop("full_vision", None)
        options.pop("bf16", None)
        settings = {**(self.given("kwargs") or {}), **options.pop("chat_kwargs", {}), **options}
        if limit := self.given("max_inp_length"):
            settings["max_inp_length"] = limit
        return settings

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Those of them that the processor takes."""
        return {k: v for k, v in self.options.items() if k != "system_prompt"}

    @cached_property
    def image(self) -> Image.Image | None:
        name = self.given("image")
        return self._picture(name) if name else None

    def _picture(self, name: str) -> Image.Image:
        return self.case.picture(name if "." in name else f"{name}.png")

    @cached_property
    def messages(self) -> Any:
        """As recorded, with a picture wherever one is named."""
        self.given("msgs_as_json")  # used by the released call alone
        return self._with_pictures(self.given("msgs"))

    def _with_pictures(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self._with_pictures(item) for item in part]
        if isinstance(part, dict) and set(part) == {"image"}:
            return self._picture(part["image"])
        if isinstance(part, dict) and "content" in part:
            return part | {"content": self._with_pictures(part["content"])}
        return part

    @cached_property
    def conversations(self) -> list[list[dict[str, Any]]]:
        """One per sample: the system prompt and the separate picture in their places."""
        batch = self.messages if isinstance(self.messages[0], list) else [self.messages]
        system = self.options.get("system_prompt")
        opening = [{"role": "system", "content": system}] if system else []
        conversations = []
        for first, *rest in batch:
            if self.image is not None:
                first = first | {"content": [self.image, first["content"]]}
            conversations.append([*opening, first, *rest])
        return conversations

    def _processed(self, **settings: Any) -> Any:
        return self.released.processor.apply_chat_template(
            self.conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=settings,
        )

    @cached_property
    def processed(self) -> Any:
        """The processor's output in the released layout."""
        return self._processed(return_released_layout=True, **self.settings)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Of the model, one row per slice."""
        inputs = rows_per_slice(self.processed)
        names = ("input_ids", "attention_mask", "image_bound", "pixel_values", "target_sizes")
        return {name: inputs[name] for name in names if name in inputs}

    @cached_property
    def vision(self) -> Any:
        return self.encode(self.inputs["pixel_values"])

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> Any:
        return self.released.model.get_image_features(
            pixels,
            self.inputs["target_sizes"],
            slices_per_sample=[len(bounds) for bounds in self.inputs["image_bound"]],
            return_dict=True,
        )

    @cached_property
    def lengths(self) -> list[int]:
        """Patches of every slice."""
        return self.inputs["target_sizes"].prod(dim=1).tolist()

    @cached_property
    def encoded(self) -> dict[str, Any]:
        """The inputs with encoded slices in place of pixels."""
        inputs = {name: self.inputs[name] for name in ("input_ids", "attention_mask")}
        if "pixel_values" in self.inputs:
            inputs["image_bound"] = self.inputs["image_bound"]
            inputs["image_features"] = self.vision.pooler_output
        return inputs

    @cached_property
    def mask(self) -> torch.Tensor:
        return self.inputs["attention_mask"].bool()

    @cached_property
    def places(self) -> torch.Tensor:
        """Position ids: places count from the first token that is not padding."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)

    @cached_property
    def output(self) -> Any:
        """One pass over the prompt."""
        with torch.inference_mode():
            return self.released.model(
                **self.encoded, position_ids=self.places, output_hidden_states=True
            )

    # Text and ids.

    @compares("prompt")
    def prompt(self, name: str, recorded: list[str]) -> None:
        found = self.released.processor.apply_chat_template(
            self.conversations, add_generation_prompt=True
        )
        self.check.equal(name, found, recorded)

    @cached_property
    def expanded(self) -> list[str]:
        """The prompts with a run of placeholders for each slice; never shortened."""
        processor = self.released.processor
        prompts = processor.apply_chat_template(self.conversations, add_generation_prompt=True)
        whole = {k: v for k, v in self.settings.items() if k != "max_inp_length"}
        output = self._processed(return_text_replacement_offsets=True, **whole)
        texts = [item["replacement"] for row in output["text_replacement_offsets"] for item in row]
        return processor.get_text_with_replacements(prompts, texts)[0]

    @compares("expanded_prompt")
    def expanded_prompt(self, name: str, recorded: list[str]) -> None:
        self.check.equal(name, self.expanded, recorded)

    @compares("opening")
    def opening(self, name: str, recorded: str) -> None:
        self.check.holds(name, recorded in self.expanded[0], f"{recorded!r} is not in the prompt")

    @compares("input_ids|attention_mask|mask_passed|num_tokens|image_bound|patch_grids|positions")
    def ids(self, name: str, recorded: Any) -> None:
        ids, mask = self.processed["input_ids"], self.processed["attention_mask"].long()
        found = {
            "input_ids": lambda: ids.tolist(),
            "num_tokens": lambda: ids.shape[1],
            "attention_mask": lambda: mask.tolist(),
            "mask_passed": lambda: (
                mask.tolist() if isinstance(recorded, list) else _described(mask)
            ),
            "image_bound": lambda: [torch.as_tensor(b).tolist() for b in self.processed[name]],
            "patch_grids": lambda: [
                torch.as_tensor(s).tolist() for s in self.processed["tgt_sizes"]
            ],
            # What stands at masked places is never read.
            "positions": lambda: self.places[self.mask].tolist(),
        }[name]()
        if name == "positions":
            plain = [list(range(ids.shape[1]))] * len(ids)
            everywhere = plain if recorded == "0..n-1" else recorded
            recorded = torch.tensor(everywhere).expand_as(self.mask)[self.mask]
        self.check.equal(name, found, recorded.tolist() if torch.is_tensor(recorded) else recorded)

    # How pictures are cut, and their pixels.

    @compares("picture_size|grid|slice_sizes")
    def cut(self, name: str, recorded: Any) -> None:
        if self.image is None:
            self.check.equal(name, [], recorded)
            return
        images, sizes = self.released.processor.image_processor, [list(self.image.size)]
        grid = None
        is_cut = images.slice_mode and self.settings.get("slice_mode", True)
        if is_cut and images.release.slicing == "adaptive":
            overview, cells, grid = images.slice_image(images.process_image(self.image))
            pieces = (overview, *(cell for row in cells for cell in row))
            sizes = [list(piece.size) for piece in pieces]
        # The released 1.0 and OmniLMM resize inside the model, and were fed the picture as it is.
        found = {"picture_size": list(self.image.size), "grid": grid, "slice_sizes": sizes}
        self.check.equal(name, found[name], recorded)

    @compares("num_slices")
    def num_slices(self, name: str, recorded: list[int]) -> None:
        self.check.equal(name, [len(sample) for sample in self.processed["pixel_values"]], recorded)

    @compares("slices")
    def slices(self, name: str, recorded: int) -> None:
        self.check.equal(name, len(self.strips), recorded)

    @compares("strips_sha256")
    def strips_sha256(self, name: str, recorded: Any) -> None:
        found = [[sha256(strip) for strip in sample] for sample in self.processed["pixel_values"]]
        self.check.equal(name, found, recorded)

    @cached_property
    def strips(self) -> list[tuple[torch.Tensor, int, int]]:
        """Of the first sample: patches side by side, and the rows and columns they come from."""
        if self.image is None:
            return []
        grids = torch.as_tensor(self.processed["tgt_sizes"][0]).reshape(-1, 2).tolist()
        strips = zip(self.processed["pixel_values"][0], grids, strict=True)
        return [(strip, rows, cols) for strip, (rows, cols) in strips]

    def _whole(self, index: int) -> tuple[torch.Tensor, int, int]:
        """(3, height, width) of a slice, without what was filled up to whole patches."""
        strip, rows, cols = self.strips[index]
        side = strip.shape[1]
        patches = strip[..., : rows * cols * side].reshape(3, side, rows, cols, side)
        whole = patches.permute(0, 2, 1, 3, 4).reshape(3, rows * side, cols * side)
        _, height, width = self.case.expected[f"slice/{index}/shape"]
        filled = [whole[:, height:], whole[:, :, width:]]
        is_empty = all(part.numel() == 0 or not part.any() for part in filled)
        self.check.holds(f"slice/{index}/padding", is_empty, "is not zero")
        return whole[:, :height, :width].contiguous(), rows, cols

    @compares(r"slice/(\d+)/(shape|grid|sha256|sha256_of_8_bit|picture|digest|sample)")
    def pixels(self, name: str, recorded: Any, index: str, what: str) -> None:
        """A slice, put together again from its patches."""
        whole, rows, cols = self._whole(int(index))
        images = self.released.processor.image_processor
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.image_mean, images.image_std))
        grey = ((whole * std + mean) * 255).round().to(torch.uint8).permute(1, 2, 0)
        if what == "shape":
            self.check.equal(name, list(whole.shape), recorded)
        elif what == "grid":
            self.check.equal(name, [rows, cols], recorded)
        elif what == "sha256":
            self.check.equal(name, sha256(whole), recorded)
        elif what == "sha256_of_8_bit":
            self.check.equal(name, sha256(grey), recorded)
        elif what == "picture":
            stored = torch.frombuffer(
                bytearray(self._picture(recorded).tobytes()), dtype=torch.uint8
            )
            self.check.holds(name, torch.equal(grey.flatten(), stored), "other 8-bit pixels")
        else:
            self.check.numbers(name, whole, recorded, 1e-5 if what == "digest" else 1e-6)

    # Arrays of the model.

    @compares("vision/batches")
    def vision_batches(self, name: str, recorded: list[list[int]]) -> None:
        """The tower may run on other numbers of slices at once; they add up the same."""
        counts, lengths, widths = zip(*recorded, strict=True)
        states = self.vision.last_hidden_state
        wanted = [sum(counts), max(lengths), max(widths)]
        self.check.equal(name, list(states.shape), wanted)

    @compares(r"(vision|resampler)/count")
    def count(self, name: str, recorded: int, stage: str) -> None:
        self.check.equal(name, len(self.lengths), recorded)

    @compares(r"vision/(\d+)/(tokens|tokens_with_class)")
    def tokens(self, name: str, recorded: int, index: str, what: str) -> None:
        found = self.lengths[int(index)] if what == "tokens" else self.normed.shape[1]
        self.check.equal(name, found, recorded)

    @compares("vision")
    def whole_vision(self, name: str, recorded: torch.Tensor) -> None:
        """Rows past a slice's own patches are padding."""
        for found, expected, length in zip(
            self.vision.last_hidden_state, recorded, self.lengths, strict=True
        ):
            self.close(name, found[:length], expected[:length])

    @compares(r"vision/(\d+)(?:/rows|/digest)?")
    def vision_of_slice(self, name: str, recorded: Any, index: str) -> None:
        slice_index = int(index)
        states = self.vision.last_hidden_state[slice_index]
        # 2.5 recorded the padding, too, and computed it like the rest.
        shape = getattr(recorded, "numbers", {}).get("shape")
        self.close(name, states[: shape[0] if shape else self.lengths[slice_index]], recorded)

    @compares(r"resampler(?:/(\d+)(?:/rows|/digest)?)?")
    def resampler(self, name: str, recorded: Any, index: str | None) -> None:
        pooled = self.vision.pooler_output
        self.close(name, pooled if index is None else pooled[int(index)], recorded)

    @cached_property
    def normed(self) -> torch.Tensor:
        """The tower's tokens, the class token among them."""
        kept: list[torch.Tensor] = []
        norm = self.released.model.model.vision_tower.norm
        hook = norm.register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            self.encode(self.inputs["pixel_values"])
        finally:
            hook.remove()
        return kept[-1]

    @compares("class_token")
    def class_token(self, name: str, recorded: torch.Tensor) -> None:
        self.close(name, self.normed[0, 0], recorded)

    @compares(r"(embeddings|logits|hidden/\d+)(?:/rows|/tail|/stride|/last|/digest)?")
    def sequence(self, name: str, recorded: Any, stage: str) -> None:
        """Embeddings, logits or hidden states; samples of a batch are compared where not padded."""
        if stage == "logits":
            found = self.output.logits
        else:
            found = self.output.hidden_states[int(stage.partition("/")[2] or 0)]
        if self.case.is_batch:
            self._batched(name, found, recorded, is_logits=stage == "logits")
        else:
            self.close(name, found[0], recorded)

    def _batched(self, name: str, found: torch.Tensor, recorded: Any, *, is_logits: bool) -> None:
        if not is_logits:
            self.close(name, found, recorded)
            return
        values, mask = recorded, self.mask
        if isinstance(recorded, Part):
            values, found, mask = recorded.values, found[recorded.index], mask[recorded.index]
        if found.shape != values.shape:
            self.close(name, found, values)
            return
        found, values = found[mask], values[mask]
        self.close(name, found, values)
        self.check.equal(f"{name}/top-1", found.argmax(-1).tolist(), values.argmax(-1).tolist())

    @compares("logits/argmax")
    def likeliest(self, name: str, recorded: torch.Tensor) -> None:
        self.check.equal(name, self.output.logits[0].argmax(dim=-1).tolist(), recorded.tolist())

    @cached_property
    def halved(self) -> torch.Tensor:
        """The last logits where pixels were rounded to float16 first."""
        features = self.encode(self.inputs["pixel_values"].half().float()).pooler_output
        with torch.inference_mode():
            return self.released.model(**self.encoded | {"image_features": features}).logits[0, -1]

    @compares("half_pixels/(logits|max_difference)")
    def half_pixels(self, name: str, recorded: Any, what: str) -> None:
        difference = (self.halved - self.output.logits[0, -1]).abs().max()
        self.close(name, self.halved if what == "logits" else difference, recorded)


def _described(mask: torch.Tensor) -> str:
    return "all ones" if bool(mask.all()) else "some zeros"
