"""What the samples say: medians, shares of the machine's limits, ratios to the peers; as a table and as JSON."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from tools.bench.child import MAX_OTHER_CPU, is_noisy
from tools.bench.limits import Limits
from tools.bench.llm.contenders import Contender, Work


def medians(contender: Contender, work: Work, limits: Limits) -> dict[str, float]:
    """The figures of a contender: medians over its samples, over the quiet ones alone where there are any.

    tok/s, GB/s, seconds, bytes, and shares of limits from 0 to 1.

    A round's rate is its tokens over its seconds. Prefill's share compares it with the median of the peak, and counts
    products with weights and causal attention. Decode's is of the read bandwidth just before and after each of its
    short decodes, and counts the weights alone.
    """
    quiet = [x for x in contender.samples if not is_noisy(x)]
    samples = quiet or contender.samples
    found: dict[str, float] = {}
    peak = (limits.bf16 if contender.format != "f32" else limits.f32).median
    for i, run in enumerate(work.runs):
        tokens, context = run["prefill"], len(run["prompt"])
        seconds = statistics.median(x["runs"][i]["prefill_seconds"] for x in samples)
        found[f"prefill_{tokens}_tokens_per_second"] = tokens / seconds
        found[f"prefill_{tokens}_share_of_peak"] = (
            work.size.prefill_flops(tokens) / seconds / 1e9 / peak
        )
        seconds = statistics.median(x["runs"][i]["decode_seconds"] for x in samples)
        rate = work.decode_tokens / seconds
        bandwidth = rate * samples[0]["weight_bytes"] / 1e9
        found[f"decode_{context}_tokens_per_second"] = rate
        found[f"decode_{context}_weight_gb_per_second"] = bandwidth
        size = samples[0]["weight_bytes"]
        pairs = [pair for x in samples for pair in x["runs"][i]["pairs"]]
        found[f"decode_{context}_share_of_read"] = statistics.median(
            size / seconds / 1e9 / read for seconds, read in pairs
        )
        if "python_share" in samples[0]["runs"][i]:
            found[f"decode_{context}_python_share"] = statistics.median(
                x["runs"][i]["python_share"] for x in samples
            )
    for name in ("first_token_cold_seconds", "first_token_warm_seconds", "load_seconds"):
        if name in samples[0]:
            found[name] = statistics.median(x[name] for x in samples)
    rss = statistics.median(x["peak_rss_bytes"] for x in samples)
    found["peak_rss_bytes"] = rss
    found["rss_over_weights_and_kv_bytes"] = (
        rss - samples[0]["model_bytes"] - samples[0]["kv_cache_bytes"]
    )
    if "other_cpu" in samples[0]:
        found["other_cpu"] = statistics.median(x["other_cpu"] for x in samples)
    return found


def agreement(a: Contender, b: Contender) -> tuple[int, int] | None:
    """How many leading greedy tokens of all runs two contenders share, of how many; None without samples."""
    if not a.samples or not b.samples:
        return None
    same = total = 0
    for x, y in zip(a.samples[0]["runs"], b.samples[0]["runs"], strict=True):
        pairs = list(zip(x["tokens"], y["tokens"], strict=True))
        total += len(pairs)
        same += next((i for i, (p, q) in enumerate(pairs) if p != q), len(pairs))
    return same, total


def rows(work: Work) -> list[tuple[str, str, float, bool | None]]:
    """The table's rows: title, figure, what it is multiplied with, and whether more is better (None: no ratio)."""
    found: list[tuple[str, str, float, bool | None]] = []
    for run in work.runs:
        n = run["prefill"]
        found.append((f"prefill of {n}, tok/s", f"prefill_{n}_tokens_per_second", 1, True))
        found.append(("  % of the peak", f"prefill_{n}_share_of_peak", 100, None))
    for run in work.runs:
        n = len(run["prompt"])
        found.append((f"decode at {n}, tok/s", f"decode_{n}_tokens_per_second", 1, True))
        found.append(("  weights, GB/s", f"decode_{n}_weight_gb_per_second", 1, None))
        found.append(("  % of the read bandwidth", f"decode_{n}_share_of_read", 100, None))
        found.append(("  % Python's thread is busy", f"decode_{n}_python_share", 100, None))
    return [
        *found,
        ("first token, cold, s", "first_token_cold_seconds", 1, False),
        ("first token, warm, s", "first_token_warm_seconds", 1, False),
        ("load, s", "load_seconds", 1, False),
        ("peak RSS, MiB", "peak_rss_bytes", 2**-20, False),
        ("  over weights and KV", "rss_over_weights_and_kv_bytes", 2**-20, None),
        ("others' CPU time, %", "other_cpu", 100, None),
    ]


