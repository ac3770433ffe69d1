"""Write a random model of 2.6's shape as GGUF files, for `minicpmv bench --against llama.cpp`.

    pip install gguf
    python benchmarks/make_gguf.py OUT_FOLDER [--layers 28] [--types Q4_0 Q4_K_M]

Writes `model-f16.gguf` and `mmproj-f16.gguf`, and with `--types` what `llama-quantize` (on the
PATH, or in the folder that LLAMA_CPP_DIR names) makes of the first. The weights are random and the
vocabulary is made up, so only speed can be measured, not answers; tensors, widths and settings are
those that llama.cpp expects of MiniCPM-V 2.6.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from minicpmv.bench.llama_cpp import program
from minicpmv.bench.shapes import config_of

SPECIAL = {
    151643: "<|endoftext|>",
    151644: "<|im_start|>",
    151645: "<|im_end|>",
    151646: "<image>",
    151647: "</image>",
    151656: "<slice>",
    151657: "</slice>",
}
TAGS = ("<image>", "</image>", "<slice>", "</slice>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")
STD = 0.02
POOL = np.random.default_rng(0).standard_normal(4_194_301, dtype=np.float32)
POOL = (POOL * STD).astype(np.float16)


def weights(*shape: int) -> np.ndarray:
    """Random numbers, float16."""
    return np.resize(POOL, shape)


def vocabulary(size: int) -> tuple[list[str], list[int], list[str]]:
    """Tokens, their kinds, and merges. Bytes come first, so that every text has tokens."""
    byte_tokens = byte_alphabet()
    tags = {i: tag for i, tag in SPECIAL.items() if i < size}
    if len(tags) < len(TAGS):  # another size than the release's
        tags = dict(enumerate(TAGS, start=len(byte_tokens)))
    tokens, kinds = [], []
    for i in range(size):
        is_tag = i in tags
        plain = byte_tokens[i] if i < len(byte_tokens) else f"w{i}"
        tokens.append(tags[i] if is_tag else plain)
        kinds.append(gguf.TokenType.CONTROL if is_tag else gguf.TokenType.NORMAL)
    return tokens, kinds, [f"{byte_tokens[0]} {byte_tokens[1]}"]


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in vocabularies of GPT-2's kind."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [i for i in range(256) if i not in shown]
    table = {i: chr(i) for i in shown} | {b: chr(256 + n) for n, b in enumerate(rest)}
    return [table[i] for i in range(256)]


def write_language_model(path: Path, fields: dict) -> None:
    writer = gguf.GGUFWriter(path, "qwen2")
    hidden, inner = fields["hidden_size"], fields["intermediate_size"]
    heads, kv_heads = fields["num_attention_heads"], fields["num_key_value_heads"]
    narrow = hidden // heads * kv_heads
    writer.add_name("random weights of MiniCPM-V 2.6's shape")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(fields["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(fields["num_hidden_layers"])
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(fields["rms_norm_eps"])
    writer.add_rope_freq_base(fields["rope_theta"])
    tokens, kinds, merges = vocabulary(fields["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    vocab = fields["vocab_size"]
    tensors: dict[str, tuple[tuple[int, ...], str]] = {
        "output.weight": ((vocab, hidden), "matrix"),
        "output_norm.weight": ((hidden,), "one"),
        "token_embd.weight": ((vocab, hidden), "matrix"),
    }
    for i in range(fields["num_hidden_layers"]):
        block = f"blk.{i}"
        for name, rows in (("q", hidden), ("k", narrow), ("v", narrow)):
            tensors[f"{block}.attn_{name}.weight"] = ((rows, hidden), "matrix")
            tensors[f"{block}.attn_{name}.bias"] = ((rows,), "zero")
        tensors[f"{block}.attn_output.weight"] = ((hidden, hidden), "matrix")
        tensors[f"{block}.ffn_gate.weight"] = ((inner, hidden), "matrix")
        tensors[f"{block}.ffn_up.weight"] = ((inner, hidden), "matrix")
        tensors[f"{block}.ffn_down.weight"] = ((hidden, inner), "matrix")
        tensors[f"{block}.attn_norm.weight"] = ((hidden,), "one")
        tensors[f"{block}.ffn_norm.weight"] = ((hidden,), "one")
    write(writer, tensors)


def write_vision(path: Path, fields: dict) -> None:
    """Tower and resampler, as llama.cpp names them."""
    vision, text_width = fields["vision_config"], fields["hidden_size"]
    width, inner = vision["hidden_size"], vision["intermediate_size"]
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "resampler")
    writer.add_int32("clip.minicpmv_version", 3)  # 2.6
    writer.add_uint32("clip.minicpmv_query_num", fields["query_num"])
    writer.add_bool("clip.use_gelu", True)  # the tanh one; left out, it is another function
    for name, value in (
        ("image_size", fields["image_size"]),
        ("patch_size", fields["patch_size"]),
        ("embedding_length", width),
        ("feed_forward_length", inner),
        ("block_count", vision["num_hidden_layers"]),
        ("attention.head_count", vision["num_attention_heads"]),
        ("projection_dim", 0),
    ):
        writer.add_uint32(f"clip.vision.{name}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    patch = fields["patch_size"]
    tensors: dict[str, tuple[tuple[int, ...], str]] = {
        "v.patch_embd.weight": ((width, 3, patch, patch), "matrix"),
        "v.patch_embd.bias": ((width,), "zero"),
        "v.position_embd.weight": (((vision["image_size"] // patch) ** 2, width), "matrix"),
    }

    def linear(name: str, rows: int, columns: int) -> None:
        tensors[f"{name}.weight"] = ((rows, columns), "matrix")
        tensors[f"{name}.bias"] = ((rows,), "zero")

    def norm(name: str, size: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = ((size,), "one"), ((size,), "zero")

    for i in range(vision["num_hidden_layers"]):
        block = f"v.blk.{i}"
        norm(f"{block}.ln1", width)
        norm(f"{block}.ln2", width)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"{block}.{name}", width, width)
        linear(f"{block}.ffn_up", inner, width)
        linear(f"{block}.ffn_down", width, inner)
    norm("v.post_ln", width)
    tensors["resampler.query"] = ((fields["query_num"], text_width), "small")
    tensors["resampler.pos_embed_k"] = ((1, text_width), "zero")  # must be there; is not used
    tensors["resampler.proj.weight"] = ((text_width, text_width), "matrix")
    tensors["resampler.kv.weight"] = ((text_width, width), "matrix")
    for name in ("q", "k", "v", "out"):
        linear(f"resampler.attn.{name}", text_width, text_width)
    for name in ("ln_q", "ln_kv", "ln_post"):
        norm(f"resampler.{name}", text_width)
    write(writer, tensors)


def write(writer: gguf.GGUFWriter, tensors: dict[str, tuple[tuple[int, ...], str]]) -> None:
    """Matrices in float16, the rest in float32; one tensor in memory at a time."""
    for name, (shape, kind) in tensors.items():
        dtype = np.dtype(np.float16 if kind == "matrix" else np.float32)
        writer.add_tensor_info(name, shape, dtype, int(np.prod(shape)) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for shape, kind in tensors.values():
        if kind == "matrix":
            tensor = weights(*shape)
        elif kind == "small":
            tensor = weights(*shape).astype(np.float32)
        else:
            tensor = np.full(shape, 1.0 if kind == "one" else 0.0, np.float32)
        writer.write_tensor_data(tensor)
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="2.6", choices=["2.6", "tiny"], help="default: 2.6")
    parser.add_argument("--layers", type=int, help="decoder layers (default: all)")
    parser.add_argument("--types", nargs="*", default=[], help="of llama-quantize: Q4_0 Q4_K_M ...")
    args = parser.parse_args()
    fields = config_of(args.shape, args.layers)
    args.folder.mkdir(parents=True, exist_ok=True)
    model = args.folder / "model-f16.gguf"
    write_language_model(model, fields)
    write_vision(args.folder / "mmproj-f16.gguf", fields)
    for kind in args.types:
        quantize = program("llama-quantize")
        if quantize is None:
            raise SystemExit("There is no llama-quantize on the PATH or in LLAMA_CPP_DIR.")
        target = args.folder / f"model-{kind.lower()}.gguf"
        subprocess.run([quantize, str(model), str(target), kind], check=True)


if __name__ == "__main__":
    main()
