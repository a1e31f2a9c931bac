"""PyTorch's attention, at the command of torch.ts: one JSON object a line, in and out.

Tensors travel as files of raw elements, [sets x layers, batch, tokens, heads, headDim]; runs take the sets in turn. PyTorch
is given [batch, heads, tokens, headDim], contiguous, the layout it documents; putting them into it is not timed. Without a
mask, for causal ones and with a dense bias it is scaled_dot_product_attention; for other masks and biases by formula compiled
flex_attention. What is loaded has a name, and stays until it is unloaded.
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
loaded = {}


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


def alibi(read, slopes):
    slopes = torch.tensor(slopes)
    return lambda score, batch, head, i, j: score - slopes[head] * (i - j).abs()


def distance(read):
    points = read("points").view(-1, 3).clone()

    def add(score, batch, head, i, j):
        x, y, z = (points[i, c] - points[j, c] for c in range(3))
        return score - (x * x + y * y + z * z)

    return add


def relative(read, extents):
    rows, width = extents
    table = read("table").view(-1, 2 * rows - 1, 2 * width - 1).clone()

    def add(score, batch, head, i, j):
        return score + table[head, i // width - j // width + rows - 1, i % width - j % width + width - 1]

    return add


formulas = {"alibi": alibi, "distance": distance, "relative": relative}


def flexible(q, k, mask, add, is_causal):
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    sees = masks[mask.pop("kind")](**mask) if mask else (lambda batch, head, i, j: j <= i) if is_causal else None
    block_mask = sees and create_block_mask(sees, None, None, q.shape[2], k.shape[2], device="cpu")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda turn, q, k, v: compiled(q, k, v, block_mask=block_mask, score_mod=add)


def biased(dense, copies, is_causal):
    if is_causal:  # which scaled_dot_product_attention does not take beside another mask
        tokens = dense.shape[-1]
        dense = dense.masked_fill(torch.ones(tokens, tokens, dtype=torch.bool).triu(1), float("-inf"))
    biases = [dense.clone() for _ in range(copies)]
    return lambda turn, q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=biases[turn % copies])


def load(name, folder, dtype, is_causal, mask, bias, sets_count, count, batch, heads, head_dim, queries, keys):
    def read(file):
        path = os.path.join(folder, file)
        return torch.from_file(path, size=os.path.getsize(path) // 4, dtype=torch.float32)

    def inputs(file, tokens):
        flat = read(file).view(sets_count * count, batch, tokens, heads, head_dim)
        return [each.transpose(1, 2).to(getattr(torch, dtype)).contiguous().clone() for each in flat]

    layers = list(zip(inputs("q", queries), inputs("k", keys), inputs("v", keys)))
    sets = [layers[n * count : (n + 1) * count] for n in range(sets_count)]
    kind = bias and bias.pop("kind")
    q, k, v = sets[0][0]
    try:
        if kind == "dense":
            attend = biased(read("dense").view(1, heads, queries, keys), bias["copies"], is_causal)
        elif mask is None and bias is None:
            attend = lambda turn, q, k, v: scaled_dot_product_attention(q, k, v, is_causal=is_causal)
        else:
            attend = flexible(q, k, mask, formulas[kind](read, **bias) if kind else None, is_causal)
        attend(0, q, k, v)
    except Exception as error:  # compilers fail in many ways, and versions differ in what they take
        return {"error": f"{type(error).__name__}: {error}".split("\n")[0]}
    loaded[name] = {"attend": attend, "sets": sets, "outs": [None] * sets_count, "turn": 0}
    return {}


def run(name, times):
    own = loaded[name]
    attend, elapsed = own["attend"], []
    for _ in range(times):
        turn = own["turn"]
        layers = own["sets"][turn]
        start = time.perf_counter_ns()
        own["outs"][turn] = [attend(turn, *each) for each in layers]
        elapsed.append((time.perf_counter_ns() - start) / 1e6)
        own["turn"] = (turn + 1) % len(own["sets"])
    return {"elapsed": elapsed}


def output(name, path):
    outs = loaded[name]["outs"]
    flat = torch.cat([out.float().transpose(1, 2).contiguous().flatten() for each in outs for out in each])
    torch.from_file(path, shared=True, size=flat.numel(), dtype=torch.float32).copy_(flat)
    return {}


def unload(name):
    del loaded[name]
    if not loaded:
        torch._dynamo.reset()
    return {}


commands = {"load": load, "run": run, "output": output, "unload": unload}
with torch.inference_mode():
    for line in sys.stdin:
        request = json.loads(line)
        answer = json.dumps(commands[request.pop("command")](**request))
        try:
            print(answer, flush=True)
        except BrokenPipeError:  # its parent has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # which is flushed once more at the end
            break
