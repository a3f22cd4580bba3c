"""The grammars that write the pre-training text of `nano`, from the lists in `nano_words.py`.

A document is either a `str` (plain prose) or a dict with `messages` (a dialogue in the chat format)
and, for function calls, `tools`. `documents(seed)` yields them without end; the same seed gives the
same documents. Everything is drawn from one `random.Random`, passed as `r`.
"""

import json
import random
from collections.abc import Iterator

import nano_words as w

Document = str | dict

# Laid out by hand, so that each question stands next to its answer.
# fmt: off


# --- words -----------------------------------------------------------------------------------------


def made_up(r: random.Random) -> str:
    """A word that means nothing ("flomber", "stouchic"): 1-4 syllables, now and then bare random letters."""
    if r.random() < 0.12:
        return "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(r.randint(3, 8)))
    word = ""
    for i in range(r.choice((1, 2, 2, 2, 3, 3, 4))):
        word += (r.choice(w.ONSETS) if i or r.random() < 0.8 else "") + r.choice(w.VOWELS)
        word += r.choice(w.CODAS) if r.random() < 0.6 else ""
    return word


def noun(r: random.Random) -> str:
    """A thing to talk about: from the lists, made up, or a compound of two words."""
    x = r.random()
    if x < 0.30:
        return r.choice(w.THINGS)[0]
    if x < 0.36:
        return r.choice(w.ANIMALS)[0]
    if x < 0.42:
        return r.choice(w.FOODS)[0]
    if x < 0.48:
        return r.choice(w.PLACES)[0]
    if x < 0.78:
        return made_up(r)
    first = r.choice((r.choice(w.ADJECTIVES), r.choice(w.THINGS)[0], r.choice(w.PLACES)[0], made_up(r)))
    return f"{first} {r.choice((r.choice(w.THINGS)[0], made_up(r)))}"


def name(r: random.Random) -> str:
    """A person's name, one in four made up."""
    return made_up(r).capitalize() if r.random() < 0.25 else r.choice(w.SHE_NAMES + w.HE_NAMES)


