"""The demo checkpoint's pipeline on a WordNet of four synsets and a Llama of a few thousand weights."""

import json
import random
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from tools.demo import corpus, export, phrases, small_talk, tokenizer, train
from tools.demo.wordnet import Synset, WordNet, license_text, load
from zml.llm.chat import ChatTemplate
from zml.models import llama

_DATA = {
    "data.noun": "  9 The license.  \n  10 Its end.  \n"
    "00000100 06 n 02 violin 0 fiddle 0 001 @ 00000200 n 0000 | bowed instrument that"
    ' is played (in music); "she played the violin well"  \n'
    "00000200 06 n 01 musical_instrument 0 001 ~ 00000100 n 0000 | any device that makes music  \n",
    "data.verb": "00000300 30 v 01 run 0 000 01 + 02 00 | move fast; \"Don't run--you'll be late\"  \n",
    "data.adj": '00000400 00 a 01 happy(p) 0 000 | marked by joy; "a happy smile"  \n',
    "data.adv": "",
    "index.noun": "violin n 1 1 @ 1 1 00000100  \nfiddle n 1 1 @ 1 0 00000100  \n"
    "musical_instrument n 1 1 ~ 1 0 00000200  \n",
    "index.verb": "run v 1 0 1 1 00000300  \n",
    "index.adj": "happy a 1 0 1 0 00000400  \n",
    "index.adv": "",
    "cntlist.rev": "violin%1:06:00:: 1 3\nrun%2:30:00:: 1 106\n",
}


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    for name, text in _DATA.items():
        (tmp_path / name).write_text(text, "utf-8")
    return load(tmp_path)


def _synset(wordnet: WordNet, word: str) -> Synset:
    return next(synset for synset in wordnet.synsets.values() if word in synset.words)


def test_wordnet_is_read(wordnet: WordNet, tmp_path: Path) -> None:
    violin = _synset(wordnet, "violin")
    assert violin.words == ("violin", "fiddle")
    assert violin.counts == (3, 0)
    assert violin.definition == "bowed instrument that is played"
    assert violin.examples == ("she played the violin well",)
    assert violin.related("@") == [_synset(wordnet, "musical instrument").key]
    assert _synset(wordnet, "happy").words == ("happy",)
    assert wordnet.senses["run", "v"] == ("v00000300",)
    assert license_text(tmp_path) == "The license.\nIts end.\n"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("violin", "A violin is a bowed instrument that is played."),
        ("musical instrument", "A musical instrument is any device that makes music."),
        ("run", "To run is to move fast."),
        ("happy", "Happy means marked by joy."),
    ],
)
def test_definitions_become_sentences(wordnet: WordNet, word: str, expected: str) -> None:
    assert phrases.definition_sentence(wordnet, _synset(wordnet, word), word) == expected


@pytest.mark.parametrize("noun", ["an apple", "a unit", "an hour", "a one-seater", "an umbrella"])
def test_articles_follow_the_sound(noun: str) -> None:
    assert phrases.with_article(noun.split(" ", 1)[1]) == noun


def test_conversations_are_the_same_every_time_and_alternate(wordnet: WordNet) -> None:
    violin = _synset(wordnet, "violin")
    told = list(corpus.conversations(wordnet, violin))
    assert told == list(corpus.conversations(wordnet, violin))
    assert all(len(messages) == 1 or len(messages) % 2 == 0 for messages in told)
    answers = {messages[-1] for messages in told}
    assert "Another word for violin is fiddle." in answers
    assert "She played the violin well." in answers


def test_common_words_are_those_that_glosses_use(wordnet: WordNet) -> None:
    assert corpus.word_frequencies(wordnet)["violin"] == 1
    violin = _synset(wordnet, "violin")
    assert not list(corpus.common_conversations(wordnet, violin, {"cello"}))
    assert list(corpus.common_conversations(wordnet, violin, {"violin"}))


def test_about_two_in_a_hundred_synsets_are_held_out() -> None:
    held_out = sum(corpus.is_held_out(f"n{number:08}") for number in range(10_000))
    assert 150 < held_out < 250


def _write_work_dir(folder: Path) -> None:
    lines = [json.dumps(messages) + "\n" for messages in small_talk.conversations()]
    for name in ("train", "common", "heldout"):
        (folder / f"{name}.jsonl").write_text("".join(lines[:200]), "utf-8")
    messages = [message for line in lines for message in json.loads(line)]
    tokenizer.write(tokenizer.train(iter(messages)), folder / "tokenizer", 512)


