"""PyTorch's flash attention on a GPU, for torch.ts: answers requests on standard input, a line of JSON each.

All tensors repeat one block of random bfloat16 numbers from phases of their own. A pass is a CUDA graph of runs over
sets of tensors in turn; each is timed by CUDA events.
"""

import json
import signal
import statistics
import sys

import numpy
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends with its parent, without a traceback
source, sets, outs, graph, in_pass = None, [], [], None, 1


def version():
    return {"version": torch.__version__}


def matrix_rate():
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = timed(lambda: torch.mm(a, b), 20)
    return {"rate": 2e3 * size**3 / statistics.median(times)}


def block(path):
    global source
    source = torch.from_numpy(numpy.fromfile(path, dtype=numpy.int16)).view(torch.bfloat16).cuda()
    return {}


def load(name, kind, batch, heads, kvHeads, queries, keys, headDim, phases, runs):
    global sets, outs, graph, in_pass
    sets, outs, graph, in_pass = [], [None] * len(phases), None, runs
    torch.cuda.empty_cache()

    def tensor(phase, tokens, heads):
        made = torch.empty(batch * tokens * heads * headDim, device="cuda", dtype=torch.bfloat16)
        at = 0
        while at < made.numel():
            length = min(source.numel() - phase, made.numel() - at)
            made[at : at + length] = source[phase : phase + length]
            at, phase = at + length, 0
        return made.view(batch, tokens, heads, headDim).transpose(1, 2)

    try:
        for q, k, v in phases:
            sets.append((tensor(q, queries, heads), tensor(k, keys, kvHeads), tensor(v, keys, kvHeads)))

        def run(i):
            outs[i] = scaled_dot_product_attention(*sets[i], is_causal=kind == "causal", enable_gqa=heads != kvHeads)

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            run(0)
        torch.cuda.synchronize()
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, stream=stream), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            for i in range(runs):
                run(i % len(sets))
        graph = recorded
    except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
        sets = []
        return {"error": str(error).split("\n")[0]}
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


def run(passes):
    return {"elapsed": [time / in_pass for time in timed(graph.replay, passes)]}


def output(set, path):
    outs[set].transpose(1, 2).contiguous().view(torch.int16).cpu().numpy().tofile(path)
    return {}


commands = {each.__name__: each for each in (version, matrix_rate, block, load, run, output)}
with torch.inference_mode():
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("command")](**request)), flush=True)
