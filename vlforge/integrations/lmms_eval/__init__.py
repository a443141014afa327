"""VLForge's models in lmms-eval, as the model `vlforge`.

An installed VLForge is found through the entry-point group `lmms_eval.models`; older
versions of lmms-eval find it with LMMS_EVAL_PLUGINS=vlforge.integrations.lmms_eval.

    lmms-eval --model vlforge --model_args pretrained=FOLDER --tasks mmbench_en_dev

Source: EvolvingLMMs-Lab/lmms-eval 0.7.3 (models/registry_v2.py, models/__init__.py).
"""

from __future__ import annotations

from typing import Any

from vlforge.integrations.lmms_eval.models import AVAILABLE_MODELS


def manifests() -> list[Any]:
    """What the entry point gives: one manifest per model class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    home = f"{__name__}.models"
    return [
        ModelManifest(model_id=name, simple_class_path=f"{home}.{name}.{cls}")
        for name, cls in AVAILABLE_MODELS.items()
    ]
