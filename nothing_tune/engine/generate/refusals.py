"""How language models refuse, and how they speak of themselves: phrases by language, in lower case, with straight apostrophes.

To add a language: one entry in each table. A phrase of `BEGIN` counts at the start of an answer, one of `ANYWHERE` everywhere;
what a teacher may well say to a learner ("I'm sorry to hear that", "non posso", "I can't") is in neither.
"""

from __future__ import annotations

BEGIN: dict[str, tuple[str, ...]] = {
    "en": (
        "i cannot assist", "i can't assist", "i cannot help with", "i can't help with", "i cannot provide", "i can't provide",
        "i cannot fulfill", "i can't fulfill", "i cannot comply", "i can't comply", "i'm unable to", "i am unable to",
        "i'm not able to", "i am not able to", "i'm sorry, but i", "i am sorry, but i", "sorry, but i can", "sorry, i can't",
        "i apologize, but i", "i must decline", "i won't be able to", "unfortunately, i cannot", "unfortunately, i can't",
    ),
    "it": (
        "mi dispiace, ma non posso", "mi dispiace, non posso", "mi spiace, ma non posso", "mi dispiace, ma non sono in grado",
        "mi dispiace, ma come", "non posso aiutarti con", "non posso assisterti", "non posso fornire", "non posso soddisfare",
        "non sono in grado di", "scusa, ma non posso", "purtroppo non posso", "purtroppo, non posso", "sono spiacente, ma non",
    ),
    "de": (
        "es tut mir leid, aber ich kann", "tut mir leid, aber ich kann", "ich kann dir dabei nicht", "ich kann ihnen dabei nicht",
        "ich bin nicht in der lage", "leider kann ich",
    ),
    "fr": (
        "je suis désolé, mais je ne", "désolé, mais je ne", "je ne peux pas vous aider", "je ne peux pas t'aider",
        "je ne suis pas en mesure", "je ne peux pas fournir",
    ),
    "es": (
        "lo siento, pero no puedo", "lo siento, no puedo", "no puedo ayudarte con", "no puedo ayudarle con", "no puedo proporcionar",
        "no me es posible", "lamento no poder",
    ),
    "pt": (
        "desculpe, mas não posso", "sinto muito, mas não posso", "lamento, mas não posso", "não posso ajudar com", "não posso fornecer",
    ),
}  # fmt: skip
ANYWHERE: dict[str, tuple[str, ...]] = {
    "en": (
        "as an ai language model", "as a language model", "as an ai assistant", "as an ai, i", "i'm an ai", "i am an ai",
        "i'm just an ai", "i'm a language model", "i am a language model", "my training data", "my knowledge cutoff",
        "i was created by openai", "i was created by alibaba", "i am qwen", "i'm qwen", "against my guidelines",
        "violates my guidelines",
    ),
    "it": (
        "come modello linguistico", "come modello di linguaggio", "come intelligenza artificiale", "come assistente virtuale",
        "come assistente ai", "in quanto modello linguistico", "in quanto intelligenza artificiale", "in quanto ia",
        "sono un modello linguistico", "sono un modello di linguaggio", "sono un'intelligenza artificiale", "sono un'ia",
        "sono qwen", "i miei dati di addestramento", "le mie linee guida",
    ),
    "de": (
        "als ki-sprachmodell", "als sprachmodell", "als künstliche intelligenz", "ich bin ein sprachmodell", "ich bin eine ki",
        "meine trainingsdaten",
    ),
    "fr": (
        "en tant que modèle de langage", "en tant qu'intelligence artificielle", "en tant qu'ia", "je suis un modèle de langage",
        "je suis une intelligence artificielle", "je suis une ia",
    ),
    "es": (
        "como modelo de lenguaje", "como inteligencia artificial", "como una ia", "soy un modelo de lenguaje",
        "soy una inteligencia artificial", "soy una ia",
    ),
    "pt": (
        "como modelo de linguagem", "como um modelo de linguagem", "como inteligência artificial", "sou um modelo de linguagem",
        "sou uma inteligência artificial",
    ),
}  # fmt: skip


def refusal(text: str) -> str:
    """The phrase by which `text` refuses or speaks of itself as a model; empty when it does neither."""
    plain = " ".join(text.replace("\u2019", "'").lower().split()).lstrip(" \"'«“*_>#-¡")
    for phrases in BEGIN.values():
        for phrase in phrases:
            if plain.startswith(phrase):
                return phrase
    for phrases in ANYWHERE.values():
        for phrase in phrases:
            if phrase in plain:
                return phrase
    return ""
