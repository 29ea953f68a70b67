"""Answers generated questions from their text alone, kind by kind, with none of the generators' code: what it says is what is right.

It reads small letters, since questions come in them too. `solve` gives the words of the answer; `solve_call` the call that is needed.
"""
from __future__ import annotations

import re
from collections.abc import Callable

from fathom.train.sft.kinds.words import CITIES, NAMES, THINGS


def number(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def spelled(word: str, pool: tuple[str, ...]) -> str:
    """A name as it is written, whatever its case in the question."""
    return next(one for one in pool if one.lower() == word.lower())


def greetings(asked: str) -> str:
    name = next((word for word in re.findall(r"\w+", asked) if word in {n.lower() for n in NAMES}), None)
    if asked.startswith("thank"):
        return "You are welcome!"
    if asked.startswith(("bye", "goodbye", "see you", "good night")):
        return "Goodbye!"
    more = {"how are you": "I am fine, thank you.", "who are you": "I am Fathom, a small model.", "can you help": "Yes, just ask.",
            "what can you do": "I can count, sort and look things up."}
    said = next((reply for words, reply in more.items() if words in asked), "How can I help you?")
    return f"Hello{' ' + spelled(name, NAMES) if name else ''}! {said}"


def echo(asked: str) -> str:
    return f"Sure: {asked.partition(': ')[2]}"


def arithmetic(asked: str) -> str:
    for word, sign in (("plus", "+"), ("minus", "-"), ("times", "*")):
        asked = asked.replace(word, sign)
    problem = re.search(r"\d+(?: [-+*] \d+)+", asked)[0]
    return f"{problem} = {eval(problem)}"  # digits and signs alone


def strings(asked: str) -> str:
    asked = asked.rstrip(".?")
    if found := re.fullmatch(r"(?:repeat the word|write the word|say) (\w+) (two|three|four) times", asked):
        return "Sure: " + " ".join([found[1]] * ("two", "three", "four").index(found[2]) + [found[1]] * 2)
    if found := re.fullmatch(r"swap the words (\w+) and (\w+)|write (\w+) and (\w+) in the other order", asked):
        first, second = [word for word in found.groups() if word]
        return f"Sure: {second} {first}"
    if found := re.search(r"(first|last) (?:letter of (?:the word )?|one in )(\w+)", asked):
        return f"The {found[1]} letter of {found[2]} is {found[2][0] if found[1] == 'first' else found[2][-1]}."
    word = re.search(r"(?:word|spell|of|in) (?!the\b)(\w+)(?: have| for me)?$", asked)[1]
    return f"Sure: {' '.join(word)}" if "spell" in asked else f"The word {word} has {len(word)} letters."


def lists(asked: str) -> str:
    given = number(asked)
    rules: list[tuple[tuple[str, ...], Callable[[], str]]] = [
        (("sort", "in order"), lambda: "Sorted: " + ", ".join(map(str, sorted(given)))),
        (("reverse", "backwards"), lambda: "Reversed: " + ", ".join(map(str, reversed(given)))),
        (("largest",), lambda: f"The largest is {max(given)}."), (("smallest",), lambda: f"The smallest is {min(given)}."),
        (("first",), lambda: f"The first is {given[0]}."), (("last",), lambda: f"The last is {given[-1]}."),
        (("how many", "how long"), lambda: f"There are {len(given)} numbers.")]
    return next(say() for words, say in rules if any(word in asked for word in words))


def lookup(asked: str) -> str:
    text, question = asked.split("\n")
    named = set(re.findall(r"\w+", question)) - {"old"}
    (fact,) = [sentence for sentence in text.rstrip(".").split(". ") if named & {sentence.split()[0], sentence.split()[-1], *number_words(sentence)}]
    words = fact.split()
    if words[-1].isalpha() and words[1] == "lives":
        words[-1] = spelled(words[-1], CITIES)
    elif words[1] == "likes":
        assert words[-1] in THINGS
    return " ".join([spelled(words[0], NAMES), *words[1:]]) + "."


def number_words(sentence: str) -> set[str]:
    return set(re.findall(r"\d+", sentence))


def functions(asked: str) -> str:
    asked = asked.rstrip(".")
    head, wanted = re.search(r"(\w+\([^)]*\)) (?:that returns|to return) (.*)", asked).groups()
    parameters = re.search(r"\((.*)\)", head)[1]
    signs = {"plus": "+", "minus": "-", "times": "*", "divided by": "/"}
    for words, sign in signs.items():
        if found := re.fullmatch(rf"(\w+) {words} (\w+)", wanted):
            return f"```python\ndef {head}:\n    return {found[1]} {sign} {found[2]}\n```"
    body = {"the sum of": "sum({})", "the larger of": "max({})", "the smaller of": "min({})", "the largest of": "max({})",
            "the smallest of": "min({})",
            "the length of": "len({})", "the first of": "{}[0]", "the last of": "{}[-1]"}
    if wanted.endswith("in order"):
        code = f"sorted({parameters})"
    elif wanted.startswith("the sum of") and "," in parameters:
        code = parameters.replace(", ", " + ")
    elif wanted.startswith("the product of"):
        code = parameters.replace(", ", " * ")
    else:
        code = next(code for words, code in body.items() if wanted.startswith(words)).format(parameters)
    return f"```python\ndef {head}:\n    return {code}\n```"


def toolless(asked: str) -> str:
    assert "weather" in asked
    return "I have no tool for the weather."


def solve(kind: str, question: str) -> str:
    """The answer to a question that needs no tool."""
    asked = question if kind == "functions" else question.lower()
    return {"greetings": greetings, "echo": echo, "arithmetic": arithmetic, "strings": strings, "lists": lists, "lookup": lookup,
            "functions": functions, "toolless": toolless}[kind](asked)


def solve_call(question: str) -> dict[str, object]:
    """The arguments of the call that a question about the weather needs."""
    asked = question.lower().rstrip(".?")
    city = re.search(r" in ([a-z]+)(?: today| tomorrow| in \d+ days)?$", asked)[1]
    days = {"days": 1} if asked.endswith("tomorrow") else {"days": number(asked)[0]} if number(asked) else {}
    return {"location": spelled(city, CITIES), **days}


def solve_result(question: str, sky: str, degrees: int) -> str:
    """The answer to it, once the tool has said sky and degrees."""
    call = solve_call(question)
    return f"It {'will be' if 'days' in call else 'is'} {sky} in {call['location']}, {degrees} degrees."
