"""transformers' own entrances: Auto classes and pipelines find us, and never ask to run code."""

import subprocess
import sys

import pytest
from transformers import AutoProcessor, AutoTokenizer, pipeline
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from minicpmv.processing import MiniCPMVProcessor

from .conftest import CHECKPOINTS, FIRST_FOLDERS, picture


@pytest.mark.parametrize("trust_remote_code", [None, True])
def test_processing_classes_are_ours(version, trust_remote_code):
    """The checkpoints' `auto_map` names remote code that is not there."""
    arguments = {"trust_remote_code": trust_remote_code}
    processor = AutoProcessor.from_pretrained(CHECKPOINTS[version], **arguments)
    assert type(processor) is MiniCPMVProcessor
    has_files = version not in FIRST_FOLDERS  # for a video processor to read
    for auto_class in (AutoTokenizer, AutoVideoProcessor)[: 1 + has_files]:
        found = auto_class.from_pretrained(CHECKPOINTS[version], **arguments)
        assert type(found).__module__.startswith("minicpmv.")


def test_pipeline_answers_about_a_picture(version, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to run remote code"))
    ask = pipeline("image-text-to-text", model=str(CHECKPOINTS[version]))
    content = [{"type": "image", "image": picture(40, 30)}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}]

    def answers(chats, **options):
        settings = {"max_new_tokens": 5, "do_sample": False}
        return ask(text=chats, generate_kwargs=settings, return_full_text=False, **options)

    one = answers(messages)
    two = answers([messages, messages], batch_size=2)
    assert isinstance(one[0]["generated_text"], str)
    assert [answer[0]["generated_text"] for answer in two] == [one[0]["generated_text"]] * 2


def test_architectures_are_found_on_both_copies_of_the_transformers_module():
    """In a fresh process: the second copy comes while the processors are imported."""
    code = (
        "import sys, transformers as first, minicpmv.auto, transformers as second\n"
        "for name in ('MiniCPMV', 'OmniLMMForCausalLM', 'MiniCPMForCausalLM'):\n"
        "    assert getattr(first, name) is getattr(second, name)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_classes_of_the_package_read_released_files_by_themselves():
    """In a fresh process, where nobody has imported `minicpmv.auto`."""
    code = "from minicpmv import OmniLMMForConditionalGeneration as M; M.from_pretrained({!r})"
    code = code.format(str(CHECKPOINTS["omnilmm-12b"]))
    subprocess.run([sys.executable, "-c", code], check=True)
