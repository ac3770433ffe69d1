"""What was typed wrongly exits with 2 and names the flag, before any model is loaded."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from PIL import Image

from minicpmv.chat import Chat

from ..helpers.golden import CHECKPOINTS, GOLDEN

TEXT_MODEL = str(GOLDEN / "minicpm-2b" / "ckpt")


@pytest.fixture
def refused(run, monkeypatch):
    """Run a command that must fail before it asks a model; its one line."""

    def fail(*args, **options):
        raise AssertionError("a model was asked")

    for name in ("batch", "stream", "ask"):
        monkeypatch.setattr(Chat, name, fail)

    def check(*words, rc):
        code, out, err = run(*words)
        assert (code, out, err.count("\n")) == (rc, "", 1), err
        assert "unexpected" not in err
        return err

    return check


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("slice PICTURE --max-slice-nums 0", "--max-slice-nums is 0"),
        ("slice PICTURE --out cut.xyz", "--out 'cut.xyz' does not end in a picture format"),
        ("slice PICTURE --out EMPTY", "--out '' does not end in a picture format"),
        ("slice EMPTY", "The name of the picture is empty"),
        ("evaluate scenes --items 0", "--items is 0"),
        ("evaluate scenes --batch-size 0", "--batch-size is 0"),
        ("evaluate scenes --seed -1", "--seed is -1"),
        ("evaluate scenes --failures x.txt", "--failures is 'x.txt'; it must end in .png"),
        ("evaluate scenes --overwrite", "--overwrite would have no effect without --failures"),
        ("evaluate ocrbench --overwrite", "--overwrite is for the task scenes; remove it"),
        ("evaluate scenes --failures EMPTY", "--failures is ''"),
        ("evaluate scenes --answers EMPTY", "--answers is empty"),
        ("train pretrain --batch 0", "--batch is 0"),
        ("train pretrain --learning-rate nan", "--learning-rate is nan"),
        ("train pretrain --steps 1,2", "--steps is '1,2'"),
        ("convert nano EMPTY --to llama", "OUT is empty"),
        ("convert nano out --to minicpm --scale-emb inf", "--scale-emb is inf"),
        ("convert nano out --to minicpm --scale-depth 0", "--scale-depth is 0.0"),
        ("convert nano out --to minicpm --dim-model-base -1", "--dim-model-base is -1"),
        ("convert nano out --to llama --max-shard-size abc", "--max-shard-size: 'abc' is no size"),
        ("verify --prompt BLANK", "--prompt is empty"),
        ("verify --image EMPTY", "The name of the picture is empty"),
        ("ask Hi --device cpu:3", "--device 'cpu:3' is not available: there is one CPU device"),
        ("ask Hi --device gpu", "--device 'gpu' is not available. Known: auto, cpu, cuda"),
        (
            "ask Hi --device-map no",
            "--device-map is 'no', which is neither a strategy",
        ),
        ("ask Hi --dtype int3", "--dtype 'int3' is not known"),
        ("ask Hi --attn-implementation no", "--attn-implementation is 'no', which is not known."),
        ("ask Hi --device cpu --device-map auto", "--device 'cpu' and --device-map 'auto'"),
    ],
)
def test_a_value_without_sense_exits_with_2(refused, words, message, picture):
    typed = {"EMPTY": "", "BLANK": "  ", "PICTURE": picture}
    err = refused(*(typed.get(word, word) for word in words.split()), rc=2)
    assert message in err
    assert len(err) < 240


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="needs flash_attn to be missing")
def test_attention_whose_package_is_missing_is_named(refused):
    err = refused("ask", "Hi", "--attn-implementation", "flash_attention_2", rc=2)
    assert "--attn-implementation 'flash_attention_2' cannot be used here: " in err


def test_scalings_without_effect_are_named_as_flags(refused, tmp_path):
    words = ["convert", TEXT_MODEL, tmp_path / "out", "--to", "llama", "--scale-emb", "2"]
    assert "--scale-emb has no effect" in refused(*words, rc=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--failures nodir/x.png", "there is no folder 'nodir'"),
        ("--answers nodir/x.jsonl", "there is no folder 'nodir'"),
        ("--answers .", "--answers '.' is a folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_first(refused, words, message):
    assert message in refused("evaluate", "scenes", *words.split(), rc=1)


def test_a_drawing_needs_a_folder(refused, picture):
    err = refused("slice", picture, "--out", "nodir/cut.png", rc=1)
    assert "--out 'nodir/cut.png': there is no folder 'nodir'" in err


def test_a_wrong_word_of_many_is_named_with_the_closest(refused):
    err = refused("evaluate", "scenes", "--tasks", "countng", rc=2)
    assert "--tasks: unknown word 'countng'; did you mean 'counting'?" in err
    assert "--help" in err
    assert len(err) < 200
    assert len(refused("evaluate", "scenes", "--tasks", "zzzz", rc=2)) < 200
    assert "known: llama, mixtral, minicpm" in refused("convert", "a", "b", "--to", "zzzz", rc=2)


def test_advice_about_videos_is_in_words_of_the_command_line(run, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(64))
    code, _, err = run("slice", tmp_path / "clip.mp4")
    assert code == 1
    assert f"minicpmv ask --video {tmp_path}/clip.mp4" in err
    assert "videos=" not in err
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    done = subprocess.run(
        [sys.executable, "-m", "minicpmv", "slice", "two.gif"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "total" in done.stdout) == (0, True)
    assert done.stderr.endswith("minicpmv ask --video two.gif.\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([TEXT_MODEL, "--image", "PICTURE"], "is a text model; it cannot be shown --image"),
        ([TEXT_MODEL, "--against", "nano"], "give another format of the same model"),
        ([str(CHECKPOINTS["2.6"]), "--against", TEXT_MODEL], "MiniCPM-V 2.6 and --against"),
        ([TEXT_MODEL, "--against", str(GOLDEN / "minicpm-1b" / "ckpt")], "give another format"),
        ([""], "The name of the model is empty"),
        ([str(CHECKPOINTS["2.6"]), "--against", str(CHECKPOINTS["2.5"])], "give another format"),
    ],
)
def test_models_that_cannot_be_compared_are_refused_before_loading(
    refused, words, message, picture
):
    words = [str(picture) if word == "PICTURE" else word for word in words]
    assert message in refused("verify", *words, rc=1)
