/**
 * Works through one job in a worker of its own, and tells what it measured in the lines of bench_device/README.md.
 *
 * A worker, so that drawing the page doesn't wait for the model nor the model for the page; one for each job, so that
 * its memory goes when it goes. Lines go to the host between the timed rounds only: no request is under way while the
 * clock runs.
 */

import { base64, typedArray } from "./arrays.mjs";
import { Canary } from "./canary.mjs";
import { whyOneThread } from "./facts.mjs";
import { Host } from "./host.mjs";
import { psnr } from "./statistics.mjs";

const CONTRACT = 1;
const VERSION = "1";
const CANARY_RUNS = 5;
const ROUND_S = 1.0; // A tab that is closed loses one second of samples.
const DTYPES = { float32: "float32", float16: "float16", uint8: "uint8", int32: "int32", int64: "int64" };

class StageError extends Error {
  constructor(stage, message) {
    super(message);
    this.stage = stage;
  }
}

// The module's heap never shrinks, so its size at the end is the most it ever was. onnxruntime-web doesn't tell it;
// it makes the memory through this constructor.
const heaps = [];
const Memory = WebAssembly.Memory;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor) {
    super(descriptor);
    heaps.push(this);
  }
};
const heapMb = () => heaps.reduce((sum, heap) => sum + heap.buffer.byteLength, 0) / 1e6;

const seconds = () => performance.now() / 1000;

async function within(stage, work) {
  try {
    return await work();
  } catch (error) {
    throw new StageError(stage, String(error?.message ?? error).trim().split("\n")[0].slice(0, 500) || "no message");
  }
}

class Bench {
  constructor({ host, index, job, files, device, deviceWhy, facts }) {
    Object.assign(this, { host, index, job, files, device, deviceWhy, facts });
    this.pending = [];
    this.gpu = job.provider === "webgpu";
  }

  tell(kind, fields = {}) {
    this.pending.push({ kind, ...fields });
    postMessage({ what: "line", line: kind === "output" ? { kind } : { kind, ...fields } });
  }

  async flush() {
    const lines = this.pending.splice(0);
    if (lines.length > 0) await this.host.report(this.index, lines);
  }

  async work() {
    const { job } = this;
    await within("start", () => this.prepare());
    await this.open(true);
    await this.flush();
    await within("load", () => this.session.release());
    await this.open(false);
    await this.firstRun();
    await this.pictures();
    await this.flush();
    postMessage({ what: "step", text: "warming up" });
    for (let i = 0; i < job.warmup; i++) await this.run(this.feeds[0]);
    for (let repeat = 0; repeat < job.repeats; repeat++) await this.samples(repeat);
    for (let minute = 0; minute < Math.ceil(job.sustained_minutes); minute++) await this.minute(minute);
    this.tell("memory", {
      before_mb: null,
      peak_mb: heapMb(),
      after_mb: heapMb(),
      method: this.gpu ? "size of the WebAssembly heap, without what lies on the GPU" : "size of the WebAssembly heap",
      why: { before_mb: "the heap is made when the first model is opened" },
    });
    const why = "browsers don't tell a page";
    const heat = { celsius: null, status: null, throttled: null };
    this.tell("thermal", { t_s: seconds(), ...heat, why: { celsius: why, status: why, throttled: why } });
    this.tell("done");
    await this.flush();
  }

  /** Fetch the files and import the runtime. */
  async prepare() {
    const { job, files } = this;
    if (job.contract !== CONTRACT) throw new Error(`job.json has contract ${job.contract}, this page ${CONTRACT}`);
    if (job.target !== "onnx") throw new Error(`a browser runs onnx artefacts, not ${job.target}`);
    if (this.gpu && !this.facts.gpu) throw new Error(this.facts.whyNoGpu);
    const total = files.reduce((sum, file) => sum + file.bytes, 0);
    let got = 0;
    const tell = (bytes) => postMessage({ what: "download", got: (got += bytes), total });
    const at = `jobs/${this.index}/`;
    this.parts = [];
    for (const { path } of files) this.parts.push({ path, data: new Uint8Array(await this.host.file(at + path, tell)) });
    this.ort = await import(this.gpu ? "./vendor/ort.webgpu.min.mjs" : "./vendor/ort.wasm.min.mjs");
    this.ort.env.logLevel = "error";
    // Left alone it takes half of the cores, four at most; and one where the browser allows no more.
    if (job.threads > 0) this.ort.env.wasm.numThreads = job.threads;
    const specs = Object.fromEntries(job.inputs.map((spec) => [spec.name, spec]));
    this.feeds = [];
    for (const run of job.runs) {
      const feed = {};
      for (const [name, file] of Object.entries(run)) {
        const { dtype, shape } = specs[name];
        feed[name] = new this.ort.Tensor(DTYPES[dtype], typedArray(dtype, await this.host.file(at + file, () => {})), shape);
      }
      this.feeds.push(feed);
    }
    this.canary = new Canary();
  }

  async open(cold) {
    postMessage({ what: "step", text: cold ? "opening the model" : "opening it again" });
    const { job, parts } = this;
    const [model, ...rest] = parts;
    const level = String(job.session.graph_optimization_level ?? "ORT_ENABLE_ALL").replace("ORT_ENABLE_", "").toLowerCase();
    const options = {
      executionProviders: [this.gpu ? "webgpu" : "wasm"],
      graphOptimizationLevel: ["basic", "extended", "all"].includes(level) ? level : "all",
      externalData: rest.map(({ path, data }) => ({ path: path.split("/").pop(), data })),
    };
    const start = performance.now();
    this.session = await within("load", () => this.ort.InferenceSession.create(model.data, options));
    const ms = performance.now() - start;
    if (cold) this.meta();
    this.tell("load", { ms, cold });
  }

