"""The job behind `tune chat`: answers messages over JSON lines, from a run, a folder or a GGUF file, loaded as they trained.

load        the model of a run with its adapter, and its tokenizer      `models`
reply       an answer as it is generated                                `replies`
main        the job itself                                              `talk`
"""

from nothing_tune.engine.chat.models import load
from nothing_tune.engine.chat.replies import reply
from nothing_tune.engine.chat.talk import main

__all__ = ["load", "main", "reply"]
