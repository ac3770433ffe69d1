#!/usr/bin/env bash
# transformers 5.23.0: a model registered with an Auto class cannot be served by `transformers serve`.
#
# AutoModelForImageTextToText.register(MyConfig, MyModel) is the documented way to add a model from outside. Loading through the
# Auto class then works. But `transformers serve` asks which kind of model it has loaded by looking for the NAME of its class in the
# tables MODEL_FOR_*_MAPPING_NAMES, which `register` does not touch, so every route answers with an error.
#
# Seen: "loads: MyModel", then "Unknown modality for: MyModel"; known as soon as the name is put into the table.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "torch==2.13.0" "transformers[serving]==5.23.0" "pillow==12.3.0"
"$work/venv/bin/python" - <<'PYTHON'
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel
from transformers.cli.serving.model_manager import ModelManager
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


class MyConfig(PreTrainedConfig):
    model_type = "my_model"


class MyModel(PreTrainedModel):
    config_class = MyConfig

    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Linear(1, 1)
        self.post_init()


AutoConfig.register("my_model", MyConfig)
AutoModelForImageTextToText.register(MyConfig, MyModel)
model = AutoModelForImageTextToText.from_config(MyConfig())
print("loads:", type(model).__name__)
try:
    found = ModelManager.get_model_modality(model)
except ValueError as error:
    assert "Unknown modality for: MyModel" in str(error), error
    print(error)
else:
    raise SystemExit(f"CHANGED: the registered model is known as {found}")
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES["my_model"] = "MyModel"
print("with its name in the table:", ModelManager.get_model_modality(model))
PYTHON
echo "as described: register() does not make a model known to transformers serve"
