"""The register file for ms-swift 4.6: its trainer and its inference on our models.

    swift sft --external_plugins .../minicpmv/integrations/swift.py --model_type minicpmv_native \
        --model openbmb/MiniCPM-V-2_6 --dataset rows.jsonl --strict true ...

`python -m minicpmv.integrations.swift` prints where the file is. It adds the model type and the
template `minicpmv_native` (`swift_native.py`) for releases 1.0, 2.0, 2.5, 2.6 and OmniLMM-12B.
Without `--strict true` ms-swift puts another row in the place of one that cannot be encoded.
"""

import sys
from pathlib import Path


def register() -> None:
    """Add the model type and the template to ms-swift's tables."""
    from minicpmv.integrations.swift_native import register_all

    register_all()


def _leave_path() -> None:
    """ms-swift puts the folder of a plugin in front of `sys.path`, where ours would hide TRL."""
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder]


if __name__ == "__main__":
    print(Path(__file__).resolve())
elif __name__.startswith("_swift_external_"):  # imported by ms-swift
    _leave_path()
    register()
