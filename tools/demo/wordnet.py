"""Reads the WordNet 3.0 database files, as Debian's package `wordnet-base` ships them.

The format is described in wndb(5WN) and senseidx(5WN), both in the same package.
"""

import dataclasses
import itertools
import re
import subprocess
import tempfile
from pathlib import Path

PARTS_OF_SPEECH = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
# ss_type as a sense key spells it; "s" is an adjective satellite.
_SENSE_KEY_TYPE = {"n": "1", "v": "2", "a": "3", "r": "4", "s": "5"}
_SENTENCE_CHARACTERS = re.compile(r"[A-Za-z0-9 ,.;:'()&/%$!?-]+")


@dataclasses.dataclass(frozen=True)
class Synset:
    """A set of words that share one meaning.

    `key` is the part of speech and the offset in its data file. `counts[i]` says how often `words[i]`
    was met with this meaning in WordNet's tagged texts. `pointers` holds (relation symbol, synset key,
    index of the own word or None for all of them, index of the other synset's word or None).
    """

    key: str
    lexicographer_file: int
    words: tuple[str, ...]
    counts: tuple[int, ...]
    definition: str
    examples: tuple[str, ...]
    pointers: tuple[tuple[str, str, int | None, int | None], ...]

    @property
    def part_of_speech(self) -> str:
        """n, v, a or r."""
        return self.key[0]

    def related(self, symbols: str) -> list[str]:
        """Keys of the synsets that a whole-synset pointer named in `symbols` (space separated) reaches."""
        wanted = symbols.split()
        return [key for symbol, key, own, _ in self.pointers if symbol in wanted and own is None]


@dataclasses.dataclass(frozen=True)
class WordNet:
    """`synsets` by key, and `senses`: the keys of a (word, part of speech), most frequent first."""

    synsets: dict[str, Synset]
    senses: dict[tuple[str, str], tuple[str, ...]]


def download(folder: Path) -> Path:
    """Fetches `wordnet-base` with apt, unpacks it into `folder`, returns the folder of its data files."""
    data = folder / "usr/share/wordnet"
    if data.is_dir():
        return data
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # apt drops its privileges to the user _apt, who must be able to write here.
        Path(scratch).chmod(0o755)
        subprocess.run(["apt-get", "download", "wordnet-base"], cwd=scratch, check=True)
        (package,) = Path(scratch).glob("wordnet-base_*.deb")
        subprocess.run(["dpkg", "-x", package, folder], check=True)
    return data


def license_text(data: Path) -> str:
    """The license that stands, with numbered lines, at the head of each data file."""
    head = itertools.takewhile(
        lambda line: line.startswith("  "), (data / "data.noun").read_text("utf-8").splitlines()
    )
    return "".join(re.sub(r"^ +\d+ ", "", line).rstrip() + "\n" for line in head)


def load(data: Path) -> WordNet:
    """Reads data.*, index.* and cntlist.rev."""
    counts = {}
    for line in (data / "cntlist.rev").read_text("utf-8").splitlines():
        sense_key, _, count = line.split()
        lemma, fields = sense_key.split("%")
        counts[(lemma, *fields.split(":")[:3])] = int(count)
    synsets, senses = {}, {}
    for name, letter in PARTS_OF_SPEECH.items():
        for line in (data / f"data.{name}").read_text("utf-8").splitlines():
            if not line.startswith("  "):  # the license text is indented
                synset = _parse_synset(line, letter, counts)
                synsets[synset.key] = synset
        for line in (data / f"index.{name}").read_text("utf-8").splitlines():
            if not line.startswith("  "):
                lemma, _, sense_count, *rest = line.split()
                offsets = rest[-int(sense_count) :]
                senses[lemma, letter] = tuple(letter + offset for offset in offsets)
    return WordNet(synsets, senses)


def _parse_synset(line: str, letter: str, counts: dict[tuple[str, ...], int]) -> Synset:
    fields_text, _, gloss = line.partition(" | ")
    fields = fields_text.split()
    offset, lexicographer_file, kind, word_count = fields[:4]
    end = 4 + 2 * int(word_count, 16)
    words, frequencies = [], []
    for word, lex_id in zip(fields[4:end:2], fields[5:end:2], strict=True):
        word = re.sub(r"\((a|p|ip)\)$", "", word)  # syntactic markers of adjectives
        sense = (word.lower(), _SENSE_KEY_TYPE[kind], lexicographer_file, f"{int(lex_id, 16):02}")
        words.append(word.replace("_", " "))
        frequencies.append(counts.get(sense, 0))
    pointers = []
    for i in range(end + 1, end + 1 + 4 * int(fields[end]), 4):
        symbol, target, target_letter, source_target = fields[i : i + 4]
        own, other = int(source_target[:2], 16), int(source_target[2:], 16)
        pointers.append((
            symbol,
            target_letter + target,
            own - 1 if own else None,
            other - 1 if other else None,
        ))  # fmt: skip
    definition, examples = _parse_gloss(gloss)
    return Synset(
        key=letter + offset,
        lexicographer_file=int(lexicographer_file),
        words=tuple(words),
        counts=tuple(frequencies),
        definition=definition,
        examples=examples,
        pointers=tuple(pointers),
    )


def _parse_gloss(gloss: str) -> tuple[str, tuple[str, ...]]:
    """Splits a gloss into its definition, without most asides, and its example phrases."""
    gloss = gloss.strip().replace("`", "'")
    definition = gloss.split('"', 1)[0]
    examples = [text.strip(" ;,") for text in re.findall(r'"([^"]*)"', gloss)]
    # Asides in parentheses are usage notes, except years of birth and death.
    definition = re.sub(r"\((?![^)]*\d{3})[^)]*\)", " ", definition)
    definition = re.sub(r"\s+", " ", definition).replace(" ,", ",").replace(" ;", ";")
    definition = definition.strip(" ;:,.-")
    examples = [text for text in examples if _SENTENCE_CHARACTERS.fullmatch(text)]
    return definition, tuple(examples)
