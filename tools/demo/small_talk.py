"""Hand-written turns of the demo's conversations: greetings, who it is, and what it can not do."""

import random
from collections.abc import Iterator

_REPEATS = 12

_HELLO = "Hello! I am a small dictionary. Ask me what a word means."
_WHO = "I am a small language model that explains words. I was trained on WordNet, a dictionary."
_CAN = "I can explain words, give synonyms and opposites, and use words in sentences."
_THANKS = "You are welcome."
_BYE = "Goodbye!"
_FINE = "I am fine, thank you. Which word would you like to know?"
_YES = "Good. Ask me about a word, for example: what is a violin?"

_TURNS = {
    _HELLO: "hello|Hello.|Hello!|Hi|Hi!|hi|Hey|Hey!|Good morning.|Good evening!|Hello, how are you?|Hello there.",
    _WHO: "Who are you?|What are you?|who are you|What is your name?|Tell me about yourself.|Are you human?"
    "|Are you a computer?|Who made you?|What model are you?|How were you made?",
    _CAN: "What can you do?|Help|help|How can you help me?|What do you know?|Can you help me?|What can I ask you?",
    _THANKS: "Thanks|Thank you.|thanks|Thank you!|Thanks a lot.|Great, thanks!|Thank you very much.",
    _BYE: "Bye|Goodbye.|bye|Goodbye!|See you later.|See you.|Good night.",
    _FINE: "How are you?|how are you|How are you today?|How do you do?|How is it going?",
    _YES: "Yes|ok|Okay.|Test|test|Tell me something.|I have a question.|Say something.",
}


_VERBS = ("work", "grow", "move", "exist", "happen", "matter", "look", "help", "change", "fall")
_QUALITIES = (
    "blue",
    "big",
    "small",
    "important",
    "good",
    "bad",
    "old",
    "new",
    "green",
    "hot",
    "cold",
    "long",
    "strange",
)


def conversations() -> Iterator[list[str]]:
    """Greetings and the like, each alone and followed by others."""
    rng = random.Random("small talk")
    turns = [
        (question, answer) for answer, asked in _TURNS.items() for question in asked.split("|")
    ]
    for question, answer in turns:
        yield [question, answer]
        for _ in range(_REPEATS):
            yield [question, answer, *rng.choice(turns)]


def off_topic(subject: str, word: str, definition: str, rng: random.Random) -> list[str]:
    """A question that a dictionary can not answer, and what it says instead."""
    verb, quality = rng.choice(_VERBS), rng.choice(_QUALITIES)
    forms = [
        f"Why is the {word} {quality}?",
        f"Why is {subject} {quality}?",
        f"How does {subject} {verb}?",
        f"Why does {subject} {verb}?",
        f"Write a story about {subject}.",
        f"Write a poem about {subject}.",
        f"Where can I find {subject}?",
        f"How many kinds of {word} are there in the world?",
        f"What do you think about {subject}?",
    ]
    return [rng.choice(forms), f"I only know what words mean. {definition}"]