def test_tokenizer_gives_any_text_back_and_the_template_is_what_training_reads(
    tmp_path: Path,
) -> None:
    _write_work_dir(tmp_path)
    made = Tokenizer.from_file(str(tmp_path / "tokenizer/tokenizer.json"))
    text = "Héllo  12 日本\n🎻 isn't it?"
    assert made.decode(made.encode(text).ids) == text
    template = ChatTemplate.open(tmp_path / "tokenizer")
    assert template is not None
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    expected = tokenizer.conversation_text(["Hi", "Hello!", "Bye", ""])
    assert template.render(turns) == expected.removesuffix(tokenizer.END)


def test_rows_begin_with_a_conversation_and_lose_nothing(tmp_path: Path) -> None:
    _write_work_dir(tmp_path)
    made = Tokenizer.from_file(str(tmp_path / "tokenizer/tokenizer.json"))
    rows = train.pack(tmp_path / "train.jsonl", made, seed=1)
    assert rows.shape[1] == train.SEQUENCE + 1
    assert set(rows[:, 0].tolist()) == {made.token_to_id(tokenizer.BOS)}
    assert not np.array_equal(rows, train.pack(tmp_path / "train.jsonl", made, seed=2))


_TINY = train.CONFIG | {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def test_training_lowers_the_loss_and_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    config = llama.read_config(_TINY)
    weights = train.random_weights(config, jax.random.key(0))
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state: train.State = (weights, zeros(weights), zeros(weights))
    pattern = random.Random(0).sample(range(32), 8)
    rows = np.array([(pattern[i:] + pattern[:i]) * 3 for i in range(4)], np.int32)
    losses = []
    for count in range(1, 31):
        state, value = train.step(config, state, rows, jnp.float32(count), jnp.float32(1e-2))
        losses.append(float(value))
    assert losses[0] == pytest.approx(np.log(32), abs=0.2)
    assert losses[-1] < 0.5 * losses[0]
    train.save(tmp_path / "checkpoint.npz", state, 30, 12.5)
    restored, count, seconds = train.restore(tmp_path / "checkpoint.npz", state)
    assert (count, seconds) == (30, 12.5)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, state))


def test_exported_weights_are_the_masters_rounded_to_bfloat16(tmp_path: Path) -> None:
    config = llama.read_config(_TINY)
    weights = train.random_weights(config, jax.random.key(0))
    export.save_weights(config, weights, tmp_path / "model.safetensors")
    read = export.load_weights(config, tmp_path / "model.safetensors")
    rounded = jax.tree.map(lambda w: w.astype(jnp.bfloat16).astype(jnp.float32), weights)
    assert jax.tree.all(jax.tree.map(np.array_equal, read, rounded))


def test_the_committed_checkpoint_reads_as_the_model_that_is_trained() -> None:
    demo = Path(export.__file__).parents[2] / "examples/llm/demo"
    config = llama.read_config(train.CONFIG)
    made = Tokenizer.from_file(str(demo / "tokenizer.json"))
    text = tokenizer.conversation_text(["What is a violin?", "A violin is a musical instrument."])
    rows, loss = np.array([made.encode(text).ids], np.int32), jax.jit(train.loss)
    assert float(loss(export.load_weights(config, demo / "model.safetensors"), rows)) < 3.0
    # Nothing learned: any token is as likely as any other.
    assert float(loss(train.random_weights(config, jax.random.key(1)), rows)) > 7.0


def test_random_weights_are_repeatable_and_start_as_said() -> None:
    config = llama.read_config(_TINY | {"attention_bias": True})
    one, two = (train.random_weights(config, jax.random.key(3)) for _ in range(2))
    assert jax.tree.all(jax.tree.map(np.array_equal, one, two))
    layer = one.layers[0]
    assert (layer.attention_norm.weight.value == 1).all()
    assert not layer.attention.q.bias.value.any()
    assert float(one.embedding.weight.value.std()) == pytest.approx(0.02, rel=0.15)


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [train.learning_rate(1.0, count, count / 1000) for count in (20, 40, 400, 700, 1000)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.5, 0.0])
