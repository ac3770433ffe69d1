"""MiniCPM-V 4.0 and 4.5 reach vLLM's own class, and their own code, as without the plugin.

    python -m tests.suites.vllm_hand_back GOLDEN OUT

For `vllm.py`: run in an environment with vLLM. Compares what vLLM finds for the small files of such
a model with the plugin and without. Weights are not needed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .vllm_checkpoints import newer_release

LOOK = """
import json, sys
from vllm.plugins import load_general_plugins
load_general_plugins()
from transformers import AutoTokenizer
from vllm.config import ModelConfig
from vllm.transformers_utils.processor import get_processor_cls_name_from_config
from vllm.transformers_utils import processors
folder = sys.argv[1]
config = ModelConfig(folder, trust_remote_code=True, dtype="float32", max_model_len=128)
model, name = config.registry.resolve_model_cls(config.architectures, config)
print(json.dumps({
    "config": type(config.hf_config).__module__.split(".")[-1],
    "model": f"{model.__module__}.{model.__name__}",
    "architecture": name,
    "tokenizer mode": config.tokenizer_mode,
    "tokenizer": type(AutoTokenizer.from_pretrained(folder, trust_remote_code=True)).__module__,
    "processor": getattr(processors, get_processor_cls_name_from_config(folder)).__module__,
}))
"""


def look(folder: Path, plugins: str) -> Any:
    """What vLLM finds, with the plugins of these names."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(folder)],
        env=os.environ | {"VLLM_PLUGINS": plugins, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    return json.loads(lines[-1]) if done.returncode == 0 else done.stderr.splitlines()[-1]


def main() -> int:
    golden, out = map(Path, sys.argv[1:])
    tokenizer = golden / "minicpm-v-2_6" / "checkpoint"
    wrong = 0
    for version in (4.0, 4.5):
        folder = newer_release(out / f"newer-{version}", tokenizer, version)
        without, found = look(folder, "none"), look(folder, "minicpmv")
        is_same = found == without and isinstance(found, dict)
        print(version, "as before" if is_same else f"{found}, without the plugin {without}")
        wrong += not is_same
    return wrong


if __name__ == "__main__":
    sys.exit(main())
