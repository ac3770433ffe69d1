"""Our models, processor and training tokens for ms-swift's classes; see swift.py.

A row of ms-swift becomes a `Conversation`, and that what `minicpmv train sft` trains: the answers
and what ends them. For inference the processor writes the prompt. ms-swift's own way of writing
prompts is not taken, so options of it are refused, and MAX_SLICE_NUMS, NUM_FRAMES and FPS are read
from the environment.

ms-swift is imported when `register_all` is called, which puts these methods before its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import minicpmv.auto  # noqa: F401  # registers our classes

if TYPE_CHECKING:
    from swift.model import ModelLoader
    from swift.template import Template
else:
    ModelLoader = Template = object

NAME = "minicpmv_native"
_HUB_NAMES = (
    "MiniCPM-V",
    "MiniCPM-V-2",
    "MiniCPM-Llama3-V-2_5",
    "MiniCPM-V-2_6",
    "OmniLMM-12B",
)


class LoaderMethods(ModelLoader):
    """Loads by our classes, without code from the checkpoint."""

    default_trust_remote_code = False
    auto_model_cls: Any

    def get_config(self, model_dir: str) -> Any:
        return AutoConfig.from_pretrained(model_dir)

    def get_processor(self, model_dir: str, config: Any) -> Any:
        return AutoProcessor.from_pretrained(model_dir)

    def get_model(self, model_dir: str, config: Any, processor: Any, model_kwargs: Any) -> Any:
        self.auto_model_cls = self.auto_model_cls or AutoModelForImageTextToText
        return super().get_model(model_dir, config, processor, model_kwargs)


class TemplateMethods(Template):
    """Rows and requests to batches, by our encoder and our processor."""

    use_model = False
    load_images = True

    def init_processor(self, processor: Any) -> None:
        from minicpmv.data.pictures import PictureReader

        super().init_processor(processor)
        self.reader = PictureReader()
        words = [[int(token)] for token in self.processor.terminator_ids]
        meta = self.template_meta
        meta.stop_words += [word for word in words if word not in meta.stop_words]

    def init_env_args(self) -> None:
        from swift.utils import get_env_args

        super().init_env_args()
        self.max_slice_nums = get_env_args("max_slice_nums", int, None)
        self.num_frames = get_env_args("num_frames", int, None)
        self.fps = get_env_args("fps", float, None)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "reader": None}  # it holds a lock

    def _encode(self, inputs: Any) -> dict[str, Any]:
        conversation = self._conversation(inputs)
        return self._trained(conversation) if self.is_training else self._asked(conversation)

    def _conversation(self, inputs: Any) -> Any:
        """The row or request as a `Conversation`; a request gets an answer that is not read.

        Raises:
            DataError: it is none.
            ValueError: it asks for what is not done here.
        """
        from minicpmv.data.faults import DataError
        from minicpmv.data.fields import RowError
        from minicpmv.data.formats.swift import Swift
        from minicpmv.data.media_fields import MediaReader

        given = {"tools": inputs.tools, "audios": inputs.audios, "objects": inputs.objects}
        for name, value in given.items():
            if value:
                raise ValueError(f"{name} have no effect on these models; remove them.")
        messages = [dict(message) for message in inputs.messages]
        system = inputs.system
        if system is None:
            system = self.template_meta.default_system
        if system:
            messages.insert(0, {"role": "system", "content": system})
        if not self.is_training:
            if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
                messages.pop()
            messages.append({"role": "assistant", "content": "-"})
        row = {"messages": messages, "images": inputs.images, "videos": inputs.videos}
        try:
            return Swift().read_row(row, 0, MediaReader(Path.cwd()))
        except RowError as error:
            raise DataError([error.fault(0)]) from None

    def _trained(self, conversation: Any) -> dict[str, Any]:
        from minicpmv.data.encode import EncodeSettings, encode_conversation, standard_labels

        if self.truncation_strategy not in ("raise", "right"):
            raise ValueError(
                f"--truncation_strategy {self.truncation_strategy} would cut pictures; use raise, "
                "delete or right."
            )
        if self._loss_scale not in ("default", "last_round"):
            raise ValueError(
                f"--loss_scale {self._loss_scale} has no effect; take default or last_round, and "
                "write loss false in the messages that are not to be trained."
            )
        if self._loss_scale == "last_round":
            before = [replace(message, train=False) for message in conversation.messages[:-1]]
            last = conversation.messages[-1]
            conversation = replace(conversation, messages=(*before, last))
        cut = self.truncation_strategy == "right"
        settings = EncodeSettings(
            self.max_length if cut else None, cut, self.max_slice_nums, self.num_frames, self.fps
        )
        examples = encode_conversation(self.processor, conversation, settings, self._pictures())
        if self.mode != "train":  # trainers of preferences read labels alone
            if len(examples) > 1:
                raise ValueError("The answers of this row cannot be trained in one sequence.")
            labels = standard_labels(examples[0]).tolist()
        else:
            labels = [-100, *examples[0].targets[:-1].tolist()]
        return {
            "input_ids": examples[0].input_ids.tolist(),
            "labels": labels,
            "examples": examples,
        }

    def _asked(self, conversation: Any) -> dict[str, Any]:
        from minicpmv.data.messages import chat_messages

        messages = chat_messages(conversation.messages[:-1])
        ids = self._prompts([messages], return_pixel_values=False)["input_ids"][0]
        return {"input_ids": ids.tolist(), "asked": messages}

    def _prompts(self, conversations: Sequence[Any], **more: Any) -> Any:
        settings = {
            "max_slice_nums": self.max_slice_nums,
            "num_frames": self.num_frames,
            "fps": self.fps,
            "padding_side": "left",
            **more,
        }
        return self.processor.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={k: v for k, v in settings.items() if v is not None},
        )

    def _pictures(self) -> Any:
        from minicpmv.data.pictures import PictureReader

        self.reader = PictureReader() if self.reader is None else self.reader
        return self.reader

    def _data_collator(
        self, batch: list[dict[str, Any]], *, padding_to: int | None = None
    ) -> dict[str, Any]:
        from minicpmv.data.collate import Collator

        if not self.is_training:
            return dict(self._prompts([row["asked"] for row in batch]))
        examples = [example for row in batch for example in row["examples"]]
        collator = Collator(examples, self.processor, packed=False, reader=self._pictures())
        found = collator([list(range(len(examples)))])
        if self.mode != "train":
            del found["shift_labels"]
        return found

    def compute_sft_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        num_items_in_batch: Any = None,
        trainer: Any = None,
    ) -> Any:
        """The loss over `shift_labels`; without labels, which ms-swift took out, the logits."""
        inputs.pop("logits_to_keep", None)
        if "labels" not in inputs:
            inputs.pop("shift_labels", None)
            return model(**inputs)
        return model(**inputs, num_items_in_batch=num_items_in_batch)

    def decode_generate_ids(self, generate_ids: Any, **kwargs: Any) -> str:
        text: str = self.processor.decode_answer(generate_ids)
        return text


def register_all() -> None:
    """Add the model type, its parts and its template; again has no effect."""
    from swift.model import Model, ModelGroup, ModelLoader, ModelMeta, register_model
    from swift.model.model_arch import MultiModelKeys, register_model_arch
    from swift.template import Template, TemplateMeta, register_template

    keys = MultiModelKeys(
        NAME,
        language_model="model.language_model",
        aligner="model.resampler",
        vision_tower="model.vision_tower",
    )
    register_model_arch(keys, exist_ok=True)
    names = [Model(f"OpenBMB/{name}", f"openbmb/{name}") for name in _HUB_NAMES]
    register_model(
        ModelMeta(
            NAME,
            [ModelGroup(names)],
            _joined("NativeLoader", LoaderMethods, ModelLoader),
            template=NAME,
            architectures=["MiniCPMV"],
            model_arch=NAME,
            is_multimodal=True,
            requires=["transformers>=5.19,<5.24"],
            tags=["vision", "video"],
        ),
        exist_ok=True,
    )
    register_template(
        TemplateMeta(
            NAME,
            prefix=[],
            prompt=["{{QUERY}}"],
            chat_sep=[],
            suffix=[["eos_token_id"]],
            system_prefix=["{{SYSTEM}}"],
            template_cls=_joined("NativeTemplate", TemplateMethods, Template),
        ),
        exist_ok=True,
    )


def _joined(name: str, methods: type, base: type) -> type:
    """A class of ms-swift with our methods in front, which processes can send to each other."""
    joined = type(name, (methods, base), {"__module__": __name__})
    globals()[name] = joined
    return joined
