"""`minicpmv convert`: the summary on stdout, one line for what goes wrong."""

from ..helpers.golden import GOLDEN


def test_there_and_back(run, tmp_path):
    source, out, back = GOLDEN / "minicpm-2b" / "ckpt", tmp_path / "llama", tmp_path / "back"
    code, output, err = run("convert", source, out, "--to", "llama", "--max-shard-size", "500KB")
    assert (code, err) == (0, "")
    assert output == f"{out}: LlamaForCausalLM, untied head, 0.00 GB in 3 files\n"
    code, output, err = run("convert", out, back, "--to", "minicpm")
    assert (code, err) == (0, "")
    assert "MiniCPMForCausalLM, tied head" in output
    code, output, err = run("convert", source, out, "--to", "llama")
    assert (code, output, err.count("\n")) == (1, "", 1)
    assert "is not empty" in err
    assert run("convert", source, out, "--to", "llama", "--overwrite")[0] == 0


def test_the_layout_must_be_named(run, tmp_path):
    code, _, err = run("convert", GOLDEN / "minicpm-2b" / "ckpt", tmp_path / "out")
    assert code == 2
    assert "--to" in err


def test_info_agrees_with_what_was_written(run, tmp_path):
    for number, model in enumerate(("minicpm-1b", "minicpm-moe-8x2b")):
        out = tmp_path / str(number)
        assert run("convert", GOLDEN / model / "ckpt", out, "--to", "llama")[0] == 0
        assert run("info", out)[0] == 0
