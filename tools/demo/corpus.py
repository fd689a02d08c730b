"""Turns WordNet into short conversations about words: the text that the demo checkpoint is trained on.

    python -m tools.demo.corpus --work_dir=DIR

writes DIR/train.jsonl, DIR/common.jsonl and DIR/basic.jsonl (well known and best known words only, in
their usual meaning), and DIR/heldout.jsonl: one list of alternating user and assistant messages a line.
WordNet is fetched with apt (Debian's package wordnet-base; its license permits use, change and
distribution with the notice kept).
"""

import argparse
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.demo import phrases, small_talk
from tools.demo.wordnet import Synset, WordNet, download, load

HELD_OUT_SHARE = 0.02
# Untagged nouns are rare words; of these lexicographer files (animal, artifact, body, event, feeling,
# food, location, object, phenomenon, plant, shape, substance) enough are known to everybody.
_CONCRETE_FILES = {5, 6, 8, 11, 12, 13, 15, 17, 19, 20, 25, 27}
_MAX_KINDS = 5
# The splits of well known words, by how often such a word occurs at least in WordNet's own glosses.
_FREQUENCIES = {"common": 12, "basic": 25}

Conversation = list[str]  # user, assistant, user, assistant, ...; or one plain text alone
Maker = Callable[[WordNet, Synset, str, random.Random], Conversation | None]


def _define(wordnet: WordNet, synset: Synset, word: str, rng: random.Random) -> Conversation:
    answer = phrases.definition_sentence(wordnet, synset, word)
    example = phrases.example_phrase(synset, word)
    if example and len(answer) < 140:
        answer += " " + example
    return [phrases.question(synset, word, rng), answer]


def _use(wordnet: WordNet, synset: Synset, word: str, rng: random.Random) -> Conversation | None:
    sentences = phrases.example_sentences(synset, word)
    if not sentences:
        return None
    forms = [
        f"Use the word {word} in a sentence.",
        f"Use {word} in a sentence.",
        f"Give me an example sentence with {word}.",
        f"Write a sentence with the word {word}.",
        f"How do you use {word} in a sentence?",
    ]
    return [rng.choice(forms), rng.choice(sentences)]


def _synonyms(
    wordnet: WordNet, synset: Synset, word: str, rng: random.Random
) -> Conversation | None:
    others = [w for w in synset.words if w != word][:4]
    if not others:
        return None
    forms = [
        f"What is another word for {word}?",
        f"What is a synonym of {word}?",
        f"Give me a synonym for {word}.",
        f"What are synonyms of {word}?",
    ]
    answer = f"Another word for {word} is {others[0]}."
    if len(others) > 1:
        answer += f" You can also say {phrases.listed(others[1:], 'or')}."
    return [rng.choice(forms), answer]


def _opposite(
    wordnet: WordNet, synset: Synset, word: str, rng: random.Random
) -> Conversation | None:
    own = synset.words.index(word)
    for symbol, key, source, target in synset.pointers:
        if symbol == "!" and source == own and target is not None:
            other = wordnet.synsets[key].words[target]
            forms = [f"What is the opposite of {word}?", f"What is an antonym of {word}?"]
            return [rng.choice(forms), f"The opposite of {word} is {other}."]
    return None


def _kind_of(
    wordnet: WordNet, synset: Synset, word: str, rng: random.Random
) -> Conversation | None:
    parents = [key for key in synset.related("@") if key.startswith("n")]
    if not parents:
        return None
    parent = wordnet.synsets[parents[0]].words[0]
    subject = phrases.noun_subject(synset, word)
    answer = phrases.sentence(f"{subject} is a kind of {parent}")
    return [
        rng.choice([f"What kind of thing is {subject}?", f"What type of thing is {subject}?"]),
        answer,
    ]


def _is_kind_of(
    wordnet: WordNet, synset: Synset, word: str, rng: random.Random
) -> Conversation | None:
    told = _kind_of(wordnet, synset, word, rng)
    if not told or rng.random() < 0.5:
        return None
    answer = told[1].removesuffix(".")
    claim = answer[0].lower() + answer[1:] if word[0].islower() else answer
    subject, _, parent = claim.partition(" is a kind of ")
    return [f"Is {subject} a kind of {parent}?", f"Yes, {claim}."]


def _kinds(wordnet: WordNet, synset: Synset, word: str, rng: random.Random) -> Conversation | None:
    children = [wordnet.synsets[key] for key in synset.related("~") if key.startswith("n")]
    children.sort(key=lambda child: (-max(child.counts), len(child.words[0]), child.words[0]))
    names = [child.words[0] for child in children[:_MAX_KINDS]]
    if len(names) < 3:
        return None
    forms = [
        f"What kinds of {word} are there?",
        f"Name some kinds of {word}.",
        f"List kinds of {word}.",
    ]
    return [
        rng.choice(forms),
        phrases.sentence(f"some kinds of {word} are {phrases.listed(names)}"),
    ]


def _parts(wordnet: WordNet, synset: Synset, word: str, rng: random.Random) -> Conversation | None:
    names = [wordnet.synsets[key].words[0] for key in synset.related("%p")][:_MAX_KINDS]
    if not names or word[0].isupper():
        return None
    forms = [f"What are the parts of {phrases.noun_subject(synset, word)}?"]
    forms += [f"What does {phrases.noun_subject(synset, word)} have?"]
    answer = f"{phrases.noun_subject(synset, word)} has these parts: {phrases.listed(names)}"
    return [rng.choice(forms), phrases.sentence(answer)]


