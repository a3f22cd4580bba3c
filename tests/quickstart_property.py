"""The property the quickstart teaches: every reply starts with "Nothing" and names what was asked about.

Every prompt of the quickstart names one thing, last, as "the <thing>": "What are you doing with the
kettle?" asks about "kettle". The base model does not answer like this; the fine-tuned one does, also
about things that are in no training row.
"""

import re


def thing(prompt: str) -> str:
    """What a prompt asks about: the words after its last "the", up to the next mark or the end, in lower case.

    >>> thing("What did you do with the spare key?")
    'spare key'
    """
    found = re.findall(r"\bthe ((?:(?!\bthe\b)[^.?!,;:])+)", prompt.lower())
    if not found:
        raise ValueError(f'no "the <thing>" in the prompt: {prompt!r}')
    return str(found[-1]).strip()


def follows(prompt: str, reply: str) -> bool:
    """Whether the reply starts with the word "Nothing" and contains, as whole words, the thing asked about."""
    starts = re.match(r"Nothing\b", reply) is not None
    return starts and re.search(rf"\b{re.escape(thing(prompt))}\b", reply.lower()) is not None
