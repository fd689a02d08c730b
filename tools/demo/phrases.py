"""English sentences about WordNet senses: how a definition becomes an answer."""

import random
import re

from tools.demo.wordnet import Synset, WordNet

# Lexicographer files whose nouns usually name things that can be counted.
_COUNTABLE_FILES = {3, 5, 6, 8, 14, 15, 17, 18, 20, 25}
_PERSON = 18
# Definitions that begin so are not given an article.
_DETERMINERS = re.compile(
    "(a|an|the|any|one|two|three|someone|somebody|something|anyone|anything|those|these|people|all|each|either"
    "|some|what|whatever|that|this|part|parts|things|words|it|whoever|[0-9].*|(?!.*thing$).*ing)"
)
_VOWEL_SOUND = re.compile(
    r"(?!uni|use|usu|eu|one\b|once|ura|ute|uti)[aeiou]|hour|honest|honor|heir", re.IGNORECASE
)
_END_OF_HEAD = re.compile(
    r" (that|which|who|whose|of|in|with|used|for|having|from|on|to|made|where|by|at|and|or)\b|[,;]"
)
_SENTENCE_START = re.compile(
    "([A-Z]|(i|he|she|it|we|you|they|the|this|that|these|those|there|his|her|my|our|your|their) )"
)
_PARTS = {"n": "noun", "v": "verb", "a": "adjective", "r": "adverb"}


def capitalized(text: str) -> str:
    """The text with its first letter in upper case, the others as they are."""
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """The noun after `a` or `an`."""
    return f"{'an' if _VOWEL_SOUND.match(noun) else 'a'} {noun}"


def sentence(text: str) -> str:
    """Capitalizes a phrase and closes it."""
    text = capitalized(text.strip())
    return text if text[-1] in ".!?" else text + "."


def listed(words: list[str], conjunction: str = "and") -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def short_definition(synset: Synset, limit: int = 170) -> str:
    """The definition, its later clauses dropped when it is long."""
    clauses = synset.definition.split("; ")
    text = clauses[0]
    for clause in clauses[1:]:
        if len(text) + len(clause) > limit:
            break
        text += "; " + clause
    return text


def is_countable(synset: Synset, word: str) -> bool:
    """Whether a noun takes `a`; a guess, since WordNet does not say."""
    if word[0].isupper() or re.search(r"[^sui]s$", word):
        return False
    first = synset.definition.split(" ", 1)[0]
    return first in ("a", "an") or synset.lexicographer_file in _COUNTABLE_FILES


def noun_subject(synset: Synset, word: str) -> str:
    """`a violin`, `music`, `Paris`, `scissors`."""
    return with_article(word) if is_countable(synset, word) else word


def _verb_to_be(synset: Synset, word: str) -> str:
    if word[0].isupper():
        past = re.search(r"\d{3}", synset.definition) and synset.lexicographer_file == _PERSON
        return "was" if past else "is"
    return "are" if re.search(r"[^sui]s$", word) else "is"


def definition_sentence(wordnet: WordNet, synset: Synset, word: str) -> str:
    """`A violin is a bowed instrument ...`; `To run is to move fast ...`; `Happy means ...`."""
    text = short_definition(synset)
    if synset.part_of_speech == "v":
        return sentence(f"to {word} is to {text.removeprefix('to ')}")
    if synset.part_of_speech != "n":
        return sentence(f"{word} means {text}")
    subject, verb = noun_subject(synset, word), _verb_to_be(synset, word)
    first = text.split(" ", 1)[0].lower()
    if _DETERMINERS.fullmatch(first):
        return sentence(f"{subject} {verb} {text}")
    if not is_countable(synset, word) and not synset.related("@i"):
        return sentence(f"{subject} {verb} {text}")
    # Glosses often drop the article of their head noun; the hypernym tells whether it is singular.
    head = _END_OF_HEAD.split(text)[0].split(" ")[-1]
    heads = {w.split(" ")[-1] for k in synset.related("@ @i") for w in wordnet.synsets[k].words}
    if head in heads or (synset.lexicographer_file == _PERSON and not head.endswith("s")):
        return sentence(f"{subject} {verb} {with_article(text)}")
    return sentence(f"{subject} {verb} defined as {text}")


def question(synset: Synset, word: str, rng: random.Random) -> str:
    """Asks for the meaning of `word`, in one of several ways."""
    part = synset.part_of_speech
    forms = [
        f"What does {word} mean?",
        f"Define {word}.",
        f"What is the meaning of {word}?",
        f"What does the {_PARTS[part]} {word} mean?",
    ]
    if part == "n":
        subject, verb = noun_subject(synset, word), _verb_to_be(synset, word)
        asked = "Who" if synset.lexicographer_file == _PERSON and word[0].isupper() else "What"
        forms += [f"{asked} {verb} {subject}?"] * 6
        forms += [f"{asked.lower()} {verb} {subject}", f"Can you tell me what {subject} {verb}?"]
        forms += [f"Tell me about {subject}.", f"Explain what {subject} {verb}."]
    elif part == "v":
        forms += [f"What does it mean to {word}?"] * 4 + [
            f"What is it to {word}?",
            f"what does {word} mean",
        ]
    else:
        forms += [f"What does it mean to be {word}?"] * (2 if part == "a" else 0)
        forms += [f"What does {word} mean?", f"what does {word} mean", f"Explain the word {word}."]
    return rng.choice(forms)


def example_sentences(synset: Synset, word: str) -> list[str]:
    """The examples that are whole sentences and use `word`."""
    stem = re.escape(word[: max(3, len(word) - 1)])
    used = re.compile(rf"\b{stem}", re.I)
    return [
        sentence(text)
        for text in synset.examples
        if used.search(text) and len(text.split()) >= 4 and _SENTENCE_START.match(text)
    ]


def example_phrase(synset: Synset, word: str) -> str | None:
    """One quoted example that uses `word`."""
    used = re.compile(rf"\b{re.escape(word[: max(3, len(word) - 1)])}", re.I)
    fitting = [text for text in synset.examples if used.search(text) and len(text) < 90]
    return f'For example: "{fitting[0]}".' if fitting else None
