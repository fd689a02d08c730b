"""Interactive chat on a terminal, with history. Ctrl-C ends an answer and keeps the chat; Ctrl-D ends the chat."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from examples.llm.flags import Options
from examples.llm.once import EXAMPLE_PROMPT, log_speed
from zml import log
from zml.errors import UsageError
from zml.llm.chat import Message
from zml.llm.engine import Engine
from zml.llm.sampling import Sampling

_LOG = log.get("llm")


class _Interrupt:
    """Set by Ctrl-C while an answer is made; a second Ctrl-C, unheeded by then, ends the program."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    # Not a KeyboardInterrupt: raised in the middle of a step it would lose the KV cache, which the step has donated.
    interrupt = _Interrupt()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def run(engine: Engine, options: Options, sampling: Sampling) -> int:
    """Reads messages from the terminal and answers them until Ctrl-D."""
    engine.open_tokenizer()
    if not (engine.has_chat_template or options.raw):
        engine.encode_chat([])  # raises the error that says what is missing
    engine.start()
    history: list[Message] = []
    print("Ctrl-C ends an answer, Ctrl-D the chat.", file=sys.stderr)
    if options.model is None:
        print(f"> {EXAMPLE_PROMPT}")
        _answer(engine, options, sampling, history, EXAMPLE_PROMPT)
    while True:
        try:
            text = _read_line()
        except EOFError:
            print(file=sys.stderr)
            return 0
        except KeyboardInterrupt:
            print("\n(Ctrl-D ends the chat)", file=sys.stderr)
            continue
        if not text.strip():
            continue
        try:
            _answer(engine, options, sampling, history, text)
        except UsageError as error:
            # The chat has outgrown the context: it goes on without what was said before, rather than end.
            print(f"error(llm): {error}", file=sys.stderr)
            if history:
                print("The chat begins anew with your last message.", file=sys.stderr)
                history.clear()
                with contextlib.suppress(UsageError):
                    _answer(engine, options, sampling, history, text)


def _read_line() -> str:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # line editing and recall for input()
    if sys.stdout.isatty():
        text = input("> ")
    else:
        print("> ", end="", file=sys.stderr, flush=True)
        text = input()
    # Bytes that are not UTF-8 arrive as lone surrogates, which no tokenizer takes.
    return text.encode(errors="replace").decode()


def _answer(
    engine: Engine, options: Options, sampling: Sampling, history: list[Message], text: str
) -> None:
    prompt = (
        engine.encode(text)
        if options.raw
        else engine.encode_chat([*history, {"role": "user", "content": text}])
    )
    answer = ""
    with _interruptible() as interrupt:
        for piece in engine.generate(
            prompt, sampling, options.max_new_tokens, options.stop, options.ignore_eos
        ):
            answer += piece.text
            sys.stdout.write(piece.text)
            sys.stdout.flush()
            if interrupt.pressed:
                break
    print()
    log_speed(engine)
    if not options.raw:
        history += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