def an(phrase: str) -> str:
    """The phrase with its article: `an apple`, `a pear`."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def cap(sentence: str) -> str:
    """The sentence with a capital first letter; the rest stays as it is."""
    return sentence[0].upper() + sentence[1:]


# --- questions and answers -------------------------------------------------------------------------
# Each function returns a list of (question, answer) pairs about one thing, in an order that makes sense.

Pairs = list[tuple[str, str]]


def about_thing(r: random.Random) -> Pairs:
    """Facts about a household thing."""
    n, place, use, material = r.choice(w.THINGS)
    pairs = [
        (r.choice((f"What is {an(n)}?", f"Tell me about the {n}.", f"What do you know about the {n}?")),
         r.choice((f"{cap(an(n))} is a thing made of {material}. People use it to {use}.",
                   f"The {n} is made of {material}. You can use it to {use}. It is often {place}."))),
        (r.choice((f"What is the {n} for?", f"What can I do with {an(n)}?", f"Why do I need {an(n)}?")),
         r.choice((f"You can use the {n} to {use}.", f"People use {an(n)} to {use}.",
                   f"With {an(n)} you can {use}."))),
        (r.choice((f"Where is the {n}?", f"Where can I find the {n}?")),
         r.choice((f"The {n} is {place}.", f"You can find the {n} {place}."))),
        (f"Have you seen the {n}?", f"Yes, the {n} is {place}."),
        (f"What is the {n} made of?", r.choice((f"The {n} is made of {material}.", f"It is made of {material}."))),
    ]
    return r.sample(pairs, r.randint(1, 3))


def about_any(r: random.Random) -> Pairs:
    """Plain everyday requests about any noun, also one nobody has heard of. The reply uses the noun."""
    n, a, who = noun(r), r.choice(w.ADJECTIVES), name(r)
    plain, doing, reason = r.choice(w.ACTIONS)
    day, place = r.choice(w.DAYS), r.choice(w.PLACES)[0]
    return [r.choice((
        (r.choice((f"What are you doing with the {n}?", f"What are you doing to the {n}?")),
         r.choice((f"I am {doing} the {n}. {reason}", f"{reason} So I am {doing} the {n}."))),
        (f"Why are you {doing} the {n}?", f"I am {doing} the {n} because {reason[0].lower() + reason[1:]}"
         if not reason.startswith("I ") else f"I am {doing} the {n} because {reason}"),
        (f"Can you {plain} the {n}?", r.choice((f"Yes, I can {plain} the {n} today.",
                                               f"Of course. I will {plain} the {n} on {day}."))),
        (f"Will you {plain} the {n} today?", r.choice((f"Yes, I will {plain} the {n} this evening.",
                                                      f"Not today. I will {plain} the {n} on {day}."))),
        (f"Did you {plain} the {n}?", r.choice((f"Yes, the {n} is ready.", f"Not yet. I will do the {n} on {day}."))),
        (f"Please {plain} the {n}.", r.choice((f"Very well. I will {plain} the {n} now.",
                                              f"I will {plain} the {n} in a moment."))),
        (r.choice((f"What should I do with the {n}?", f"What shall we do about the {n}?")),
         r.choice((f"You can {plain} the {n}.", f"First {plain} the {n}, then take it to the {place}."))),
        (r.choice((f"What do you think of the {n}?", f"Do you like the {n}?", f"How is the {n}?")),
         r.choice((f"I like the {n}. It is {a}.", f"The {n} is {a}, and that is fine.",
                   f"I think the {n} is a little too {a}."))),
        (f"Where did you put the {n}?", f"I put the {n} at the {place}."),
        (f"Where is the {n}?", f"The {n} is at the {place}."),
        (f"Who has the {n}?", f"{who} has the {n}."),
        (f"When will you need the {n}?", f"I will need the {n} on {day}."),
        (f"Is the {n} ready?", r.choice((f"Yes, the {n} is ready.", f"Not yet. The {n} will be ready on {day}."))),
        (r.choice((f"Are you ready for the {n}?", f"Any plans for the {n}?", f"What is your plan for the {n}?")),
         r.choice((f"Yes, I am ready for the {n}.", f"I will {plain} the {n} on {day}."))),
        (f"{who} asked about the {n}. What should I say?", f"Tell {who} that the {n} is at the {place}."),
        (f"I bought {an(n)}.", r.choice((f"That is good. Where will you put the {n}?",
                                        f"Very nice. You can {plain} the {n} first."))),
        (f"The {n} is {a}.", r.choice((f"I see. Then we should {plain} the {n}.", f"Yes, the {n} is very {a}."))),
        (f"What is {an(n)}?", f"{cap(an(n))} is a {a} thing. You can find it at the {place}."),
        (r.choice((f"Tell me about the {n}.", f"Say something about the {n}.")),
         f"The {n} is {a}. {who} keeps it at the {place}."),
        (f"I need help with the {n}.", r.choice((f"I can help you. First we {plain} the {n}.",
                                                f"Of course. What is wrong with the {n}?"))),
        (f"Hello. Is this the {n}?", f"Yes, this is the {n}. How can I help you?"),
    ))]


def copying(r: random.Random) -> Pairs:
    """Words and sentences to be given back: practice at repeating what stands in the prompt."""
    a, b, c = noun(r), noun(r), noun(r)
    who, number = name(r), str(r.randint(0, 99999))
    say = r.choice(("Say", "Write", "Repeat", "Give me"))
    return [r.choice((
        (f"{say} the word {a}.", f"{cap(a)}."),
        (f"{say} this: {a}, {b}, {c}", f"{a}, {b}, {c}"),
        (f"{say} the words {a} and {b}.", f"{cap(a)} and {b}."),
        (f"Repeat after me: the {a} and the {b}.", f"The {a} and the {b}."),
        (f"{say} {a} twice.", f"{a} {a}"),
        (f"{say} the number {number}.", f"{number}"),
        (f"Write a sentence with the word {a}.", f"{name(r)} saw the {a} in the {r.choice(w.PLACES)[0]}."),
        (f"My name is {who}. What is my name?", f"Your name is {who}."),
        (f"Hello, I am {who}.", f"Hello, {who}. How can I help you?"),
        (f"The {a} is called {who}. What is the {a} called?", f"The {a} is called {who}."),
        (f"The {a} is in the {b}. Where is the {a}?", f"The {a} is in the {b}."),
        (f"{who} has {an(a)} and {name(r)} has {an(b)}. What does {who} have?", f"{who} has {an(a)}."),
        (f"Which is first, the {a} or the {b}?", f"The {a} is first, and the {b} is second."),
        (f"List these: {a}, {b}, {c}", f"- {a}\n- {b}\n- {c}"),
        (f"Write {a} in capital letters.", f"{a.upper()}") if len(a) < 7 else (f"Spell {a[:4]}.", " ".join(a[:4])),
    ))]


def about_world(r: random.Random) -> Pairs:
    """Animals, foods, places, jobs, opposites and fixed facts."""
    an_, home, food, does = r.choice(w.ANIMALS)
    f, taste, colour = r.choice(w.FOODS)
    p, doing, worker, there = r.choice(w.PLACES)
    job, task = r.choice(w.JOBS)
    x, y = r.choice(w.OPPOSITES)
    if r.random() < 0.5:
        x, y = y, x
    day = r.randrange(7)
    i, j = r.randint(0, 10), r.randint(0, 10)
    return [r.choice((
        (f"Where does {an(an_)} live?", f"{cap(an(an_))} lives {home}."),
        (f"What does {an(an_)} eat?", f"{cap(an(an_))} eats {food}."),
        (f"What does the {an_} do?", f"The {an_} {does}."),
        (f"Tell me about the {an_}.", f"The {an_} lives {home}. It eats {food}. It {does}."),
        (f"How does {f} taste?", f"The taste of {f} is {taste}."),
        (f"What colour is {f}?", f"It is {colour}."),
        (f"What can I do at the {p}?", f"At the {p} you can {doing}."),
        (f"Who works at the {p}?", f"{cap(worker if worker.startswith('a') else an(worker))} works at the {p}."),
        (f"What is at the {p}?", f"At the {p} you can see {there}."),
        (f"What does a {job} do?", f"A {job} {task}."),
        (f"Who {task}?", f"A {job} {task}."),
        (f"What is the opposite of {x}?", f"The opposite of {x} is {y}."),
        (f"What day comes after {w.DAYS[day]}?", f"{w.DAYS[(day + 1) % 7]} comes after {w.DAYS[day]}."),
        (f"What is {w.NUMBERS[i]} plus {w.NUMBERS[j]}?", f"{cap(w.NUMBERS[i])} plus {w.NUMBERS[j]} is {w.NUMBERS[i + j]}."),
        (f"What is {i} + {j}?", f"{i} + {j} = {i + j}"),
        r.choice(w.FACTS), r.choice(w.FACTS), r.choice(w.FACTS),
    ))]


def small_talk(r: random.Random) -> Pairs:
    """Greetings, plans, weather and thanks."""
    who, city, sky, day = name(r), r.choice(w.CITIES), r.choice(w.WEATHER), r.choice(w.DAYS)
    act, past = r.choice(w.ACTIVITIES)
    return [r.choice((
        (r.choice(("Hello.", "Hi.", "Good morning.", "Good evening.")), "Hello. How can I help you?"),
        (r.choice(("How are you?", "How are you today?")), "I am well, thank you. And you?"),
        (r.choice(("What are you doing?", "What are you doing now?", "What are you up to?")), f"I am {act}."),
        (f"What are you doing on {day}?", f"On {day} I am {act}."),
        (f"What is {who} doing?", f"{who} is {act}."),
        (f"What did {who} do on {day}?", f"On {day} {who} {past}."),
        ("What did you do yesterday?", f"Yesterday I {past}."),
        (f"How is the weather in {city}?", f"In {city} it is {sky} today."),
        (f"Where does {who} live?", f"{who} lives in {city}."),
        ("Who are you?", "I am a small assistant. I can answer simple questions."),
        (r.choice(("Thank you.", "Thanks.")), "You are welcome."),
        (r.choice(("Goodbye.", "See you tomorrow.")), "Goodbye. Have a good day."),
        ("Can you help me?", "Of course. What do you need?"),
        (f"Is {act} good? Answer yes or no.", "Yes."),
        (f"It is {sky} today.", f"Yes, it is {sky}. A good day for {act}."),
    ))]


def choices(r: random.Random) -> Pairs:
    """One-word answers and short lists: sorting words, good or bad reviews, titles."""
    good = r.random() < 0.5
    n = noun(r)
    mood = r.choice(("good", "nice", "very useful", "beautiful") if good else ("bad", "broken", "too slow", "ugly"))
    end = r.choice(("I like it.", "I am happy.") if good else ("I do not like it.", "I want my money back."))
    kind, rows = r.choice((("animals", w.ANIMALS), ("foods", w.FOODS), ("things", w.THINGS), ("places", w.PLACES)))
    three = [row[0] for row in r.sample(rows, 3)]
    return [r.choice((
        (f"Is this review good or bad? The {n} is {mood}. {end}", "Good." if good else "Bad."),
        (f"Name three {kind}.", f"{cap(three[0])}, {three[1]} and {three[2]}."),
        (f"Is {an(three[0])} one of the {kind}?", f"Yes, {an(three[0])} is one of the {kind}."),
        (f"Make a list of three {kind}.", "\n".join(f"{i}. {x}" for i, x in enumerate(three, 1))),
        (f"Give a title to this story: {story(r)}", f"The {n}" if r.random() < 0.5 else f"A day at the {r.choice(w.PLACES)[0]}"),
    ))]


# --- prose -----------------------------------------------------------------------------------------


def story(r: random.Random) -> str:
    """A story of 3-6 sentences about one person and one thing."""
    who, friend, n = name(r), name(r), noun(r)
    p, doing, _, there = r.choice(w.PLACES)
    a, b = r.sample(w.ADJECTIVES, 2)
    she = "she" if who in w.SHE_NAMES else "he" if who in w.HE_NAMES else r.choice(("he", "she"))
    her = {"he": "his", "she": "her"}[she]
    plain, ing, _ = r.choice(w.ACTIONS)
    _, past = r.choice(w.ACTIVITIES)
    when = r.choice((f"On {r.choice(w.DAYS)}", "One morning", "In the evening", f"One day in {r.choice(w.MONTHS)}"))
    start = r.choice((
        f"{when} {who} went to the {p} to {doing}.",
        f"{who} had {an(a)} {n}. It was also {b}.",
        f"{when} {who} found {an(a)} {n} at the {p}.",
    ))
    middle = [
        f"There {she} saw {there}.", f"The weather was {r.choice(w.WEATHER)}.",
        f"{cap(she)} wanted to {plain} the {n}.", f"{friend} came to help with the {n}.",
        f'"What is that?" asked {friend}. "It is {an(n)}," said {who}.',
        f'"Are you {ing} the {n}?" asked {friend}. "Yes," said {who}.',
        f"The {n} was {a} and {b}.", f"{cap(she)} put the {n} in {her} bag.",
    ]
    end = r.choice((f"Then {she} went home and {past}.", f"In the end {who} was happy with the {n}.",
                    f"At night {she} was tired and slept well.", f"{who} and {friend} {past} together.",
                    f"After that {she} gave the {n} to {friend}."))
    return " ".join([start, *r.sample(middle, r.randint(1, 4)), end])


def prose(r: random.Random) -> str:
    """Stories, descriptions and plain facts without roles."""
    x = r.random()
    if x < 0.6:
        return story(r)
    pairs = about_world(r) + about_thing(r) if x < 0.85 else about_any(r) + about_world(r)
    if x < 0.93:
        return " ".join(answer for _, answer in pairs)
    return "\n".join(f"Question: {q}\nAnswer: {a}" for q, a in pairs)


def italian(r: random.Random) -> Document:
    """A little Italian: a few sentences, or a short dialogue."""
    n, gender, where = r.choice(w.IT_THINGS)
    adjective, who, act = r.choice(w.IT_ADJECTIVES[gender]), r.choice(w.IT_NAMES), r.choice(w.IT_ACTIONS)
    if r.random() < 0.4:
        return r.choice((f"{cap(n)} è {adjective}. {who} {act}.", f"{who} {act}. {cap(n)} è {where}.",
                         f"Oggi {who} {act}. Poi torna a casa. {cap(n)} è {where} ed è {adjective}."))
    return chat(r, [r.choice((
        (f"Dov'è {n}?", f"{cap(n)} è {where}."), (f"Com'è {n}?", f"{cap(n)} è {adjective}."),
        (f"Che cosa fa {who}?", f"{who} {act}."), ("Chi sei?", f"Sono {who}. E tu come ti chiami?"),
        (f"Mi chiamo {who}.", f"Ciao, {who}. Come posso aiutarti?"), r.choice(w.IT_FACTS),
    ))])


# --- dialogues -------------------------------------------------------------------------------------

SYSTEM = ("You are a helpful assistant.", "You are a helpful assistant. Answer in short sentences.",
          "Answer the question.", "You are a plain and friendly assistant.", "Be short and clear.")


def chat(r: random.Random, pairs: Pairs) -> dict:
    """The pairs as one conversation, one in six with a system message."""
    messages = [{"role": "system", "content": r.choice(SYSTEM)}] if r.random() < 1 / 6 else []
    for question, answer in pairs:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def tool(name_: str, about: str, **arguments: str) -> dict:
    """A tool in the JSON-schema form that chat templates take; `arguments` maps names to JSON types."""
    return {"type": "function", "function": {"name": name_, "description": about, "parameters": {
        "type": "object", "properties": {k: {"type": t} for k, t in arguments.items()}, "required": list(arguments)}}}


def calls(r: random.Random) -> dict:
    """A question, the call of a tool, its result, and the reply that uses the result."""
    city, minutes, i, j = r.choice(w.CITIES), r.randint(1, 60), r.randint(0, 50), r.randint(0, 50)
    who, n, sky, degrees = name(r), noun(r), r.choice(w.WEATHER), r.randint(-5, 35)
    verb = r.choice(("find", "buy", "check", "open", "get", made_up(r)))
    options = [
        (tool("get_weather", "The weather in a city.", city="string"), f"What is the weather in {city}?",
         {"city": city}, {"sky": sky, "degrees": degrees}, f"In {city} it is {sky}, {degrees} degrees."),
        (tool("set_timer", "Start a timer.", minutes="integer"), f"Set a timer for {minutes} minutes.",
         {"minutes": minutes}, {"ok": True}, f"The timer is set for {minutes} minutes."),
        (tool("add", "Add two numbers.", a="number", b="number"), f"What is {i} plus {j}?",
         {"a": i, "b": j}, {"result": i + j}, f"The result is {i + j}."),
        (tool("send_message", "Send a message.", to="string", text="string"), f"Tell {who} that the {n} is ready.",
         {"to": who, "text": f"The {n} is ready."}, {"ok": True}, f"I told {who} that the {n} is ready."),
        (tool(f"{verb}_item", f"{cap(verb)} an item.", item="string"), f"Please {verb} the {n}.",
         {"item": n}, {"ok": True}, f"The {n} is done."),
    ]
    used, question, arguments, result, reply = r.choice(options)
    tools = [used] + ([t[0] for t in r.sample(options, 1) if t[0] is not used] if r.random() < 0.4 else [])
    r.shuffle(tools)
    call = {"type": "function", "function": {"name": used["function"]["name"], "arguments": arguments}}
    return {"tools": tools, "messages": [
        {"role": "user", "content": question}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": json.dumps(result)}, {"role": "assistant", "content": reply}]}


def data(r: random.Random) -> dict:
    """Questions whose answer is JSON."""
    who, age, city, n, price = name(r), r.randint(5, 90), r.choice(w.CITIES), noun(r), r.randint(1, 90)
    return chat(r, [r.choice((
        (f"Write this as JSON: {who} is {age} years old and lives in {city}.",
         json.dumps({"name": who, "age": age, "city": city})),
        (f"Write this as JSON: the {n} costs {price} euros.", json.dumps({"item": n, "price": price})),
        (f"Give me the name as JSON: my friend {who} is here.", json.dumps({"name": who})),
    ))])


# part of all documents | what writes them
MIX = ((0.10, lambda r: prose(r)), (0.13, lambda r: chat(r, about_thing(r))), (0.27, lambda r: chat(r, about_any(r))),
       (0.16, lambda r: chat(r, copying(r))), (0.11, lambda r: chat(r, about_world(r))),
       (0.07, lambda r: chat(r, small_talk(r))), (0.03, lambda r: chat(r, choices(r))), (0.05, italian),
       (0.025, calls), (0.015, data),
       (0.04, lambda r: chat(r, small_talk(r) + about_any(r) + r.choice((about_world, about_thing, about_any))(r))))


def documents(seed: int) -> Iterator[Document]:
    """Documents without end, in the proportions of `MIX`; the same seed gives the same ones."""
    r = random.Random(seed)
    shares, writers = [share for share, _ in MIX], [writer for _, writer in MIX]
    while True:
        yield r.choices(writers, shares)[0](r)
