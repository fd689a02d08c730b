"""The engine: opens a checkpoint on a platform (weights, programs and tokenizer side by side) and generates text."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zml import log
from zml.errors import CancelledError, CheckpointError, UsageError
from zml.io import TensorStore, load, stored_bytes
from zml.llm.chat import ChatTemplate, Message
from zml.llm.checkpoint import Checkpoint
from zml.llm.executables import Executables
from zml.llm.plan import MemoryPlan
from zml.llm.programs import Deployment, Programs
from zml.llm.sampling import Sampling
from zml.llm.session import Session
from zml.model_tree import byte_size
from zml.models import Decoder, architecture
from zml.platform import Platform
from zml.tokenizer import StopFilter, TextStream, Tokenizer
from zml.vfs import Cancellation, Vfs

_LOG = log.get("llm")
DEFAULT_SEQLEN = 2048
"""The context length where neither the user nor the model sets a smaller one."""
QUANTIZE = ("none", "int8", "int4")
"""What weights can be quantized to."""


@dataclass
class Timings:
    """Seconds that the parts of opening took; they overlap."""

    tokenizer: float = 0.0
    compile: float = 0.0
    load: float = 0.0
    compile_cached: bool = False
    load_bytes: int = 0


@dataclass
class Piece:
    """A step of generation: the token, and the text that it completed. The last one may be text alone."""

    token: int | None
    text: str


class Engine:
    """A checkpoint on a platform. `open` reads and checks the small files; `start` compiles and loads."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        deployment: Deployment,
        store: TensorStore,
        executables: Executables | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self.deployment = deployment
        self.timings = Timings()
        self._store = store
        self._programs = Programs(deployment, executables)
        self._tokenizer: Tokenizer | None = None
        self._template: ChatTemplate | None = None
        self._session: Session | None = None

    @staticmethod
    def open(
        model: str,
        platform: Platform,
        dtype: str = "auto",
        seqlen: int | None = None,
        backend: str = "auto",
        quantize: str = "none",
        executables: str | Path | None = None,
        vfs: Vfs | None = None,
    ) -> "Engine":
        """Reads config and headers of a checkpoint folder, a path or a URL, and checks them against each other.

        dtype: auto, float32, bfloat16 or float16, what weights, activations and KV cache are held in. `auto` is what
        the checkpoint stores; float32 on a cpu without native kernels, where XLA's products of 16-bit numbers are many
        times slower. seqlen: the context in tokens. backend: auto, or an attention backend. quantize: none, int8 or
        int4, what weights are quantized to as they are loaded; embeddings, norms and biases are not. executables: a
        folder of compiled programs (`save_programs`, or tools/compile) to take instead of compiling.
        vfs: what the checkpoint is read through; by default one of its own.
        """
        if quantize not in QUANTIZE:
            raise UsageError(f"--quantize={quantize}: expected one of {', '.join(QUANTIZE)}")
        checkpoint = Checkpoint.open(model, vfs)
        arch = architecture(checkpoint.config.get("model_type"))
        config = arch.read_config(checkpoint.config)
        stored = checkpoint.stored_dtype
        checkpoint.eos_token_ids()  # raises what would else be met after loading
        if dtype == "auto":
            slow = platform.target == "cpu" and not platform.has_kernels
            dtype = "float32" if slow else stored
        if seqlen is None:
            seqlen = min(DEFAULT_SEQLEN, config.max_positions)
        elif seqlen > config.max_positions:
            raise UsageError(
                f"--seqlen={seqlen}: the model was made for at most {config.max_positions} positions "
                "(max_position_embeddings in config.json)"
            )
        store = TensorStore.open(checkpoint.folder.url, checkpoint.folder.vfs)
        view = store.view(dtype, quantize=None if quantize == "none" else quantize)
        deployment = Deployment.of(platform, arch, config, view, seqlen, backend)
        store.check(deployment.model)
        compiled = None if executables is None else Executables.open(Path(executables))
        return Engine(checkpoint, deployment, store, compiled)

    def open_tokenizer(self) -> None:
        """Opens tokenizer and chat template. A checkpoint used with token ids alone does not need them."""
        began = time.perf_counter()
        self._tokenizer = Tokenizer.open(self.checkpoint.folder, self.deployment.config.vocab_size)
        self._template = ChatTemplate.open(self.checkpoint.folder)
        self.timings.tokenizer = time.perf_counter() - began
        _LOG.info("Loaded tokenizer [%.3fs]", self.timings.tokenizer)

    @property
    def has_tokenizer(self) -> bool:
        """Whether the checkpoint comes with a tokenizer.json."""
        return self.checkpoint.folder.has("tokenizer.json")

    @property
    def has_chat_template(self) -> bool:
        """Whether messages can be rendered; `open_tokenizer` comes first."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text, with the tokenizer's own special tokens (BOS) around it."""
        return self._need_tokenizer().encode(text, add_special_tokens=True)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt for the assistant's next message."""
        if self._template is None:
            raise CheckpointError(
                f"{self.checkpoint.folder.url}: the checkpoint has no chat template (chat_template.jinja, or "
                "chat_template in tokenizer_config.json); use --raw to continue a text"
            )
        text = self._template.render(messages)
        return self._need_tokenizer().encode(text, add_special_tokens=False)

    def start(self, prompt_tokens: int | None = None) -> None:
        """Compiles the programs and loads the weights, at the same time.

        prompt_tokens: the length of the first prompt where it is known, so that its programs are ready with the rest.
        """
        cancellation = Cancellation()

        def give_up(compiling: Future[None]) -> None:
            # Without programs there is no use for weights.
            if compiling.exception() is not None:
                cancellation.cancel()

        with ThreadPoolExecutor(1, thread_name_prefix="zml-compile") as pool:
            compiling = pool.submit(self._compile, prompt_tokens)
            compiling.add_done_callback(give_up)
            try:
                # In this thread, which is the one that Ctrl-C interrupts.
                weights = self._load(cancellation)
            except CancelledError:
                compiling.result()
                raise
            compiling.result()
        self._session = Session(self.deployment, self._programs, weights)

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int | None = None,
        stops: Sequence[str] = (),
        ignore_eos: bool = False,
    ) -> Iterator[Piece]:
        """Yields tokens and their text as they are made. `finish_reason` tells afterwards why it ended.

        Text holds whole characters only, and nothing of a stop string; a last piece without a token brings what was
        held back.
        """
        session = self.session
        stop_ids = frozenset() if ignore_eos else self.checkpoint.eos_token_ids()
        tokens = session.generate(prompt, sampling, max_new_tokens, stop_ids)
        decode = self._tokenizer.decode if self._tokenizer else lambda ids: ""
        return self._pieces(tokens, TextStream(decode, prompt), StopFilter(stops), stop_ids)

    def _pieces(
        self, tokens: Iterator[int], text: TextStream, stop: StopFilter, stop_ids: frozenset[int]
    ) -> Iterator[Piece]:
        self.finish_reason = "length"
        for token in tokens:
            ended = token in stop_ids
            yield Piece(token, "" if ended else stop.push(text.push(token)))
            if ended or stop.stopped:
                self.finish_reason = "stop"
                break
        rest = stop.push(text.flush()) + stop.flush()
        if stop.stopped:
            self.finish_reason = "stop"
        if rest:
            yield Piece(None, rest)

    finish_reason: str = "length"
    """Why the last generation ended: `stop` (an EOS id or a stop string) or `length`."""

    @property
    def session(self) -> Session:
        """The session of a started engine."""
        if self._session is None:
            raise RuntimeError("Engine.start comes before generation")
        return self._session

    def decode_weight_bytes(self) -> int:
        """Weight bytes that one decode step reads, on all devices together."""
        return byte_size(self.deployment.model.decode_parts())

    def memory_plan(self) -> MemoryPlan:
        """What a run will take, without loading: the programs are compiled, the weights only counted."""
        self._compile(None)
        return MemoryPlan.of(
            self.deployment,
            self._programs.compiled,
            stored_bytes(self.deployment.model, self._store),
        )

    def save_programs(self, folder: Path) -> Executables:
        """Compiles all programs and writes them into a folder; the weights are not loaded."""
        self._compile(None)
        return Executables.write(folder, self.deployment, self._programs.compiled)

    def _need_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            self.open_tokenizer()
        assert self._tokenizer is not None
        return self._tokenizer

    def _compile(self, prompt_tokens: int | None) -> None:
        began = time.perf_counter()
        if prompt_tokens is None:
            self._programs.compile_all()
        else:
            longest = max(self.deployment.buckets())
            last = prompt_tokens % longest or longest
            needed = {1, self.deployment.bucket(prompt_tokens), self.deployment.bucket(last)}
            for tokens in sorted(needed):
                self._programs.compile(tokens)
        compiled = self._programs.compiled.values()
        self.timings.compile = time.perf_counter() - began
        self.timings.compile_cached = all(program.cached for program in compiled)
        _LOG.info(
            "Compiled %d programs, %d of them from the cache [%.3fs]",
            len(compiled),
            sum(program.cached for program in compiled),
            self.timings.compile,
        )

    def _load(self, cancellation: Cancellation) -> Decoder:
        began = time.perf_counter()
        deployment = self.deployment
        weights = load(
            deployment.model,
            self._store,
            deployment.platform,
            shardings=[deployment.sharding],
            cancellation=cancellation,
        )
        self.timings.load = time.perf_counter() - began
        self.timings.load_bytes = stored_bytes(deployment.model, self._store)
        return weights