  meta() {
    const { ort, facts } = this;
    const version = ort.env.versions?.web ?? ort.env.versions?.common ?? null;
    const threads = ort.env.wasm.numThreads || null;
    const one = threads === 1 ? whyOneThread(facts) : null;
    const why = { ...this.deviceWhy, placement: "onnxruntime-web doesn't tell" };
    if (version === null) why.runtime_version = "onnxruntime-web doesn't tell";
    if (threads === null) why.threads = "onnxruntime-web doesn't tell";
    const device = { ...this.device, facts: { ...this.device.facts, why_one_thread: one } };
    this.tell("meta", {
      contract: CONTRACT,
      runner: "web",
      runner_version: VERSION,
      runtime: "onnxruntime-web",
      runtime_version: version,
      realized: this.gpu ? "webgpu" : "wasm",
      threads,
      placement: null,
      fallback_ops: [],
      tools: version === null ? {} : { "onnxruntime-web": version },
      device,
      why,
    });
  }

  /** One run; its outputs lie in the CPU's memory when it returns. */
  run(feed) {
    return within("run", () => this.session.run(feed));
  }

  async firstRun() {
    postMessage({ what: "step", text: "first run" });
    const start = performance.now();
    const outputs = await within("first", () => this.session.run(this.feeds[0]));
    this.tell("first", { ms: performance.now() - start });
    await within("self-test", () => this.selfTest(outputs));
  }

  /** Nothing is timed before the first picture is the one it must be: GPU code has drawn wrong ones without an error. */
  async selfTest(outputs) {
    const test = this.job.self_test;
    if (!test) return; // The host has no reference; the record says why.
    postMessage({ what: "step", text: "self-test" });
    const raw = await this.host.file(`jobs/${this.index}/${test.file}`, () => {});
    const wanted = typedArray(test.dtype, raw);
    const found = outputs[test.output]?.data;
    if (found?.length !== wanted.length) throw new Error(`self-test: the model gave no ${test.output} of the right size`);
    const db = psnr(wanted, found, test.dtype === "uint8" ? 255 : 2);
    if (db >= test.least_db) return;
    const shown = Number.isFinite(db) ? `${db.toFixed(1)} dB from` : "not even finite, unlike";
    const where = this.gpu ? "WebGPU" : "WebAssembly";
    throw new Error(`self-test: ${where} here draws a wrong picture, ${shown} the reference; nothing was measured`);
  }

  async pictures() {
    for (const [index, feed] of this.feeds.entries()) {
      postMessage({ what: "step", text: `picture ${index + 1} of ${this.feeds.length}` });
      const outputs = await this.run(feed);
      for (const [name, tensor] of Object.entries(outputs)) {
        const { type, dims, data } = tensor;
        this.tell("output", { run: index, name, dtype: type, shape: [...dims], data: base64(data) });
        postMessage({ what: "picture", dtype: type, shape: [...dims], data });
      }
    }
  }

  canaries() {
    // The first one finds the model's data in the caches: not counted.
    return this.canary.sing(CANARY_RUNS + 1).slice(1);
  }

  async samples(repeat) {
    const { min_runs: runs, min_seconds: least, max_seconds: most = 0 } = this.job;
    const begin = seconds();
    let count = 0;
    for (let round = 0; count < runs || seconds() - begin < least; round++) {
      if (most > 0 && count > 0 && seconds() - begin >= most) break;
      const before = this.canaries();
      const start_s = seconds();
      const ms = [];
      while (seconds() - start_s < ROUND_S) {
        const start = performance.now();
        await this.run(this.feeds[0]);
        ms.push(performance.now() - start);
      }
      const end_s = seconds();
      count += ms.length;
      this.tell("samples", { repeat, round, ms, canary_ms: [...before, ...this.canaries()], start_s, end_s });
      const share = Math.min(count / runs, least > 0 ? (seconds() - begin) / least : 1);
      postMessage({ what: "progress", share: (repeat + share) / this.job.repeats, count });
      await this.flush();
    }
  }

  async minute(number) {
    const lasts = Math.min(60, 60 * (this.job.sustained_minutes - number));
    const before = this.canaries();
    const begin = seconds();
    const ms = [];
    do {
      const start = performance.now();
      await this.run(this.feeds[0]);
      ms.push(performance.now() - start);
    } while (seconds() - begin < lasts);
    const why = { celsius: "browsers don't tell a page" };
    this.tell("minute", { minute: number, ms, canary_ms: [...before, ...this.canaries()], celsius: null, why });
    postMessage({ what: "minute", minute: number + 1, of: this.job.sustained_minutes });
    await this.flush();
  }
}

self.onmessage = async ({ data }) => {
  const host = new Host(data.base, data.key);
  let bench = null;
  try {
    const job = await within("start", async () => (await host.ask(`jobs/${data.index}/job.json`)).json());
    bench = new Bench({ ...data, host, job });
    await bench.work();
    postMessage({ what: "done" });
  } catch (error) {
    const message = error.message || String(error);
    const lines = [...(bench?.pending ?? []), { kind: "error", stage: error.stage ?? "run", message }];
    await host.report(data.index, lines).catch(() => {});
    postMessage({ what: "failed", message });
  }
};
