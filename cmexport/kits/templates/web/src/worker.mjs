/** The worker: downloads, opens and draws away from the page's thread. One call at a time; `thread.mjs` sees to that. */

import { Engine } from "./engine.mjs";
import { KitError } from "./errors.mjs";
import { isolated, whyNoWebGpu } from "./runtime.mjs";
import { selfTest } from "./selftest.mjs";

/**
 * @typedef {import("./engine.mjs").Opening & { device: "wasm" | "auto" | "webgpu", tested: boolean }} WorkerOpening
 * `device`: "auto" takes WebGPU if its pictures are right here, "webgpu" even an adapter that computes on the CPU;
 * `tested`: they were, in a worker before this one
 */
/** @typedef {{ engine: Engine, remark: string | null }} Opened */

/** Where calls come from: the worker itself, in Node its port. @type {any} */
let port;
/** @type {Promise<Opened> | undefined} */
let opened;
/** @type {WorkerOpening | undefined} */
let opening;

/** @param {WorkerOpening} how @returns {Promise<Opened>} */
async function open(how) {
  /** @type {import("./files.mjs").OnBytes} */
  const onBytes = (loaded, total) => port.postMessage({ progress: { loaded, total } });
  let remark = null;
  if (how.device !== "wasm") {
    remark = await whyNoWebGpu(how.device === "webgpu");
    if (remark === null) {
      try {
        const engine = await Engine.open(how, "webgpu", onBytes);
        // Some GPUs' drivers draw wrong pictures without an error.
        if (!how.tested) await selfTest(engine, how.base);
        return { engine, remark: null };
      } catch (error) {
        const { kind, message } = KitError.of(error);
        if (kind === "modelMissing" || kind === "modelDamaged") throw error;
        remark = `WebGPU is not used: ${message}`;
      }
    }
  }
  const engine = await Engine.open(how, "wasm", onBytes);
  if (!isolated()) remark ??= "one thread: the server does not isolate this page (COOP and COEP)";
  return { engine, remark };
}

/** @param {any} call @returns {Promise<{ answer: unknown, transfer: Transferable[] }>} */
async function work(call) {
  const how = /** @type {WorkerOpening} */ (opening);
  opened ??= open(how);
  const { engine, remark } = await opened;
  if (call.what === "open") {
    const { backend, threads } = engine;
    return { answer: { backend, threads, remark }, transfer: [] };
  }
  if (call.what === "selfTest") return { answer: await selfTest(engine, how.base), transfer: [] };
  const start = performance.now();
  const picture = await engine.draw(call.request);
  return { answer: { ...picture, ms: performance.now() - start }, transfer: [picture.data.buffer] };
}

/** @param {any} from */
function listen(from) {
  port = from;
  port.addEventListener("message", async (/** @type {MessageEvent} */ { data }) => {
    if (data.opening) {
      opening = data.opening;
      return;
    }
    try {
      const { answer, transfer } = await work(data.call);
      port.postMessage({ answer }, transfer);
    } catch (error) {
      port.postMessage({ error: KitError.of(error).toMessage() });
    }
  });
  // A port of Node's begins to deliver only now.
  port.start?.();
}

// A browser delivers as soon as this file has run, so that nothing may be waited for.
if (typeof self !== "undefined") listen(self);
else void import("node:worker_threads").then(({ parentPort }) => listen(parentPort));
