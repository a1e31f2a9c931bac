"""PyTorch's attention, at the command of torch.ts: one JSON object a line, in and out.

Tensors travel as files of raw elements, [sets x layers, tokens, heads, headDim]; runs take the sets in turn. PyTorch is given [1, heads, tokens, headDim],
contiguous, the layout it documents; putting them into it is not timed. Without a mask, and for causal ones, it is
scaled_dot_product_attention; for other masks compiled flex_attention.
"""

import json
import os
import signal
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends with its parent, without a traceback
torch.set_num_threads(int(sys.argv[1]))
attend, sets, outs, turn = None, [], [], 0


def windowed(left, right, offset):
    """Keys from `left` before a query to `right` after it, -1 being all; query 0 stands at `offset`."""

    def sees(batch, head, i, j):
        seen = j >= 0
        if left >= 0:
            seen = seen & (j >= i + offset - left)
        if right >= 0:
            seen = seen & (j <= i + offset + right)
        return seen

    return sees


def neighboring(axes):
    """Neighborhoods on a grid of one or two axes: the queries of a stride share the window of their leader."""

    def along(x, y, axis):
        length, window, stride = axis["extent"], axis["window"], axis["stride"]
        leader = torch.clamp(x // stride * stride + stride // 2, max=length - 1)
        start = torch.clamp(leader - window // 2, min=0, max=length - window)
        return (y >= start) & (y < start + window)

    if len(axes) == 1:
        return lambda batch, head, i, j: along(i, j, axes[0])
    width = axes[1]["extent"]
    return lambda batch, head, i, j: along(i // width, j // width, axes[0]) & along(i % width, j % width, axes[1])


def ranged(sets):
    """The union of ranges of keys, each given for every query."""
    limits = [(torch.tensor(each["from"]), torch.tensor(each["to"])) for each in sets]

    def sees(batch, head, i, j):
        seen = None
        for start, end in limits:
            here = (j >= start[i]) & (j < end[i])
            seen = here if seen is None else seen | here
        return seen

    return sees


masks = {"windowed": windowed, "neighboring": neighboring, "ranged": ranged}


def flexible(mask):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    sees = masks[mask.pop("kind")](**mask)
    q, k, _ = sets[0][0]
    queries, keys = q.shape[2], k.shape[2]
    block_mask = create_block_mask(sees, None, None, queries, keys, device="cpu")
    torch._dynamo.reset()
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask)


def load(folder, dtype, is_causal, mask, sets_count, count, heads, head_dim, queries, keys):
    global attend, sets, outs, turn
    sets, outs, turn = [], [None] * sets_count, 0

    def read(name, tokens):
        shape = (sets_count * count, 1, tokens, heads, head_dim)
        size = sets_count * count * tokens * heads * head_dim
        flat = torch.from_file(os.path.join(folder, name), size=size, dtype=torch.float32).view(shape)
        return [each.transpose(1, 2).to(getattr(torch, dtype)).contiguous().clone() for each in flat]

    layers = list(zip(read("q", queries), read("k", keys), read("v", keys)))
    sets = [layers[n * count : (n + 1) * count] for n in range(sets_count)]
    if mask is None:
        attend = lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    else:
        try:
            attend = flexible(mask)
            attend(*sets[0][0])
        except Exception as error:  # compilers fail in many ways
            return {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
    return {}


def run(times):
    global turn
    elapsed = []
    for _ in range(times):
        layers = sets[turn]
        start = time.perf_counter_ns()
        outs[turn] = [attend(*each) for each in layers]
        elapsed.append((time.perf_counter_ns() - start) / 1e6)
        turn = (turn + 1) % len(sets)
    return {"elapsed": elapsed}


def output(path):
    flat = torch.cat([out.float().transpose(1, 2).contiguous().flatten() for each in outs for out in each])
    torch.from_file(path, shared=True, size=flat.numel(), dtype=torch.float32).copy_(flat)
    return {}


commands = {"load": load, "run": run, "output": output}
with torch.inference_mode():
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("command")](**request)), flush=True)
