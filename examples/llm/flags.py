"""The flags of the llm example. Light: `--help` and a wrong flag answer without importing jax."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from absl import flags

from zml.errors import UnsupportedError, UsageError

_USAGE = """\
Generates text with a language model.

  llm                                          chat with the embedded demo model
  llm --prompt="What is a violin?"             one answer
  llm --model=/models/Llama-3.1-8B-Instruct    another checkpoint, in Hugging Face's layout

Generated text goes to stdout, everything else to stderr.
"""


@dataclass(frozen=True)
class Options:
    """The checked flags; None where a flag was not given and has no fixed default."""

    model: str | None
    prompt: str | None
    raw: bool
    prompt_token_ids: tuple[int, ...] | None
    seqlen: int | None
    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int
    stop: tuple[str, ...]
    ignore_eos: bool
    platform: str
    cpu_device_count: int
    backend: str
    dtype: str
    quantize: str
    dry_run: bool
    profile: str | None
    json: bool
    debug: bool


def _define() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Print this and exit.", short_name="h", flag_values=values)
    flags.DEFINE_string(
        "model",
        None,
        "Folder of a checkpoint in Hugging Face's layout. Default: the embedded demo.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "prompt",
        None,
        "The prompt. Absent: chat on a terminal, else the prompt is read from stdin.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "raw",
        False,
        "Continue the prompt as it stands, without the chat template.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "prompt_token_ids",
        None,
        "The prompt as token ids, 1,2,3; no tokenizer is needed then.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seqlen", None, "Context in tokens, prompt and answer. Default: the model's own, at most 2048.",
        lower_bound=1, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "max_new_tokens", None, "Stop after so many tokens. Default: when the context is full.",
        lower_bound=1, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_float(
        "temperature",
        None,
        "0 is greedy. Default, as for the next three: what generation_config.json says.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "top_k", None, "Sample among the k likeliest tokens only; 0: all.", flag_values=values
    )
    flags.DEFINE_float(
        "top_p",
        None,
        "Sample among the likeliest tokens that make up this probability.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "min_p",
        None,
        "Drop tokens less likely than this share of the likeliest.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seed", 0, "Seed of the sampling: same seed, same text.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "stop", [], "End the answer before this text. May be repeated.", flag_values=values
    )
    flags.DEFINE_boolean(
        "ignore_eos", False, "Go on after an end-of-sequence token.", flag_values=values
    )
    flags.DEFINE_string("platform", "auto", "auto or cpu.", flag_values=values)
    flags.DEFINE_integer(
        "cpu_device_count", 1, "Split the CPU into so many devices and the model over them.",
        lower_bound=1, upper_bound=256, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "backend", "auto", "Attention backend: auto or vanilla.", flag_values=values
    )
    flags.DEFINE_enum(
        "dtype", "auto", ["auto", "float32", "bfloat16", "float16"],
        "What weights and KV cache are held in. auto: float32 on cpu, the checkpoint's elsewhere.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("quantize", "none", "none.", flag_values=values)
    flags.DEFINE_boolean(
        "dry_run",
        False,
        "Print the memory plan and exit; weights are not loaded.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "profile", None, "Write a profile of the generation into this folder.", flag_values=values
    )
    flags.DEFINE_boolean(
        "json", False, "Print one JSON object instead of the text.", flag_values=values
    )
    flags.DEFINE_boolean(
        "debug", False, "Show debug log lines, and tracebacks of errors.", flag_values=values
    )
    return values


def parse(argv: Sequence[str]) -> Options | None:
    """The options of a command line (argv[0] is the program), or None once --help has been printed.

    Raises UsageError for unknown, malformed or contradictory flags, UnsupportedError for what this build lacks.
    """
    values = _define()
    try:
        rest = values(list(argv))[1:]
    except flags.Error as error:
        raise UsageError(f"{error} (--help lists the flags)") from error
    if rest:
        raise UsageError(
            f"unexpected argument {rest[0]!r}: flags are given as --name=value (--help lists them)"
        )
    if values.help:
        sys.stdout.write(_help(values))
        return None
    ids = values.prompt_token_ids
    options = Options(
        **{
            name: getattr(values, name)
            for name in Options.__annotations__
            if name not in ("prompt_token_ids", "stop")
        },
        prompt_token_ids=None if ids is None else _token_ids(ids),
        stop=tuple(values.stop),
    )
    _check(options)
    return options


def _help(values: flags.FlagValues) -> str:
    lines = [_USAGE]
    for name in Options.__annotations__:
        flag = values[name]
        default = "" if flag.default in (None, False, []) else f" (default {flag.default})"
        lines.append(f"  --{name}\n      {flag.help}{default}")
    return "\n".join(lines) + "\n"


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
            "--model is empty: expected a folder; leave the flag out for the embedded demo"
        )
    if options.profile == "":
        raise UsageError("--profile is empty: expected a folder to write the profile into")
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
    if options.platform not in ("auto", "cpu"):
        raise UnsupportedError(
            f"--platform={options.platform}: not supported yet; this build runs on 'cpu' only (auto picks it)"
        )
    if options.backend not in ("auto", "vanilla"):
        raise UnsupportedError(
            f"--backend={options.backend}: not supported yet; this build has 'vanilla' only (auto picks it)"
        )
    if options.quantize != "none":
        raise UnsupportedError(f"--quantize={options.quantize}: not supported yet; expected 'none'")
