"""What leaves a run: which outputs there are, where they lie, how large they will be, what their files say. Light: no torch.

runs/<run-id>/exports/step-N/     what the weights of step N became
  adapter/  merged/  gguf/        each with its files, README.md (the card) and EXPORT.json (see `manifest`)
  ollama/  vllm/  llama.cpp/      how each is served
"""

from nothing_tune.outputs.wanted import Wanted

__all__ = ["Wanted"]
