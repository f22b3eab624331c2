"""Bins for 1M sampled lengths: ours, plain first-fit-decreasing, and TRL's packer, side by side in one run.

    python -P benchmarks/packing.py [--count 1000000] [--ctx 4096] [--rounds 3] [--reach]

Lengths come from a fixed seed: `chat` is log-normal around 190 tokens, `reasoning` log-normal with a third over ctx / 2.
Timed is lengths to bins; compiling is not. TRL's packer takes token lists, not lengths, and moves them too: it is given
lists of one byte a token, and its line says how long moving alone takes (`of which take`). It is run as `pack_dataset`
runs it, on batches of 1,000, and on the whole at once. Fill is tokens over bins x ctx; `over` counts bins past the lower
bound of Martello and Toth. Shown is the median of the rounds. `--reach` instead packs 52k chat and 100k reasoning
lengths at every row length from 256 to 131,072 and shows how near the bound each comes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from pack.binning import assign, lower_bound

Ints = npt.NDArray[np.int64]


def chat(count: int, ctx: int) -> Ints:
    """Chat-like lengths."""
    values = np.random.default_rng(0).lognormal(np.log(190), 0.95, count)
    return np.clip(np.round(values), 1, ctx).astype(np.int64)


def reasoning(count: int, ctx: int) -> Ints:
    """Long lengths, a third of them over half the row; what is over-long is not drawn."""
    values = np.random.default_rng(1).lognormal(np.log(ctx * 0.45), 0.9, 3 * count)
    return np.maximum(1, np.round(values[values <= ctx][:count])).astype(np.int64)


def ours(window: int) -> Callable[[Ints, int], int]:
    """Windowed best-fit decreasing."""
    return lambda lengths, ctx: len(assign(lengths, ctx, "bfd", window))


def first_fit_decreasing(lengths: Ints, ctx: int) -> int:
    """Sorted, then the first bin with room (a tree over the bins, compiled)."""
    return len(assign(np.sort(lengths)[::-1], ctx, "first-fit"))


def trl(batch: int) -> Callable[[Ints, int], int]:
    """TRL's best-fit decreasing over token lists, `batch` rows at a time."""
    import pyarrow as pa
    from trl import data_utils

    def run(lengths: Ints, ctx: int) -> int:
        bins = 0
        for first in range(0, len(lengths), batch):
            part = lengths[first : first + batch]
            offsets = np.concatenate(([0], np.cumsum(part)))
            values = pa.array(np.zeros(offsets[-1], dtype=np.int8))
            lists = pa.LargeListArray.from_arrays(pa.array(offsets), values)
            bins += data_utils._pack_bfd(pa.table({"input_ids": lists}), ctx).num_rows
        return bins

    return run


def moved(lengths: Ints) -> float:
    """Seconds that moving the same token lists takes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets = np.concatenate(([0], np.cumsum(lengths)))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], dtype=np.int8)))
    order = pa.array(np.argsort(-lengths, kind="stable"))
    begin = time.perf_counter()
    pc.take(lists, order)
    return time.perf_counter() - begin


def contenders() -> Iterator[tuple[str, Callable[[Ints, int], int]]]:
    """Name and function of each that is installed."""
    yield "gristmill, windows of 50k", ours(50_000)
    yield "gristmill, all at once", ours(0)
    yield "first-fit decreasing", first_fit_decreasing
    try:
        import trl as package
    except ImportError:
        print("trl is not installed: pip install trl==1.16.0")
        return
    yield f"trl {package.__version__}, batches of 1,000", trl(1_000)
    yield f"trl {package.__version__}, all at once", trl(1 << 62)


def reach() -> None:
    """Print bins past the bound, beside the two rows or 0.02 % allowed, and fill, at every row length."""
    for sampled, count in ((chat, 52_000), (reasoning, 100_000)):
        print(f"\n{sampled.__name__}: {count:,} lengths")
        for ctx in (256, 512, 1_024, 4_096, 8_192, 32_768, 65_536, 131_072):
            lengths = sampled(count, ctx)
            bound, total = lower_bound(lengths, ctx), int(lengths.sum())
            bins = len(assign(lengths, ctx))
            print(
                f"ctx {ctx:8,}  bound {bound:7,}  over {bins - bound:3,} (allowed {max(2.0, 0.0002 * bound):4.1f})  "
                f"fill {100 * total / (bins * ctx):7.3f} % (bound {100 * total / (bound * ctx):7.3f} %)"
            )


def main() -> None:
    """Measure every contender on every set of lengths and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--ctx", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reach", action="store_true")
    args = parser.parse_args()
    if args.reach:
        reach()
        return
    runs = list(contenders())
    for sampled in (chat, reasoning):
        lengths = sampled(args.count, args.ctx)
        bound = lower_bound(lengths, args.ctx)
        room, total = args.ctx, int(lengths.sum())
        print(
            f"\n{sampled.__name__}: {len(lengths):,} lengths, {100 * (lengths > room // 2).mean():.1f} % over ctx / 2, "
            f"ctx {room:,}, bound {bound:,} (fill {100 * total / (bound * room):.3f} %)"
        )
        for _, run in runs:
            run(lengths[:2_000], room)  # compile
        times: dict[str, list[float]] = {}
        bins: dict[str, int] = {}
        for _ in range(args.rounds):
            for name, run in runs:
                begin = time.perf_counter()
                bins[name] = run(lengths, room)
                times.setdefault(name, []).append(time.perf_counter() - begin)
        for name, taken in times.items():
            fill = 100 * total / (bins[name] * room)
            print(
                f"{name:32} {statistics.median(taken):8.3f} s {bins[name]:9,} bins {fill:8.3f} %  over {bins[name] - bound:6,}"
            )
        if any(name.startswith("trl") for name in times):
            print(f"{'  of which take':32} {moved(lengths):8.3f} s")


if __name__ == "__main__":
    main()
