"""lm-evaluation-harness on our text models, by its own class `hf`, which is not changed:

    python -m minicpmv.integrations.lm_eval --model hf \
        --model_args pretrained=openbmb/MiniCPM-2B-sft-bf16 --tasks gsm8k

It is `lm_eval` after `import minicpmv.auto`, which puts our classes into transformers' tables: no
remote code is needed.
"""


def main() -> None:
    """The command line of lm-evaluation-harness."""
    from lm_eval.__main__ import cli_evaluate

    from minicpmv import auto  # noqa: F401 - registers the classes

    cli_evaluate()


if __name__ == "__main__":
    main()
