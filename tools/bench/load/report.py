"""What the samples say, as a table and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from tools.bench.child import is_noisy
from tools.bench.load.cases import Case, Contender

_MIB = 2**20


def figures(case: Case, contender: Contender) -> dict[str, float]:
    """Seconds, GB/s, the ratio to the best limit (of bytes per second), memory, bytes read over bytes needed."""
    found: dict[str, float] = {}
    seconds = contender.median("seconds")
    if seconds is None:
        return found
    size = contender.median("bytes") or 0
    found["seconds"] = seconds
    found["gb_per_second"] = size / seconds / 1e9
    limit = case.best_limit()
    if limit is not None and limit is not contender:
        best = (limit.median("bytes") or 0) / (limit.median("seconds") or 1)
        found["of_limit"] = size / seconds / best
    for name in ("import_seconds", "open_seconds", "peak_rss_bytes", "rss_over_weights_bytes"):
        value = contender.median(name)
        if value is not None:
            found[name] = value
    read, needed = contender.median("bytes_read"), contender.median("bytes_needed")
    if read is not None and needed:
        found["read_over_needed"] = read / needed
    return found


def ratios(case: Case) -> dict[str, float]:
    """How many times as fast zml is as each peer."""
    zml = next((x for x in case.contenders if x.name == "zml"), None)
    own = zml.median("seconds") if zml else None
    result = {}
    for peer in case.contenders:
        theirs = peer.median("seconds")
        if peer is not zml and not peer.job.get("keep") and own and theirs:
            result[peer.name] = theirs / own
    return result


def table(cases: Sequence[Case]) -> str:
    """For people: a block for each case."""
    return "\n".join(line for case in cases for line in [*_block(case), ""])


def _block(case: Case) -> Iterator[str]:
    yield f"{case.name}: {case.what}"
    yield f"  {'':24}{'seconds':>10}{'GB/s':>8}{'of limit':>10}{'read/needed':>13}{'RSS over weights, MiB':>23}"
    limit = case.best_limit()
    for contender in [*([limit] if limit else []), *case.contenders]:
        found = figures(case, contender)
        name = f"limit, {contender.name}" if contender is limit else contender.name
        if not found:
            yield f"  {name:24}{contender.problem or 'not measured'}"
            continue
        over = found.get("rss_over_weights_bytes")
        yield (
            f"  {name:24}{found['seconds']:10.3f}{found['gb_per_second']:8.2f}"
            f"{_number(found.get('of_limit')):>10}{_number(found.get('read_over_needed'), 3):>13}"
            f"{'-' if over is None else f'{over / _MIB:.0f}':>23}"
        )
        imported = found.get("import_seconds", 0.0)
        if imported > 0.001:
            yield f"  {'':24}(after {imported:.3f} s of importing what the scheme needs)"
        noisy = 0 if case.served else sum(map(is_noisy, contender.samples))
        if noisy:
            yield f"  {'':24}({noisy} of {len(contender.samples)} rounds beside other programs)"
    for peer, ratio in ratios(case).items():
        yield f"  zml / {peer}: {ratio:.2f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def as_json(cases: Sequence[Case]) -> dict[str, Any]:
    """All of it, the samples too."""
    return {
        case.name: {
            "what": case.what,
            "limit": limit.name if (limit := case.best_limit()) else None,
            "ratios": ratios(case),
            "contenders": {
                x.name: {**figures(case, x), "samples": x.samples, "problem": x.problem}
                for x in case.all()
            },
        }
        for case in cases
    }
