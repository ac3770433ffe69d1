"""MiniCPM in Llama's and Mixtral's layout: stock code gives the recorded logits; and back again."""

import json
import math
import pickle
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minicpmv.export.convert import convert

from ..helpers.golden import GOLDEN

MODELS = ("minicpm-2b", "minicpm-1b", "minicpm-2b-128k", "minicpm-moe-8x2b")
KINDS = ("logits", "llama_format", "generate")
DENSE = GOLDEN / "minicpm-2b" / "ckpt"
EXPERTS = GOLDEN / "minicpm-moe-8x2b" / "ckpt"


@cache
def cases(model):
    """(name, tensors given, settings of `generate` or None, what the released code gave)."""
    folder = GOLDEN / model / "public"
    tensors = load_file(folder / "cases.safetensors")

    def arrays(part):
        return {name: tensors[entry["tensor"]] for name, entry in part.items() if "tensor" in entry}

    return [
        (
            case["name"],
            arrays(case["inputs"]),
            case["inputs"]["generate"]["json"] if case["kind"] == "generate" else None,
            arrays(case["expect"]),
        )
        for case in json.loads((folder / "manifest.json").read_text())["cases"]
        # Variants are of other configs; embeddings that are given are not scaled in MiniCPM.
        if case["kind"] in KINDS and not case["name"].startswith(("variant", "inputs_embeds"))
    ]


@pytest.fixture(scope="module", params=MODELS)
def folded(request, tmp_path_factory):
    """(name of a text model, its folder in Llama's or Mixtral's layout)."""
    out = tmp_path_factory.mktemp(request.param) / "out"
    convert(GOLDEN / request.param / "ckpt", out, "llama")
    return request.param, out


@torch.no_grad()
def test_stock_classes_give_the_recorded_logits_and_tokens(folded):
    model, folder = folded
    stock = AutoModelForCausalLM.from_pretrained(folder).eval()
    kind = "Mixtral" if "moe" in model else "Llama"
    assert type(stock).__name__ == f"{kind}ForCausalLM"
    assert type(stock).__module__.startswith("transformers.")
    for name, inputs, settings, expected in cases(model):
        # After a long text Llama's dynamic rope keeps its frequencies until a short one comes.
        stock(torch.tensor([[1]]))
        if settings is not None:
            ids = stock.generate(**inputs, **settings)
            assert ids.tolist() == expected["sequences"].tolist(), name
            continue
        logits = stock(**inputs).logits
        for recorded in (value for key, value in expected.items() if key.startswith("logits")):
            ours = logits[:, -recorded.shape[1] :]
            if "attention_mask" in inputs:
                rows = inputs["attention_mask"][:, -recorded.shape[1] :].bool()
                ours, recorded = ours[rows], recorded[rows]
            torch.testing.assert_close(ours, recorded, atol=2e-4, rtol=0, msg=name)


def test_there_and_back_is_within_one_rounding(folded, tmp_path):
    model, folder = folded
    back = convert(folder, tmp_path / "back", "minicpm")
    original = load_file(GOLDEN / model / "ckpt" / "model.safetensors")
    returned = load_file(tmp_path / "back" / "model.safetensors")
    assert back.is_tied == (model != "minicpm-2b-128k")  # whose head is its own
    assert set(returned) == set(original)
    for name, tensor in original.items():
        torch.testing.assert_close(returned[name], tensor, rtol=2**-23, atol=0, msg=name)
    released, ours = (
        json.loads((path / "config.json").read_text())
        for path in (GOLDEN / model / "ckpt", tmp_path / "back")
    )
    del released["auto_map"], released["_name_or_path"], released["transformers_version"]
    assert {name: ours[name] for name in released} == released


