// Programs that any Node can run, each on a device, 'cpu' or the stand-in's 'cuda': argv is NAME DEVICE. What goes wrong
// ends the process; otherwise it prints what it did.
const { isMainThread, parentPort, Worker, workerData } = require('node:worker_threads');
const { attention, causal, keyBias, memoryStats, Stream, Tensor } = require('node-attention');
const { native } = require('../../dist/native.js');

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const shape = [1, 256, 2, 32];

/** All elements are a quarter. */
function quarter(device) {
  const shared = new Float32Array(new SharedArrayBuffer(4 * 256 * 2 * 32)).fill(0.25);
  const tensor = Tensor.wrap(shared, shape);
  return device === 'cpu' ? tensor : tensor.to(device);
}

/** What attention makes of it: the stand-in adds one. */
function check(values, device) {
  const expected = device === 'cpu' ? 0.25 : 1.25;
  const wrong = values.findIndex((value) => Math.abs(value - expected) > 1e-6);
  if (wrong >= 0) throw new Error(`element ${wrong} is ${values[wrong]}, not ${expected}`);
}

/** Memory is what it was once everything is collected. */
async function backTo(before, device) {
  for (let i = 0; i < 200; i++) {
    globalThis.gc();
    await pause(5);
    const { live, bytes } = memoryStats(device);
    if (live === before.live && bytes === before.bytes) return;
  }
  throw new Error(`memory was ${JSON.stringify(before)} and is ${JSON.stringify(memoryStats(device))}`);
}

/** Of a worker: work without end, promises for some of it, until it is terminated. */
async function flood({ device }) {
  const x = quarter(device);
  const streams = [new Stream(device), new Stream(device)];
  const graph = streams[0].capture(() => attention(x, x, x, { stream: streams[0] }));
  for (let i = 0; ; i++) {
    const stream = streams[i % 2];
    const { out } = attention(x, x, x, { stream, mask: causal() });
    graph.launch(stream);
    stream.wait(streams[(i + 1) % 2].record());
    out.read().catch(() => {});
    if (i % 3 === 0) out.dispose();
    if (i === 4) parentPort.postMessage('busy');
    if (i % 50 === 49) await stream.synchronize();
  }
}

/** Of a worker: one call, again and again, so that the end finds the addon in the middle of it. */
function repeat({ device, call }) {
  const x = quarter(device);
  const mismatched = Tensor.zeros([1, 1, 2, 32], { device });
  const calls = {
    create: () => native.tensorCreate([1], 0, device, false, false),
    attention() {
      try {
        attention(x, x, mismatched); // is read to its end, and refused
      } catch {}
    },
    refuse() {
      try {
        native.tensorCreate([-1], 0, device, false, false);
      } catch {}
    },
  };
  parentPort.postMessage('busy');
  for (;;) calls[call]();
}

