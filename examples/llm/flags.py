"""The flags of the llm example. Light: `--help` and a wrong flag answer without importing jax."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from absl import flags

from examples import command
from zml.errors import UsageError

_USAGE = """\
Generates text with a language model.

  llm                                          chat with the embedded demo model
  llm --prompt="What is a violin?"             one answer
  llm --model=/models/Llama-3.1-8B-Instruct    another checkpoint, in Hugging Face's layout
  llm --model=hf://Qwen/Qwen3-8B               from the hub; s3://, gs://, http:// and https:// likewise

Generated text goes to stdout, everything else to stderr.
"""


def _flag(default: Any, text: str, **limits: Any) -> Any:
    """A field of Options that is a flag; `limits` are those of absl's DEFINE functions."""
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class Options:
    """The checked flags, each one a field; None where a flag was not given and has no fixed default."""

    model: str | None = _flag(
        None,
        "Folder of a checkpoint in Hugging Face's layout, a path or a URL. Default: the embedded demo.",
    )
    prompt: str | None = _flag(
        None, "The prompt. Absent: chat on a terminal, else the prompt is read from stdin."
    )
    raw: bool = _flag(False, "Continue the prompt as it stands, without the chat template.")
    prompt_token_ids: tuple[int, ...] | None = _flag(
        None, "The prompt as token ids, 1,2,3; no tokenizer is needed then."
    )
    seqlen: int | None = _flag(
        None,
        "Context in tokens, prompt and answer. Default: the model's own, at most 2048.",
        lower_bound=1,
    )
    max_new_tokens: int | None = _flag(
        None, "Stop after so many tokens. Default: when the context is full.", lower_bound=1
    )
    temperature: float | None = _flag(
        None, "0 is greedy. Default, as for the next four: what generation_config.json says."
    )
    top_k: int | None = _flag(None, "Sample among the k likeliest tokens only; 0: all.")
    top_p: float | None = _flag(
        None, "Sample among the likeliest tokens that make up this probability."
    )
    min_p: float | None = _flag(None, "Drop tokens less likely than this share of the likeliest.")
    repetition_penalty: float | None = _flag(
        None,
        "Divide the logits of tokens that are there already by this (multiply where below 0); 1: off.",
    )
    presence_penalty: float | None = _flag(
        None, "Take this from the logits of tokens generated already; 0: off."
    )
    frequency_penalty: float | None = _flag(
        None, "The same for each time a token was generated; 0: off."
    )
    seed: int = _flag(0, "Seed of the sampling: same seed, same text.")
    stop: tuple[str, ...] = _flag((), "End the answer before this text. May be repeated.")
    ignore_eos: bool = _flag(False, "Go on after an end-of-sequence token.")
    platform: str = _flag(
        "auto", "auto, cpu, cuda, rocm, tpu or neuron. auto takes the best that is there."
    )
    cpu_device_count: int | None = _flag(
        None,
        "Split the CPU into so many devices and the model over them.",
        lower_bound=1,
        upper_bound=256,
    )
    backend: str = _flag(
        "auto", "The attention backend. auto takes the best that the platform has."
    )
    dtype: str = _flag(
        "auto",
        "What weights and KV cache are held in. auto: as the checkpoint stores them.",
        enum_values=["auto", "float32", "bfloat16", "float16"],
    )
    quantize: str = _flag(
        "none",
        "What the weights of linear layers are quantized to as they are loaded.",
        enum_values=["none", "int8", "int4"],
    )
    executables: str | None = _flag(
        None,
        "Folder of programs that tools/compile wrote for this model; they are not compiled then.",
    )
    cache: str | None = _flag(
        None,
        "Keep files of remote checkpoints in this folder. Default: nothing is written to disk.",
    )
    dry_run: bool = _flag(False, "Print the memory plan and exit; weights are not loaded.")
    profile: str | None = _flag(None, "Write a profile of the generation into this folder.")
    json: bool = _flag(False, "Print one JSON object instead of the text.")
    debug: bool = _flag(False, "Show debug log lines, and tracebacks of errors.")

    def sampling(self) -> dict[str, float | None]:
        """The flags about sampling."""
        return {name: getattr(self, name) for name in _SAMPLING}


_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
)  # fmt: skip
_DEFINE: dict[Any, Callable[..., Any]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    int | None: flags.DEFINE_integer,
    float | None: flags.DEFINE_float,
    str: flags.DEFINE_string,
    str | None: flags.DEFINE_string,
    tuple[int, ...] | None: flags.DEFINE_list,
    tuple[str, ...]: flags.DEFINE_multi_string,
}


def _define() -> flags.FlagValues:
    values = flags.FlagValues()
    for option in fields(Options):
        limits = dict(option.metadata)
        text = limits.pop("help")
        define = flags.DEFINE_enum if "enum_values" in limits else _DEFINE[option.type]
        default: Any = list(option.default) if isinstance(option.default, tuple) else option.default
        define(option.name, default, help=text, flag_values=values, **limits)
    return values


def parse(argv: Sequence[str]) -> Options | None:
    """The options of a command line (argv[0] is the program), or None once --help has been printed.

    Raises UsageError for unknown, malformed or contradictory flags.
    """
    values = _define()
    if not command.parse(values, argv, _USAGE):
        return None
    ids = values.prompt_token_ids
    given = {option.name: getattr(values, option.name) for option in fields(Options)}
    given["prompt_token_ids"] = None if ids is None else _token_ids(ids)
    options = Options(**given | {"stop": tuple(values.stop)})
    _check(options)
    return options


def _token_ids(items: Sequence[str]) -> tuple[int, ...]:
    try:
        if not items:
            raise ValueError
        return tuple(int(item) for item in items)
    except ValueError as error:
        raise UsageError(
            f"--prompt_token_ids={','.join(items):.200}: expected integers separated by commas, such as 1,2,3"
        ) from error


def _check(options: Options) -> None:
    if options.prompt is not None and options.prompt_token_ids is not None:
        raise UsageError("--prompt and --prompt_token_ids are both the prompt: give one of them")
    if options.raw and options.prompt_token_ids is not None:
        raise UsageError(
            "--raw is about a text prompt; --prompt_token_ids never goes through a chat template"
        )
    if options.model == "":
        raise UsageError(
            "--model is empty: expected a folder or a URL; leave the flag out for the embedded demo"
        )
    if options.profile == "":
        raise UsageError("--profile is empty: expected a folder to write the profile into")
    if options.cache == "":
        raise UsageError("--cache is empty: expected a folder to keep remote files in")
    if options.executables == "":
        raise UsageError("--executables is empty: expected a folder that tools/compile has written")
    if options.dry_run and options.profile is not None:
        raise UsageError(
            "--dry_run generates nothing that --profile could measure: drop one of them"
        )
    if "" in options.stop:
        raise UsageError("--stop is empty: expected a text that ends the answer")
    for name, text in (("prompt", options.prompt), *(("stop", stop) for stop in options.stop)):
        # Bytes of the command line that are not UTF-8 arrive as lone surrogates.
        if text is not None and any("\ud800" <= char <= "\udfff" for char in text):
            raise UsageError(f"--{name} is not valid UTF-8: {text!r:.200}")
