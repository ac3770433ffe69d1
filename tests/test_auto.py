"""transformers' own entrances: Auto classes and pipelines find us, and never ask to run code."""

import json
import shutil
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline
from transformers.models.auto import modeling_auto
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from minicpmv import load
from minicpmv.processing import MiniCPMVProcessor

from .helpers.golden import CHECKPOINTS, FIRST_FOLDERS
from .helpers.pictures import picture


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


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("IMAGE_TEXT_TO_TEXT", "MiniCPMVForConditionalGeneration"),
        ("MULTIMODAL_LM", "OmniLMMForConditionalGeneration"),
        ("CAUSAL_LM", "MiniCPMForCausalLM"),
    ],
)
def test_tables_of_transformers_name_the_classes(table, name):
    assert name in getattr(modeling_auto, f"MODEL_FOR_{table}_MAPPING_NAMES").values()


def test_importing_again_wraps_nothing_twice():
    """In a fresh process, because a reload makes new classes."""
    code = (
        "import importlib, minicpmv.auto as auto\n"
        "from transformers import AutoImageProcessor, PreTrainedConfig\n"
        "found = PreTrainedConfig.get_config_dict.__func__, AutoImageProcessor.from_pretrained\n"
        "importlib.reload(auto)\n"
        "again = PreTrainedConfig.get_config_dict.__func__, AutoImageProcessor.from_pretrained\n"
        "assert found == again"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_saved_folder_names_no_code(version, tmp_path):
    chat = load(CHECKPOINTS[version], "cpu", "float32")
    chat.model.save_pretrained(tmp_path)
    chat.processor.save_pretrained(tmp_path)
    for path in tmp_path.glob("*.json"):
        assert not json.loads(path.read_text(encoding="utf-8")).get("auto_map"), path.name


def test_plain_generate_ends_where_the_release_does(version):
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS[version])
    processor = AutoProcessor.from_pretrained(CHECKPOINTS[version])
    ends = model.generation_config.eos_token_id
    assert set(processor.terminator_ids) <= set(ends if isinstance(ends, list) else [ends])


def test_a_processor_stands_for_the_tokenizer_of_stop_texts():
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS["2.6"])
    processor = AutoProcessor.from_pretrained(CHECKPOINTS["2.6"])
    inputs = processor(text="Hello", return_tensors="pt")
    settings = {"max_new_tokens": 8, "do_sample": False}
    whole = model.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :]
    stop = processor.decode(whole[2:3])
    cut = model.generate(**inputs, **settings, stop_strings=[stop], tokenizer=processor)
    assert cut.shape[1] - inputs["input_ids"].shape[1] <= 3


def test_another_image_processor_is_named_without_an_offer_to_run_code(tmp_path):
    folder = shutil.copytree(CHECKPOINTS["2.6"], tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": "Other"}))
    with pytest.raises(ValueError, match=r"preprocessor_config\.json' says .* 'Other'; expected"):
        load(folder, "cpu")
