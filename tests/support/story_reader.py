"""Answers questions about stories by searching their text backwards.

An oracle for the stories of catbAbI, which are made by simulating a world forwards; it shares no
code with them.
"""

from itertools import groupby

MOVED = {"hurried", "ran", "walked", "went"}
TAKEN = {"grabbed", "took"}
PUT = {"dropped", "left"}
OFFSETS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
NUMBERS = ["none", "one", "two", "three", "four"]
SINGULAR = {
    "foxes": "fox", "frogs": "frog", "hawks": "hawk", "hens": "hen", "mice": "mouse",
    "wolves": "wolf",
}  # fmt: skip


def read_story(words):
    """Triples of a question, the answer in the text, and the answer found by search."""
    facts, sentence, triples = [], [], []
    rest = iter(words)
    for word in rest:
        if word == ".":
            facts.append(_resolved(sentence, facts))
            sentence = []
        elif word == "?":
            triples.append((" ".join(sentence), next(rest), answer(facts, sentence)))
            sentence = []
        else:
            sentence.append(word)
    assert not sentence
    return triples


def _resolved(sentence, facts):
    """The sentence with its pronoun replaced by the subject of the previous sentence."""
    if sentence[0] != "then":
        return sentence
    subject = facts[-1][: facts[-1].index("went")]
    assert sentence[1] == ("they" if len(subject) > 1 else {"a": "she"}.get(subject[0][-1], "he"))
    return [*subject, *sentence[2:]]


def answer(facts, question):
    """The answer that follows from the facts."""
    asked = (where, people_and_things, relations)
    found = [answer for ask in asked if (answer := ask(facts, question)) is not None]
    assert len(found) == 1, question
    return found[0]


def where(facts, question):
    match question:
        case ["where", "is", "the", thing]:
            return thing_place(facts, thing)
        case ["where", "was", "the", thing, "before", "the", place]:
            return thing_before(facts, thing, place)
        case ["where", "is", person]:
            return person_place(facts, person)
        case ["where", "was", person, "before", "the", place]:
            return by_the_clock(facts, person, place)
        case ["is", person, "in", "the", place]:
            return is_in(facts, person, place)


def people_and_things(facts, question):
    match question:
        case ["who", "gave", "the", thing, "to", taker]:
            return next(f[0] for f in facts[::-1] if f[1:] == ["gave", "the", thing, "to", taker])
        case ["what", "did", giver, "give", "to", taker]:
            ends = [giver, "gave"], ["to", taker]
            return next(f[3] for f in facts[::-1] if [f[:2], f[-2:]] == list(ends))
        case ["who", "received", "the", thing]:
            return next(f[-1] for f in facts[::-1] if f[1:4] == ["gave", "the", thing])
        case ["how", "many", "things", "does", person, "carry"]:
            return NUMBERS[len(carried(facts, person))]
        case ["what", "does", person, "carry"]:
            return ",".join(carried(facts, person)) or "nothing"


def relations(facts, question):
    match question:
        case ["is", "the", first, "larger", "than", "the", second]:
            return "yes" if second in smaller(facts, first) else "no"
        case ["what", "lies", direction, "of", "the", place]:
            return neighbours(facts, place)[direction]
        case ["how", "does", "one", "walk", "from", "the", start, "to", "the", end]:
            return route(facts, start, end)
        case ["what", "does", pet, "fear"]:
            kind = next(f[3] for f in facts if f[:3] == [pet, "is", "a"])
            return next(f[2] for f in facts if f[1] == "fear" and SINGULAR[f[0]] == kind)
        case ["what", "colour", "is", pet]:
            return colour(facts, pet)


def person_place(facts, person):
    for fact in facts[::-1]:
        verb = next((word for word in fact if word in MOVED), None)
        if verb and person in fact[: fact.index(verb)]:
            return fact[-1]
    return None


def holder(facts, thing):
    """The person who carries a thing and the time of the last change; None if nobody does."""
    for time in range(len(facts) - 1, -1, -1):
        fact = facts[time]
        if fact[1] in TAKEN and fact[-1] == thing:
            return fact[0], time
        if fact[1] == "gave" and fact[3] == thing:
            return fact[-1], time
        if fact[1] in PUT and fact[-1] == thing:
            return None, time
    return None, None


def thing_place(facts, thing):
    person, time = holder(facts, thing)
    if person:
        return person_place(facts, person)
    return None if time is None else person_place(facts[:time], facts[time][0])


def thing_before(facts, thing, place):
    places = [thing_place(facts[:end], thing) for end in range(1, len(facts) + 1)]
    places = [each for each, _ in groupby(places) if each]
    last = max(index for index, each in enumerate(places) if each == place and index)
    return places[last - 1]


def carried(facts, person):
    things = {fact[3] if fact[1] == "gave" else fact[-1] for fact in facts}
    held = [(time, thing) for thing in things for who, time in [holder(facts, thing)] if who]
    return [thing for _, thing in sorted(t for t in held if holder(facts, t[1])[0] == person)]


def is_in(facts, person, place):
    about = next(f for f in facts[::-1] if f[0] == person)
    if about[1] != "is":
        return "yes" if about[-1] == place else "no"
    if place not in about:
        return "no"
    return "maybe" if "either" in about else "yes"


def by_the_clock(facts, person, place):
    day = ["dawn", "noon", "dusk", "midnight"]
    was = sorted((day.index(f[1]), f[-1]) for f in facts if f[2] == person)
    places = [each for _, each in was]
    return places[places.index(place) - 1]


def smaller(facts, vessel):
    """All vessels smaller than this one, directly or by others."""
    pairs = [(f[1], f[-1]) if f[3] == "larger" else (f[-1], f[1]) for f in facts]
    direct = {small for large, small in pairs if large == vessel}
    return direct.union(*(smaller(facts, each) for each in direct))


def neighbours(facts, place):
    opposite = {"north": "south", "south": "north", "east": "west", "west": "east"}
    found = {}
    for _, there, _, direction, _, _, here in facts:
        if here == place:
            found[direction] = there
        if there == place:
            found[opposite[direction]] = here
    return found


def route(facts, start, end):
    """The only route of two steps."""
    ways = [
        (first, second)
        for first, between in neighbours(facts, start).items()
        for second, place in neighbours(facts, between).items()
        if place == end
    ]
    assert len(ways) == 1
    return ",".join(ways[0])


def colour(facts, pet):
    kinds = {f[0]: f[3] for f in facts if f[2] == "a"}
    told = [f for f in facts if len(f) == 3]
    return next(f[2] for f in told if kinds[f[0]] == kinds[pet])
