"""PyTorch's flash attention on a GPU, and that of the package flash_attn where there is one, for torch.ts: answers
requests on standard input, a line of JSON each.

All tensors repeat one block of random bfloat16 numbers from phases of their own. A pass is a CUDA graph of runs over
sets of tensors in turn; each is timed by CUDA events.
"""

import importlib
import json
import signal
import statistics
import sys

import numpy
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends with its parent, without a traceback
source, sets, recorded = None, [], {}


def of_pytorch(q, k, v, causal):
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        out = scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)


def of_flash_attn(function):
    def run(q, k, v, causal):
        out = function(q, k, v, causal=causal)
        return out[0] if isinstance(out, tuple) else out  # some versions give the log-sum-exp too

    return run


attentions = {"pytorch": of_pytorch}
versions = {"pytorch": torch.__version__}
without = None
# On Hopper, FlashAttention 3 has a module of its own.
modules = ["flash_attn"]
if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9:
    modules.insert(0, "flash_attn_interface")
for name in modules:
    try:
        module = importlib.import_module(name)
        attentions["flash-attn"] = of_flash_attn(module.flash_attn_func)
        versions["flash-attn"] = f"{name} {getattr(module, '__version__', '3')}"
        without = None
        break
    except Exception as error:  # one built for another PyTorch fails in ways of its own
        without = f"{type(error).__name__}: {error}".split("\n")[0]


def contestants():
    return {"versions": versions} if without is None else {"versions": versions, "without": without}


def matrix_rate():
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = timed(lambda: torch.mm(a, b), 20)
    return {"rate": 2e3 * size**3 / statistics.median(times)}


def block(path):
    global source
    source = torch.from_numpy(numpy.fromfile(path, dtype=numpy.int16)).view(torch.bfloat16).cuda()
    return {}


def load(batch, heads, kvHeads, queries, keys, headDim, phases):
    sets.clear()
    recorded.clear()
    torch.cuda.empty_cache()

    def tensor(phase, tokens, heads):
        made = torch.empty(batch * tokens * heads * headDim, device="cuda", dtype=torch.bfloat16)
        at = 0
        while at < made.numel():
            length = min(source.numel() - phase, made.numel() - at)
            made[at : at + length] = source[phase : phase + length]
            at, phase = at + length, 0
        return made.view(batch, tokens, heads, headDim)

    try:
        for q, k, v in phases:
            sets.append((tensor(q, queries, heads), tensor(k, keys, kvHeads), tensor(v, keys, kvHeads)))
    except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
        sets.clear()
        return {"error": str(error).split("\n")[0]}
    return {}


def record(contestant, causal, runs):
    attention, outs = attentions[contestant], [None] * len(sets)
    try:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            attention(*sets[0], causal)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for i in range(runs):
                outs[i % len(sets)] = attention(*sets[i % len(sets)], causal)
    except Exception as error:  # flash_attn refuses what it does not take in many ways
        return {"error": str(error).split("\n")[0]}
    recorded[contestant] = (graph, outs, runs)
    return {}


def timed(work, times):
    work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in zip(events, events[1:])]


def run(contestant, passes):
    graph, _, runs = recorded[contestant]
    return {"elapsed": [time / runs for time in timed(graph.replay, passes)]}


def output(contestant, set, path):
    _, outs, _ = recorded[contestant]
    outs[set].contiguous().view(torch.int16).cpu().numpy().tofile(path)
    return {}


commands = {each.__name__: each for each in (contestants, matrix_rate, block, load, record, run, output)}
with torch.inference_mode():
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("command")](**request)), flush=True)
