"""The versions that nothing-tune was tested with: constraints.txt does not ship in the wheel, this does. A test compares the two."""

from __future__ import annotations

TESTED = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "trl": "1.16.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "bitsandbytes": "0.50.2",
    "datasets": "5.2.0",
    "tokenizers": "0.23.3",
    "safetensors": "0.8.0",
    "numpy": "2.4.6",
    "pyarrow": "26.0.1",
    "huggingface_hub": "2.4.0",
    "omegaconf": "2.4.0",
    "typer": "0.29.2",
    "rich": "15.0.0",
    "nvidia-ml-py": "13.615.71",
    "wandb": "0.31.0",
}
"""Package -> the version of constraints.txt, without a local suffix such as +cpu."""
MUST_MATCH = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes")
"""Packages whose other versions change what a training does: a resume refuses another minor version of them."""
OPTIONAL = {"wandb": "tracking.tracker=none trains without it"}
"""Package -> what is lost without it; all others are needed."""
PYTHON = ((3, 11), (3, 13))
"""Lowest and highest Python that is tested."""
