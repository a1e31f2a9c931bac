"""PyTorch's scaled_dot_product_attention, at the command of torch.ts: one JSON object a line, in and out.

Tensors travel as files of raw elements, [tokens, heads, headDim]. PyTorch is given [1, heads, tokens, headDim],
contiguous, the layout it documents; putting them into it is not timed.
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
inputs, causal, out = (), False, None


def load(folder, dtype, is_causal, heads, head_dim, queries, keys):
    global inputs, causal
    causal = is_causal

    def read(name, tokens):
        shape = (1, tokens, heads, head_dim)
        flat = torch.from_file(os.path.join(folder, name), size=tokens * heads * head_dim, dtype=torch.float32)
        return flat.view(shape).transpose(1, 2).to(getattr(torch, dtype)).contiguous().clone()

    inputs = (read("q", queries), read("k", keys), read("v", keys))
    return {}


def run(times):
    global out
    elapsed = []
    for _ in range(times):
        start = time.perf_counter_ns()
        out = scaled_dot_product_attention(*inputs, is_causal=causal)
        elapsed.append((time.perf_counter_ns() - start) / 1e6)
    return {"elapsed": elapsed}


def output(path):
    flat = out.float().transpose(1, 2).contiguous().flatten()
    torch.from_file(path, shared=True, size=flat.numel(), dtype=torch.float32).copy_(flat)
    return {}


commands = {"load": load, "run": run, "output": output}
with torch.inference_mode():
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(commands[request.pop("command")](**request)), flush=True)
