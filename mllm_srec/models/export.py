"""Trained weights as other programs read them: an adapter of PEFT, or a whole model of transformers, with a card."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mllm_srec.files.folders import follow_umask
from mllm_srec.models.backbone import Backbone
from mllm_srec.models.backbone_files import BackboneInfo, folder_of
from mllm_srec.types import VERSION

BESIDE_WEIGHTS = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*processor_config.json",
)
"""Files of a backbone's folder that training leaves as they are, and without which its weights are no model."""


def export_weights(backbone: Backbone, folder: Path) -> None:
    """Write the trained weights of a backbone.

    An adapter names the model and the commit that it belongs to. A fully trained model is written with tokenizer and
    image processor, so that its folder is a backbone itself.

    Args:
        backbone: Loaded backbone, trained or not.
        folder: Folder of the files, made if it is missing.
    """
    net: Any = backbone.net
    if hasattr(net, "peft_config"):
        for config in net.peft_config.values():
            config.base_model_name_or_path, config.revision = backbone.info.name, backbone.info.commit
        net.save_pretrained(str(folder), save_embedding_layers=False)
    else:
        backbone.base.save_pretrained(str(folder))
        source = folder_of(backbone.info)
        for path in sorted({path for pattern in BESIDE_WEIGHTS for path in source.glob(pattern)}):
            shutil.copyfile(path, folder / path.name)
    (folder / "README.md").write_text(_card(backbone.info, adapter=hasattr(net, "peft_config")), encoding="utf-8")
    follow_umask(folder)  # safetensors writes its files for their owner alone


def _card(info: BackboneInfo, adapter: bool) -> str:
    """Write the model card; a local backbone is named by its folder's name, since paths mean nothing elsewhere."""
    head = ["library_name: peft" if adapter else "library_name: transformers"]
    if info.commit:
        head.append(f"base_model: {info.name}")
    at = f" at commit `{info.commit}`" if info.commit else ""
    how = (
        "LoRA weights in PEFT's format. Load the backbone first, then `PeftModel.from_pretrained(backbone, FOLDER)`."
        if adapter
        else "All weights, with tokenizer and image processor: a folder that `model.backbone` takes, or transformers."
    )
    random = "\nThe backbone began with random weights: these weights are good for tests only.\n" * info.random_weights
    return (
        "---\n" + "\n".join(head) + "\ntags:\n- recommendation\n- mllm_srec\n---\n\n"
        "# A multimodal sequential recommender\n\n"
        f'Trained by mllm_srec {VERSION} to answer "will this user like this item next?" with "Yes." or "No.".\n\n'
        f"- Backbone: `{info.label}`{at} ({info.class_name}, fingerprint {info.fingerprint})\n"
        f"- {how}\n"
        "- Data, settings and results: `config.yaml` and `metrics.json` of the run that wrote this folder.\n" + random
    )
