"""README.md of an exported folder: what it is and how to open it."""

from __future__ import annotations

from qbert_core.checkpoints import Checkpoint
from qbert_core.export.layout import Layout
from qbert_core.quantization import Plan

AUTO = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "question": "AutoModelForQuestionAnswering",
}
ONE_WIDTH = """from transformers import {auto}, CompressedTensorsConfig

model = {auto}.from_pretrained(
    "{folder}", quantization_config=CompressedTensorsConfig(dequantize=True)
).eval()"""
MIXED = """from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file
from transformers import AutoConfig, {auto}

config = AutoConfig.from_pretrained("{folder}")
groups = QuantizationConfig.model_validate(config.quantization_config).config_groups
del config.quantization_config
model = {auto}.from_config(config).eval()
tensors = load_file("{folder}/model.safetensors")
for scheme in groups.values():
    compressor = BaseCompressor.get_value_from_registry(scheme.format)
    for name in scheme.targets:
        packed = {{k: tensors.pop(f"{{name}}.{{k}}") for k in compressor.compression_param_names(scheme)}}
        tensors[f"{{name}}.weight"] = compressor.decompress(packed, scheme)["weight"]
model.load_state_dict(tensors)"""
CARD = """# {name}, {plan}

Weights of {name} quantized by the plan *{plan}*, in compressed-tensors' format `pack-quantized`, layout
`{layout}`. Written and read back, weight for weight, by Q-BERT Studio. Open it with transformers 5 and
compressed-tensors 0.20:

```python
{code}
```

Its logits are those of the plan with inputs in fp32: no released version of transformers applies input
ranges from this format. The plan and, where they are known, the input ranges are in export.json.
"""


def opening_code(head: str, layout: Layout, folder: str) -> str:
    """Python that opens an exported folder with transformers and compressed-tensors alone."""
    return (ONE_WIDTH if layout == "one-width" else MIXED).format(auto=AUTO[head], folder=folder)


def card(checkpoint: Checkpoint, plan: Plan, layout: Layout) -> str:
    """The text of README.md."""
    name, title = (_plain(text) for text in (checkpoint.name, plan.name))
    code = opening_code(checkpoint.config.head, layout, "DIR")
    return CARD.format(name=name, plan=title, layout=layout, code=code)


def _plain(text: str) -> str:
    """A name from outside on one line, without markdown's powers."""
    kept = "".join(c if c.isprintable() else " " for c in text)
    return "".join("\\" + c if c in "\\`*_[]<>#&" else c for c in kept)