const programs = {
  /** Thirty workers: half are terminated at work, half at any moment from their start on. */
  async workers(device) {
    const x = quarter(device);
    const before = memoryStats(device);
    for (let i = 0; i < 30; i += 5) {
      const all = Array.from({ length: 5 }, () => new Worker(__filename, { workerData: { device } }));
      const during = attention(x, x, x).out.read();
      await Promise.all(
        all.map(async (worker, w) => {
          if (w % 2) await pause((i + w) * 3);
          else await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
          await worker.terminate();
        }),
      );
      check(await during, device);
    }
    await backTo(before, device);
    return '30 workers';
  },

  /** Twenty-four workers, terminated while the addon reads the arguments of a call or refuses it. */
  async reading(device) {
    for (let i = 0; i < 24; i += 4) {
      const all = ['create', 'attention', 'create', 'refuse'].map(
        (call) => new Worker(__filename, { workerData: { device, call } }),
      );
      await Promise.all(
        all.map(async (worker) => {
          await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
          await worker.terminate();
        }),
      );
    }
    return '24 workers';
  },

  /** Everything is dropped while it is queued, and collected at once. */
  async collect(device) {
    const x = quarter(device);
    const before = memoryStats(device);
    const round = async () => {
      const stream = new Stream(device);
      stream.record().done();
      const bias = keyBias(Tensor.zeros([256], { device }));
      const reads = [];
      for (let i = 0; i < 4; i++) {
        const { out } = attention(x, x, x, { stream, bias });
        reads.push(attention(out.slice([0, 1], [i, 256]), x, x, { stream }).out.read());
        if (i === 2) reads.push(attention(x, x, x, { stream }).out.read());
      }
      stream.capture(() => attention(x, x, x, { stream })).launch();
      globalThis.gc();
      const [first] = await Promise.all([reads[2], Promise.all(reads)]);
      check(
        first.map((value) => (device === 'cpu' ? value : value - 1)),
        device,
      );
    };
    for (let i = 0; i < 150; i++) await round();
    await backTo(before, device);
    return '150 rounds';
  },

  /**
   * A day of a server that answers two requests a second: 172,800 of them, each of which allocates q, k, v, their
   * result and its lse, and the copy that is read: over a million allocations, of sizes between 1 KiB and 128 KiB. One
   * result in sixteen is left to the collector, which is called every 512 requests: how many blocks the pool keeps
   * follows from how many live at once, and that would be Node's own affair.
   */
  async churn(device) {
    // Not in workers: koffi, by which it works, aborts when a worker is terminated that is loading it.
    const { allocated } = require('../support/allocated.cjs');
    const requests = device === 'cpu' ? 2 * 24 * 3600 : 8_000;
    const rows = new Float32Array(256 * 64).fill(0.25);
    const request = async (n) => {
      const lengths = [1, 1 + ((n * 7) % (n % 64 === 0 ? 256 : 16)), 1, 64];
      const data = rows.subarray(0, lengths[1] * 64);
      const [q, k, v] = Array.from({ length: 3 }, () => Tensor.from(data, lengths, { device }));
      const { out, lse } = attention(q, k, v);
      const read = out.read();
      for (const tensor of [q, k, v, lse, ...(n % 16 ? [out] : [])]) tensor.dispose();
      check((await read).subarray(0, 1), device);
    };
    const before = memoryStats(device);
    const samples = [];
    for (let n = 0; n < requests; ) {
      for (const end = n + requests / 20; n < end; ) {
        const batch = [];
        for (const some = n + 64; n < some && n < end; n++) batch.push(request(n));
        await Promise.all(batch);
        if (n % 512 === 0) globalThis.gc();
      }
      await backTo(before, device);
      const sample = {
        rss: process.memoryUsage.rss(),
        pooledBytes: memoryStats(device).pooledBytes,
        allocated: Infinity,
      };
      // Node frees what was collected when it has time.
      for (let i = 0; i < 5; i++) {
        globalThis.gc();
        await pause(5);
        sample.allocated = Math.min(sample.allocated, allocated() - sample.pooledBytes);
      }
      samples.push(sample);
    }
    // In the first half Node grows to what it needs; a leak would go on in the second. There the CPU is asked 43,200 times
    // after the first five samples: 48 bytes that each request leaves behind are found, in the pool or outside. The pool
    // may grow by what the 64 requests of a batch hold, 1.3 MB, on the day's first batch that holds it all at once. The
    // resident memory follows JavaScript's heap, whose size is Node's own affair; its limit is for what malloc does not
    // know of.
    const most = (key, from, to) => Math.max(...samples.slice(from, to).map((sample) => sample[key]));
    for (const [key, allowed] of Object.entries({ allocated: 2 ** 21, pooledBytes: 2 ** 21, rss: 64 * 2 ** 20 })) {
      const [early, late] = [most(key, 10, 15), most(key, 15, 20)];
      if (late > early + allowed) throw new Error(`${key} grew from ${early} to ${late}: ${JSON.stringify(samples)}`);
    }
    const rss = samples.map((sample) => Math.round(sample.rss / 2 ** 20));
    const grown = Math.round((samples.at(-1).allocated - samples[10].allocated) / 1024);
    return `${requests} requests; from noon on ${grown} KiB more allocated; resident ${rss[10]} MiB at noon and ${rss.at(-1)} MiB at the end`;
  },
};

if (isMainThread) {
  const [name, device] = process.argv.slice(2);
  programs[name](device).then((done) => console.log(done));
} else if (workerData.call) {
  repeat(workerData);
} else {
  flood(workerData);
}
