"""lmms-eval 0.7.3 measures our models: `lmms_eval --model minicpmv --model_args pretrained=...`.

Installing this package is enough: the entry point `lmms_eval.models` names `manifest`. The classes
are in `model.py`, which is imported when the model is asked for.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

_CLASSES = "minicpmv.integrations.lmms_eval.model"


def manifest() -> "ModelManifest":
    """Who we are, for lmms-eval's registry, which asks while it is still being imported."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="minicpmv",
        simple_class_path=f"{_CLASSES}.SimpleMiniCPMV",
        chat_class_path=f"{_CLASSES}.MiniCPMV",
    )