def test_half_precision_keeps_its_dtype_and_its_tie(tmp_path):
    folder = copy(DENSE, tmp_path / "half", {n: t.bfloat16() for n, t in tensors_of(DENSE).items()})
    convert(folder, tmp_path / "llama", "llama")
    back = convert(tmp_path / "llama", tmp_path / "back", "minicpm")
    assert back.is_tied
    assert json.loads((back.folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    original, returned = tensors_of(folder), tensors_of(back.folder)
    for name, tensor in original.items():
        assert returned[name].dtype == torch.bfloat16
        torch.testing.assert_close(returned[name], tensor, rtol=2**-7, atol=0, msg=name)

    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "llama").eval()
    full = AutoModelForCausalLM.from_pretrained(tmp_path / "llama", dtype="float32").eval()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        difference = (stock(ids).logits.float() - full(ids).logits).abs().mean()
    assert difference < 0.05


def test_a_head_apart_by_more_than_rounding_stays_a_head(tmp_path):
    folder = convert(DENSE, tmp_path / "llama", "llama").folder
    tensors = tensors_of(folder)
    tensors["lm_head.weight"][5, 7] *= 1 + 2**-20
    changed = copy(folder, tmp_path / "changed", tensors)
    back = convert(changed, tmp_path / "back", "minicpm")
    assert not back.is_tied
    assert "lm_head.weight" in tensors_of(back.folder)
    assert json.loads((back.folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_factors_are_those_of_the_paper(folded):
    model, folder = folded
    config = json.loads((GOLDEN / model / "ckpt" / "config.json").read_text())
    before, after = tensors_of(GOLDEN / model / "ckpt"), tensors_of(folder)
    depth = config["scale_depth"] / math.sqrt(config["num_hidden_layers"])
    name = "model.layers.1.self_attn.o_proj.weight"
    torch.testing.assert_close(after[name], before[name] * depth)
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(after[name], before[name] * 12)
    head = before.get("lm_head.weight", before[name])
    ratio = config["hidden_size"] / config["dim_model_base"]
    torch.testing.assert_close(after["lm_head.weight"], head / ratio)
    same = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(after[same], before[same])


def test_the_tokenizer_of_stock_code_gives_the_released_ids(folded):
    model, folder = folded
    tokenizer = AutoTokenizer.from_pretrained(folder)
    manifest = json.loads((GOLDEN / model / "public" / "manifest.json").read_text())
    texts = [case for case in manifest["cases"] if case["kind"] == "tokenize"]
    assert texts
    for case in texts:
        ids = tokenizer(case["inputs"]["text"]["json"])["input_ids"]
        assert ids == case["expect"]["ids_fast"]["json"]
    message = [{"role": "user", "content": " hello "}]
    assert "hello" in tokenizer.apply_chat_template(message, tokenize=False)


@torch.no_grad()
def test_the_language_model_of_2_0_stands_alone(tmp_path):
    golden = GOLDEN / "minicpm-v-2"
    convert(golden / "checkpoint", tmp_path / "out", "llama")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    recorded = load_file(golden / "public" / "textonly.safetensors")
    logits = stock(recorded["input_ids"]).logits[0]
    torch.testing.assert_close(logits[-1], recorded["logits_last"].view(-1), atol=2e-4, rtol=0)
    assert logits.argmax(-1).tolist() == recorded["logits_argmax"].tolist()


def test_a_tokenizer_model_alone_is_enough(tmp_path):
    """1.0 and 2.0 have no tokenizer.json, and name a class of their remote code."""
    golden = GOLDEN / "minicpm-v-2"
    convert(golden / "checkpoint", tmp_path / "out", "llama")
    stock = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = AutoTokenizer.from_pretrained(golden / "checkpoint")
    assert type(stock).__module__.startswith("transformers.")
    cases = json.loads((golden / "public" / "manifest.json").read_text())["cases"]
    (prompt,) = (case["prompt"] for case in cases if case["name"] == "textonly")
    recorded = load_file(golden / "public" / "textonly.safetensors")["input_ids"]
    assert stock(prompt)["input_ids"] == recorded[0].tolist()
    for text in (" a  b ", "<image>x</image>\n", "１２ 345 你好，世界！", "<用户>hi<AI>yes"):
        assert stock(text)["input_ids"] == ours(text)["input_ids"]
    turns = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}]
    assert stock.apply_chat_template(turns, tokenize=False) == "<用户>hi<AI>yes"


def test_shards_in_and_out_and_bin_files_give_the_same_tensors(tmp_path):
    whole = convert(DENSE, tmp_path / "whole", "llama")
    parts = convert(DENSE, tmp_path / "parts", "llama", max_shard_size="200KB")
    assert (whole.num_files, parts.num_files > 3) == (1, True)
    assert parts.num_bytes == whole.num_bytes
    index = json.loads((tmp_path / "parts" / "model.safetensors.index.json").read_text())
    expected = tensors_of(tmp_path / "whole")
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "parts" / file)[name], expected[name])
    assert set(index["weight_map"]) == set(expected)

    once, twice = (
        tensors_of(convert(tmp_path / source, tmp_path / f"{source}-back", "minicpm").folder)
        for source in ("whole", "parts")
    )
    assert all(torch.equal(once[name], twice[name]) for name in once)

    tensors = tensors_of(DENSE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]  # as the released files do
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(6)
    binary = copy(DENSE, tmp_path / "bin", None)
    torch.save(tensors, binary / "pytorch_model.bin")
    again = tensors_of(convert(binary, tmp_path / "from-bin", "llama").folder)
    assert all(torch.equal(again[name], expected[name]) for name in expected)


