"""`python -m nothing_tune.engine.llama_server ...`: llama-cpp-python's server, which answers as `tune chat` does.

Its requests penalise what was said already by 1.1 unless they say otherwise, at temperature 0 too, and no setting of the server changes
that (llama-cpp-python 0.3.36, llama_cpp/server/types.py). Here the default is 1.0: no penalty. A request that names one is served with it.
"""

from __future__ import annotations

REPEAT_PENALTY = 1.0


def main() -> None:
    """Serves as `python -m llama_cpp.server` does, with its arguments."""
    from llama_cpp.server import types

    for kind in (types.CreateCompletionRequest, types.CreateChatCompletionRequest):
        kind.model_fields["repeat_penalty"].default = REPEAT_PENALTY
        kind.model_rebuild(force=True)
    from llama_cpp.server import __main__ as server  # takes the requests as they are when it is imported

    server.main()


if __name__ == "__main__":
    main()
