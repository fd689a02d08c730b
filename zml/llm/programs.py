"""A model on a platform, and the compiled programs of a generation: prefill in length buckets, and one decode step."""

from collections.abc import Sequence
from dataclasses import dataclass

from zml import ops
from zml.attention import Attention, Backend, KvCache
from zml.compile import Exe, Runner
from zml.dtypes import DType
from zml.errors import UnsupportedError, UsageError
from zml.io import View
from zml.kernels.cpu.emit import emit
from zml.llm.executables import Executables
from zml.models import Architecture, Config, Decoder
from zml.models.decoder_config import MODEL_AXIS
from zml.nn import SamplingParameters, TokenCounts, sample
from zml.platform import Platform
from zml.sharding import HIGH_BANDWIDTH, LogicalMesh, Sharding, Strategy
from zml.tensor import Tensor

_BUCKETS = (16, 64, 256)
type _Carry = tuple[Tensor, Tensor, Tensor, Tensor, TokenCounts, KvCache]


@dataclass(frozen=True)
class Deployment:
    """A declared model bound to a platform, a dtype and a context length: all that its programs depend on."""

    platform: Platform
    sharding: Sharding
    config: Config
    model: Decoder
    dtype: DType
    length: int
    attention: Attention

    @property
    def backend(self) -> str:
        """The attention backend."""
        return str(self.attention.backends[0])

    @staticmethod
    def of(
        platform: Platform,
        architecture: Architecture,
        config: Config,
        view: View,
        length: int,
        backend: str = "auto",
    ) -> "Deployment":
        """Declares the model in the dtype of the view, its weights cut over all devices of the platform."""
        assert view.dtype is not None
        everywhere = Strategy(**{MODEL_AXIS: tuple(platform.mesh.sizes)})
        logical = LogicalMesh(**{MODEL_AXIS: HIGH_BANDWIDTH})
        sharding = platform.sharding("tensor parallel", logical, everywhere)
        model = architecture.init(view, config, sharding.size(MODEL_AXIS))
        chosen = Backend.auto(platform) if backend == "auto" else Backend.of(backend)
        available = chosen.is_available(platform)
        if not available:
            raise UnsupportedError(
                f"attention backend {str(chosen)!r} is not for {platform.device_name}: {available.reason}; "
                "take auto"
            )
        return Deployment(
            platform,
            sharding,
            config,
            model,
            view.dtype,
            length,
            Attention.using(chosen, Backend.VANILLA),
        )

    @property
    def loops(self) -> bool:
        """Whether the loop over the tokens of an answer is in the program, and not in Python.

        On the CPU, where the host's work takes time from the program's. Not over several devices: each would have to
        hear that nobody wants more before the same step.
        """
        return self.platform.has_kernels and len(self.platform.devices) == 1

    def cache(self) -> KvCache:
        """The KV cache, declared."""
        return self.config.cache(self.length, self.dtype, self.sharding.size(MODEL_AXIS))

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raises UsageError for an empty prompt, an id outside the vocabulary, and a prompt that fills the context."""
        vocab = self.config.vocab_size
        if not prompt:
            raise UsageError("the prompt is empty: at least one token is expected")
        outside = [token for token in prompt if not 0 <= token < vocab]
        if outside:
            raise UsageError(
                f"prompt token id {outside[0]} is outside the model's vocabulary of {vocab}"
            )
        if len(prompt) >= self.length:
            raise UsageError(
                f"the prompt has {len(prompt)} tokens, the context (--seqlen={self.length}) has room for "
                f"{self.length - 1} and an answer: shorten the prompt or raise --seqlen"
            )

    def buckets(self) -> tuple[int, ...]:
        """The chunk lengths that prefill is compiled for, ascending; none longer than the context."""
        fitting = tuple(size for size in _BUCKETS if size <= self.length)
        return fitting or (self.length,)

    def steps(self) -> tuple[int, ...]:
        """The numbers of tokens that there is a program for: one, which is decode, and the buckets of prefill."""
        return tuple(sorted({1, *self.buckets()}))

    def bucket(self, tokens: int) -> int:
        """The chunk length that runs so many tokens at once, or else the longest."""
        buckets = self.buckets()
        return next((size for size in buckets if size >= tokens), buckets[-1])


def step(
    model: Decoder,
    attention: Attention,
    cache: KvCache,
    tokens: Tensor,
    start: Tensor,
    count: Tensor,
    parameters: SamplingParameters,
    counts: TokenCounts,
) -> tuple[Tensor, Tensor, TokenCounts, KvCache]:
    """Runs tokens {s} from position `start` on, of which the first `count` count, and draws the one after them.

    Gives the token {s=1}, its position, the counts with it in them, and the cache: the arguments of the next decode
    step, which is this with one token. Tokens go round on the device; the host need not see them in time.
    """
    hidden, written = model.hidden_states(tokens, start, cache, attention)
    last = hidden.dynamic_slice(s=(count - 1, 1)).squeeze("s")
    position = start + count
    token = sample(model.logits(last), parameters, counts, position)
    marked = counts.mark_generated(token).reuse_buffer(counts)
    return token.insert("s"), position, marked, written.reuse_buffer(cache)


def decode(
    model: Decoder,
    attention: Attention,
    cache: KvCache,
    token: Tensor,
    start: Tensor,
    steps: Tensor,
    stream: Tensor,
    parameters: SamplingParameters,
    counts: TokenCounts,
) -> tuple[Tensor, Tensor, TokenCounts, KvCache]:
    """So many steps of one token {s=1}, each token sent into the stream as it is drawn, until nobody takes it.

    The same as calling `step` in a loop, but that the loop is on the device: a step costs the host only to read the
    token, and not to pass some hundred arguments.
    """

    def body(carry: _Carry) -> _Carry:
        left, _, token, start, counts, cache = carry
        hidden, cache = model.hidden_states(token, start, cache, attention)
        position = start + 1
        token = sample(model.logits(hidden.squeeze("s")), parameters, counts, position)
        taken = stream.derive(emit(stream.value, token.value), ())
        return left - 1, taken, token.insert("s"), position, counts.mark_generated(token), cache

    begin = (steps, steps > 0, token, start, counts, cache)
    carry = ops.while_(lambda carry: (carry[0] > 0) & carry[1], body, begin)
    _, _, token, position, marked, written = carry
    return token, position, marked.reuse_buffer(counts), written.reuse_buffer(cache)


class Programs:
    """Compiles each program when it is first asked for; with weights, gives them ready to run.

    What `executables` has is taken from there. Raises CompileError if they do not fit the deployment.
    """

    def __init__(self, deployment: Deployment, executables: Executables | None = None) -> None:
        if executables is not None:
            executables.check(deployment)
        self._deployment = deployment
        self._executables = executables
        self.compiled: dict[str, Exe] = {}
        """What has been compiled (or taken from the cache) so far, by name."""
        self._runners: dict[str, Runner] = {}

    def compile(self, tokens: int) -> Exe:
        """The step of so many tokens: a prefill chunk, or with one the decode step. Cache and counts are donated."""
        name = "decode" if tokens == 1 else f"prefill_{tokens}"
        if name not in self.compiled and self._executables is not None:
            self.compiled[name] = self._executables.load(name, self._deployment)
        if name not in self.compiled:
            deployment, scalar = self._deployment, Tensor.declare({}, "i32")
            loops = tokens == 1 and deployment.loops
            self.compiled[name] = deployment.platform.compile(
                decode if loops else step,
                deployment.model,
                deployment.attention,
                deployment.cache(),
                Tensor.declare({"s": tokens}, "i32"),
                *[scalar] * (3 if loops else 2),
                SamplingParameters.declare(),
                TokenCounts.declare(deployment.config.vocab_size),
                shardings=[deployment.sharding],
                name=name,
            )
        return self.compiled[name]

    def compile_all(self) -> dict[str, Exe]:
        """All that a generation can need, by name."""
        for tokens in self._deployment.steps():
            self.compile(tokens)
        return self.compiled

    def ready(self, tokens: int, weights: Decoder) -> Runner:
        """The same with the weights in place."""
        exe = self.compile(tokens)
        if exe.name not in self._runners:
            self._runners[exe.name] = exe.bake(weights, self._deployment.attention)
        return self._runners[exe.name]