def test_mixtral_may_be_named_and_experts_must_be_there(tmp_path):
    assert convert(EXPERTS, tmp_path / "a", "mixtral").architecture == "MixtralForCausalLM"
    with pytest.raises(ValueError, match=r"has no experts, so it has no Mixtral layout. Use --to"):
        convert(DENSE, tmp_path / "b", "mixtral")


def test_what_transformers_saves_comes_back(tmp_path):
    """A model that was trained in Llama's layout and saved by transformers 5."""
    convert(EXPERTS, tmp_path / "mixtral", "llama")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "mixtral")
    stock.save_pretrained(tmp_path / "saved")
    back = convert(tmp_path / "saved", tmp_path / "back", "minicpm")
    for name, tensor in tensors_of(EXPERTS).items():
        ours = tensors_of(back.folder)[name]
        torch.testing.assert_close(ours, tensor, rtol=2**-23, atol=0, msg=name)
    assert back.is_tied


def test_scalings_may_be_given(tmp_path):
    convert(DENSE, tmp_path / "llama", "llama")
    forget(tmp_path / "llama", "minicpm")
    back = convert(tmp_path / "llama", tmp_path / "back", "minicpm", dim_model_base=8)
    assert back.is_tied
    wrong = convert(tmp_path / "llama", tmp_path / "wrong", "minicpm")  # the releases' 256
    assert not wrong.is_tied
    with pytest.raises(ValueError, match="scale_emb has no effect"):
        convert(DENSE, tmp_path / "other", "llama", scale_emb=12)
    with pytest.raises(ValueError, match="scale_depth is 0; it must be greater than 0"):
        convert(tmp_path / "llama", tmp_path / "other", "minicpm", scale_depth=0)