def table(contenders: Sequence[Contender], work: Work, limits: Limits) -> str:
    """For people: the limits, and a block for each format with a column for each contender."""
    lines = [
        f"{limits.threads} threads; medians",
        f"read bandwidth  {limits.read.median:7.1f} GB/s, at most {limits.read.max:.1f} ({limits.read.how})",
        f"f32 peak        {limits.f32.median:7.1f} GFLOP/s, at most {limits.f32.max:.1f} ({limits.f32.how})",
        f"bf16 peak       {limits.bf16.median:7.1f} GFLOP/s, at most {limits.bf16.max:.1f} ({limits.bf16.how})",
    ]
    for each in dict.fromkeys(x.format for x in contenders):
        lines += ["", *_block([x for x in contenders if x.format == each], work, limits)]
    return "\n".join(lines)


def _block(contenders: Sequence[Contender], work: Work, limits: Limits) -> Iterable[str]:
    measured = [x for x in contenders if x.samples]
    figures = {x.name: medians(x, work, limits) for x in measured}
    peers = [x.name for x in measured if x.name != "zml"]
    compared = "zml" in figures and bool(peers)
    titles = [*figures, *(["zml / best peer"] if compared else [])]
    if measured:
        yield f"{contenders[0].format:<28}" + "".join(f"{title:>16}" for title in titles)
        for title, name, factor, more in rows(work):
            values = {who: found[name] for who, found in figures.items() if name in found}
            if not values:
                continue
            cells = [_number(values[who] * factor) if who in values else "-" for who in figures]
            theirs = [values[who] for who in peers if who in values]
            if compared and more is not None and theirs and "zml" in values:
                cells.append(f"{values['zml'] / (max(theirs) if more else min(theirs)):.2f}")
            yield f"{title:<28}" + "".join(f"{cell:>16}" for cell in cells)
    if "zml" in figures and contenders[0].format in ("bf16", "f32"):
        zml = next(x for x in measured if x.name == "zml")
        for peer in (x for x in measured if x is not zml):
            same = agreement(zml, peer)
            assert same is not None
            yield f"greedy tokens shared by zml and {peer.name}: {same[0]} of {same[1]}"
    for contender in contenders:
        if contender.samples:
            about = contender.samples[0]["about"].items()
            described = ", ".join(f"{name} {value}" for name, value in about)
            yield f"{contender.format} {contender.name}: {described}"
        if contender.problem:
            yield f"{contender.format} {contender.name}: {contender.problem}"
        noisy, rounds = sum(map(is_noisy, contender.samples)), len(contender.samples)
        if noisy:
            counted = "all are counted" if noisy == rounds else "these are not counted"
            yield (
                f"{contender.format} {contender.name}: other processes took more than {MAX_OTHER_CPU:.0%} of the "
                f"processors in {noisy} of {rounds} rounds; {counted}"
            )


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def as_json(contenders: Sequence[Contender], work: Work, limits: Limits) -> dict[str, Any]:
    """For scripts: {format: {contender: {medians, samples, about} or {problem}}}."""
    found: dict[str, Any] = {}
    for x in contenders:
        entry: dict[str, Any] = {"samples": x.samples}
        if x.samples:
            entry["medians"] = medians(x, work, limits)
            entry["about"] = x.samples[0]["about"]
        if x.problem:
            entry["problem"] = x.problem
        found.setdefault(x.format, {})[x.name] = entry
    return found
