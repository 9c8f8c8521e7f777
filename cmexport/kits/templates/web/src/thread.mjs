/**
 * One worker that is given one call at a time.
 *
 * WebAssembly can't be interrupted: whoever aborts the call at hand ends the worker, and the next call starts a fresh one.
 * Calls that still wait are not touched by that.
 */

import { KitError } from "./errors.mjs";

/** @typedef {{ loaded: number, total: number }} Progress bytes */
/**
 * @typedef {object} Call
 * @property {object} call what the worker is sent
 * @property {(answer: any) => void} resolve
 * @property {(error: KitError) => void} reject
 * @property {AbortSignal | undefined} signal
 * @property {((progress: Progress) => void) | undefined} onProgress
 */

export class Thread {
  /** @type {any} */
  #worker = null;
  /** @type {Call | null} */
  #active = null;
  /** @type {Call[]} */
  #waiting = [];
  #closed = false;

  /** @param {import("./worker.mjs").WorkerOpening} opening */
  constructor(opening) {
    /** Sent to every fresh worker. */
    this.opening = opening;
  }

  /**
   * @param {object} call
   * @param {{ signal?: AbortSignal | undefined, onProgress?: ((progress: Progress) => void) | undefined }} [options]
   * @returns {Promise<any>}
   */
  call(call, { signal, onProgress } = {}) {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new KitError("runtime", "this generator was closed; load another"));
      if (signal?.aborted) return reject(cancelled());
      const waiting = { call, resolve, reject, signal, onProgress };
      signal?.addEventListener("abort", () => this.#abort(waiting), { once: true });
      this.#waiting.push(waiting);
      this.#next();
    });
  }

  /** Ends the worker; whatever was not answered is cancelled. */
  close() {
    this.#closed = true;
    const left = [...(this.#active ? [this.#active] : []), ...this.#waiting];
    this.#waiting = [];
    this.#end();
    for (const { reject } of left) reject(cancelled());
  }

  /** @param {Call} call */
  #abort(call) {
    if (call === this.#active) this.#end();
    this.#waiting = this.#waiting.filter((other) => other !== call);
    // Nothing happens if it was answered already.
    call.reject(cancelled());
    this.#next();
  }

  #end() {
    this.#worker?.terminate();
    this.#worker = null;
    this.#active = null;
  }

  #next() {
    if (this.#active !== null) return;
    const next = this.#waiting.shift();
    if (next === undefined) return;
    this.#active = next;
    this.#start().then(
      (worker) => {
        // Aborted while the worker came up: this one belongs to nobody, or to the call after.
        if (this.#active !== next) return;
        // A program in Node ends when nothing but an idle worker is left.
        worker.ref?.();
        worker.postMessage({ call: next.call });
      },
      (error) => this.#settle(({ reject }) => reject(KitError.of(error))),
    );
  }

  /** @returns {Promise<any>} */
  async #start() {
    if (this.#worker !== null) return this.#worker;
    const worker = await startWorker();
    if (this.#worker !== null || this.#active === null) {
      worker.terminate();
      return this.#worker ?? worker;
    }
    this.#worker = worker;
    /** @param {any} data */
    const onMessage = (data) => {
      if (worker !== this.#worker) return;
      if (data.progress) this.#active?.onProgress?.(data.progress);
      else if (data.error) this.#settle(({ reject }) => reject(KitError.fromMessage(data.error)));
      else this.#settle(({ resolve }) => resolve(data.answer));
    };
    /** @param {{ message?: string }} event */
    const onError = (event) => {
      if (worker !== this.#worker) return;
      const failed = this.#active;
      this.#end();
      failed?.reject(new KitError("runtime", event.message || "the worker did not start"));
      this.#next();
    };
    if (typeof worker.on === "function") {
      worker.on("message", onMessage).on("error", onError);
    } else {
      worker.onmessage = (/** @type {MessageEvent} */ { data }) => onMessage(data);
      worker.onerror = onError;
    }
    worker.postMessage({ opening: this.opening });
    return worker;
  }

  /** @param {(call: Call) => void} how */
  #settle(how) {
    const done = this.#active;
    this.#active = null;
    this.#worker?.unref?.();
    if (done) how(done);
    this.#next();
  }
}

/** @returns {Promise<any>} a `Worker` of the browser or of Node */
async function startWorker() {
  // Written out in full: bundlers look for just this.
  if (typeof Worker !== "undefined") return new Worker(new URL("./worker.mjs", import.meta.url), { type: "module" });
  const { Worker: NodeWorker } = await import("node:worker_threads");
  return new NodeWorker(new URL("./worker.mjs", import.meta.url));
}

const cancelled = () => new KitError("cancelled", "cancelled");