def test_a_run_that_ends_early_leaves_no_model(tmp_path):
    def stop(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(DENSE, tmp_path / "out", "llama", on_progress=stop)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("config.json"))
    convert(DENSE, tmp_path / "out", "llama")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_overwritten_unasked(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    convert(DENSE, out, "llama")  # empty is free
    with pytest.raises(FileExistsError, match=r"is not empty. Replace it with overwrite"):
        convert(DENSE, out, "llama")
    (out / "mine.txt").touch()
    convert(EXPERTS, out, "llama", overwrite=True)
    assert "Mixtral" in (out / "config.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (out / "config.json").unlink()
    with pytest.raises(FileExistsError, match="no model to replace"):
        convert(DENSE, out, "llama", overwrite=True)
    with pytest.raises(ValueError, match="holds the model itself"):
        convert(DENSE, DENSE.parent, "llama", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        convert(DENSE, tmp_path / "file", "llama")


def test_models_that_do_not_fit_are_named(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"is a MiniCPMV. Only LlamaForCausalLM"):
        convert(GOLDEN / "minicpm-v-2_6" / "checkpoint", out, "llama")
    with pytest.raises(ValueError, match="its weights are quantised; convert the full weights"):
        convert(GOLDEN / "minicpm-2b" / "gptq_int4", out, "llama")
    with pytest.raises(ValueError, match="in the layout of minicpm already"):
        convert(DENSE, out, "minicpm")
    with pytest.raises(ValueError, match=r"'gguf' is not known. Known: llama, mixtral, minicpm"):
        convert(DENSE, out, "gguf")
    with pytest.raises(ValueError, match="Model 'nothing-here' is not known"):
        convert("nothing-here", out, "llama")
    llama = convert(DENSE, tmp_path / "llama", "llama").folder
    for change, message in (
        ({"attention_bias": True}, "its attention has biases"),
        ({"mlp_bias": True}, "its MLPs have biases"),
        ({"head_dim": 64}, "its head_dim is not hidden_size / num_attention_heads"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "its rope is of type 'yarn', and MiniCPM knows linear and dynamic",
        ),
        (
            {
                "rope_scaling": {
                    "type": "dynamic",
                    "factor": 2.0,
                    "original_max_position_embeddings": 9,
                }
            },
            "its rope counts from another length than max_position_embeddings",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            convert(copy(llama, tmp_path / "changed", None, **change), out, "minicpm")


def test_tensors_that_do_not_fit_are_named(tmp_path):
    tensors = tensors_of(DENSE)
    tensors["model.norm.bias"] = torch.zeros(72)
    tensors["model.norm.weight"] = torch.zeros(9)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(180, 72, dtype=torch.int8)
    del tensors["model.layers.2.mlp.gate_proj.weight"]
    with pytest.raises(ValueError, match=r"1 missing: model.layers.2.mlp.gate_proj.weight") as info:
        convert(copy(DENSE, tmp_path / "bad", tensors), tmp_path / "out", "llama")
    assert "1 unexpected: model.norm.bias" in str(info.value)
    assert "model.norm.weight (9,), expected (72,)" in str(info.value)
    assert "up_proj.weight, which holds no floating-point numbers" in str(info.value)


def test_damaged_and_missing_files_are_named(tmp_path):
    folder, out = copy(DENSE, tmp_path / "bad", tensors_of(DENSE)), tmp_path / "out"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(OSError, match="is damaged or not complete"):
        convert(folder, out, "llama")
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors and no pytorch_model.bin"):
        convert(folder, out, "llama")
    (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(OSError, match=r"pytorch_model.bin' is damaged or not complete"):
        convert(folder, out, "llama")
    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="a pickle is read only if it holds tensors alone"):
        convert(folder, out, "llama")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "part-1.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"has no part-1.safetensors"):
        convert(folder, out, "llama")
    index.write_text("[]")
    with pytest.raises(ValueError, match="is no index of weight files"):
        convert(folder, out, "llama")
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        convert(folder, out, "llama")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        convert(folder, out, "llama")
    assert not out.exists()


class Evil:
    """Unpickling it would run a function of its choice."""

    def __reduce__(self):
        return pickle.loads, (b"N.",)


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def copy(source, target, tensors, **changes):
    """The small files of a checkpoint in another folder, with these tensors (None: the same)."""
    target.mkdir(exist_ok=True)
    for path in source.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file(tensors, target / "model.safetensors")
    return target


def forget(folder, key):
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))