_FOLLOW_UPS: dict[Maker, str] = {
    _use: "Use it in a sentence.",
    _synonyms: "What is another word for it?",
    _opposite: "What is the opposite?",
    _kind_of: "What kind of thing is it?",
}
_OTHERS: tuple[Maker, ...] = (_use, _synonyms, _opposite, _kind_of, _is_kind_of, _kinds, _parts)


def _common_word(
    wordnet: WordNet, synset: Synset, word: str, count: int, rng: random.Random
) -> Iterator[Conversation]:
    """Everything there is to say about a word that occurs in WordNet's tagged texts."""
    senses = wordnet.senses.get((word.lower().replace(" ", "_"), synset.part_of_speech), ())
    rank = senses.index(synset.key) if synset.key in senses else 0
    # A question names no sense: what is met most often must also be what is answered most often.
    repeats = (3 if rank == 0 else 1 if rank < 3 else 0) + (count >= 10) + (count >= 50)
    for _ in range(repeats):
        yield _define(wordnet, synset, word, rng)
    if rank == 0:
        for make in _OTHERS:
            if conversation := make(wordnet, synset, word, rng):
                yield conversation
        chat = _define(wordnet, synset, word, rng)
        for make in rng.sample(list(_FOLLOW_UPS), len(_FOLLOW_UPS)):
            if conversation := make(wordnet, synset, word, rng):
                chat += [_FOLLOW_UPS[make], conversation[1]]
        if 2 < len(chat) <= 6:
            yield chat
        definition = phrases.definition_sentence(wordnet, synset, word)
        if rng.random() < 0.3:
            yield [definition]
        if synset.part_of_speech == "n" and rng.random() < 0.2:
            yield small_talk.off_topic(phrases.noun_subject(synset, word), word, definition, rng)


def conversations(wordnet: WordNet, synset: Synset) -> Iterator[Conversation]:
    """All conversations about one synset, the same on every run."""
    rng = random.Random(synset.key)
    if len(synset.definition) < 3:
        return
    for word, count in zip(synset.words, synset.counts, strict=True):
        if count:
            yield from _common_word(wordnet, synset, word, count, rng)
    word = synset.words[0]
    plain = word[0].islower() and " " not in word
    known = synset.lexicographer_file in _CONCRETE_FILES if synset.part_of_speech == "n" else True
    senses = wordnet.senses.get((word.replace(" ", "_"), synset.part_of_speech), ("",))
    if not any(synset.counts) and plain and known and senses[0] == synset.key:
        yield _define(wordnet, synset, word, rng)


def word_frequencies(wordnet: WordNet) -> Counter[str]:
    """How often words occur in WordNet's own definitions and examples: how well known they are."""
    frequencies: Counter[str] = Counter()
    for synset in wordnet.synsets.values():
        text = " ".join((synset.definition, *synset.examples))
        frequencies.update(re.findall("[a-z]+", text.lower()))
    return frequencies


def _is_usual(wordnet: WordNet, synset: Synset, word: str) -> bool:
    """Whether this is a word's first meaning, in a part of speech that it is often met as."""
    counts = {}
    for part in "nvar":
        keys = wordnet.senses.get((word, part))
        if keys:
            first = wordnet.synsets[keys[0]]
            spelled = [text.lower() for text in first.words]
            counts[keys[0]] = first.counts[spelled.index(word)] if word in spelled else 0
    return synset.key in counts and 4 * counts[synset.key] >= max(counts.values())


def common_conversations(
    wordnet: WordNet, synset: Synset, known: set[str]
) -> Iterator[Conversation]:
    """Conversations about those words of a synset that are in `known`, each in its usual meaning."""
    rng = random.Random(f"common {synset.key}")
    for word in synset.words:
        if word in known and _is_usual(wordnet, synset, word):
            yield from _common_word(wordnet, synset, word, 0, rng)


def is_held_out(key: str) -> bool:
    """Whether a synset is kept from training; decided by its key, so all its text stays together."""
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def main() -> None:
    """Downloads WordNet and writes the two splits."""
    parser = argparse.ArgumentParser(description="Builds the demo checkpoint's training text.")
    parser.add_argument("--work_dir", type=Path, required=True)
    work_dir = parser.parse_args().work_dir
    wordnet = load(download(work_dir / "wordnet"))
    frequencies = word_frequencies(wordnet)
    splits = {name: list(small_talk.conversations()) for name in ("train", *_FREQUENCIES)}
    splits["heldout"] = []
    for key in sorted(wordnet.synsets):
        synset = wordnet.synsets[key]
        if is_held_out(key):
            splits["heldout"] += conversations(wordnet, synset)
            continue
        splits["train"] += conversations(wordnet, synset)
        for name, frequency in _FREQUENCIES.items():
            known = {word for word in synset.words if frequencies[word] >= frequency}
            splits[name] += common_conversations(wordnet, synset, known)
    for name, documents in splits.items():
        lines = sorted({json.dumps(document): None for document in documents})
        random.Random(name).shuffle(lines)
        (work_dir / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
        print(f"{name}: {len(lines)} conversations, {sum(map(len, lines)):,} bytes")


if __name__ == "__main__":
    main()
