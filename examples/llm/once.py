"""One prompt, one answer: as text, or with --json as one object that scripts rely on."""

import json
import resource
import sys
import time
from typing import Any

from examples.llm.flags import Options
from zml import log
from zml.errors import CheckpointError, UsageError
from zml.llm.engine import Engine
from zml.llm.sampling import Sampling

_LOG = log.get("llm")
EXAMPLE_PROMPT = "What is a violin?"
"""Asked of the embedded demo where there is no other prompt to be had."""


def run(engine: Engine, options: Options, sampling: Sampling, began: float) -> int:
    """Generates and prints; `began` is the program's start on the monotonic clock."""
    prompt = _prompt_ids(engine, options)
    engine.deployment.check_prompt(prompt)
    engine.start(len(prompt))
    startup = time.perf_counter() - began
    tokens: list[int] = []
    text: list[str] = []
    for piece in engine.generate(
        prompt, sampling, options.max_new_tokens, options.stop, options.ignore_eos
    ):
        if piece.token is not None:
            tokens.append(piece.token)
        text.append(piece.text)
        if not options.json:
            sys.stdout.write(piece.text)
            sys.stdout.flush()
    if options.json:
        print(json.dumps(_report(engine, options, prompt, tokens, "".join(text), startup)))
    elif not "".join(text).endswith("\n"):
        print()
    sys.stdout.flush()
    log_speed(engine)
    return 0


def log_speed(engine: Engine) -> None:
    """One line on stderr about the last generation."""
    stats = engine.session.stats
    _LOG.info(
        "%d prompt tokens (%d cached) at %.1f tok/s, %d new tokens at %.1f tok/s, first after %.3fs",
        stats.prompt_tokens,
        stats.prompt_tokens - min(stats.prefilled_tokens, stats.prompt_tokens),
        stats.prefill_tokens_per_second,
        stats.new_tokens,
        stats.decode_tokens_per_second,
        stats.first_token_seconds,
    )


def _prompt_ids(engine: Engine, options: Options) -> list[int]:
    if options.prompt_token_ids is not None:
        if engine.has_tokenizer:
            engine.open_tokenizer()
        elif options.stop:
            raise CheckpointError(
                "--stop needs text, and the checkpoint has no tokenizer.json to make it with"
            )
        return list(options.prompt_token_ids)
    prompt = options.prompt if options.prompt is not None else _read_stdin()
    if not prompt and options.model is None and options.prompt is None:
        prompt = EXAMPLE_PROMPT
        _LOG.info("No prompt was given; asking the demo: %s", prompt)
    if not prompt:
        raise UsageError("the prompt is empty: give --prompt=TEXT, or a text on stdin")
    engine.open_tokenizer()
    if options.raw:
        return engine.encode(prompt)
    if not engine.has_chat_template:
        _LOG.info("The checkpoint has no chat template: continuing the prompt as it stands")
        return engine.encode(prompt)
    return engine.encode_chat([{"role": "user", "content": prompt}])


def _read_stdin() -> str:
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        raise UsageError(
            "--json needs a prompt: give --prompt=TEXT, --prompt_token_ids=1,2,3, or a text on stdin"
        )
    try:
        return sys.stdin.read().strip("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8: {error}") from error


def _report(
    engine: Engine,
    options: Options,
    prompt: list[int],
    tokens: list[int],
    text: str,
    startup: float,
) -> dict[str, Any]:
    stats, timings = engine.session.stats, engine.timings
    unit = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
    return {
        "model": options.model or "demo",
        "model_type": engine.checkpoint.config["model_type"],
        "platform": engine.deployment.platform.target.value,
        "device": engine.deployment.platform.device_name,
        "backend": engine.deployment.backend,
        "dtype": engine.deployment.dtype.numpy.name,
        "prompt_token_ids": prompt,
        "token_ids": tokens,
        "text": text,
        "finish_reason": engine.finish_reason,
        "timings": {
            "startup_seconds": startup,
            "tokenizer_seconds": timings.tokenizer,
            "compile_seconds": timings.compile,
            "compile_cached": timings.compile_cached,
            "load_seconds": timings.load,
            "load_bytes": timings.load_bytes,
            "ttft_seconds": stats.first_token_seconds,
            "prefill_tokens_per_second": stats.prefill_tokens_per_second,
            "decode_tokens_per_second": stats.decode_tokens_per_second,
            "decode_weight_bytes": engine.decode_weight_bytes(),
        },
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }
