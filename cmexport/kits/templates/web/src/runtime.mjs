/** onnxruntime-web: which of its builds, found where, with how many threads. */

import { KitError } from "./errors.mjs";

/** @typedef {"wasm" | "webgpu"} Backend */
/** @typedef {typeof import("onnxruntime-web/wasm")} Runtime */

// Never the older JSEP build (ort.all, ort.jsep): it drew wrong pictures in float32, and black ones in float16.
const BUILDS = { wasm: "ort.wasm.min.mjs", webgpu: "ort.webgpu.min.mjs" };

/**
 * @param {Backend} backend
 * @param {string | undefined} folder address of onnxruntime-web's files; left out, the package is found as Node and
 *   bundlers do, or in `node_modules/` beside `src/`, where a browser looks that loads these files as they are
 * @param {number} threads 0: half of the cores, four at most
 * @returns {Promise<Runtime>}
 * @throws {KitError} runtime
 */
export async function loadRuntime(backend, folder, threads) {
  const ort = await (folder === undefined ? named(backend) : at(new URL(BUILDS[backend], folder).href));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = isolated() ? threads || Math.min(4, Math.ceil((await cores()) / 2)) : 1;
  return ort;
}

/** Pages have threads only where their server isolates them; Node always has. @returns {boolean} */
export function isolated() {
  return typeof self === "undefined" || self.crossOriginIsolated;
}

/** Node has a `navigator` from version 21 on. @returns {Promise<number>} */
async function cores() {
  return typeof navigator === "undefined" ? (await import("node:os")).cpus().length : navigator.hardwareConcurrency;
}

/** @param {Backend} backend @returns {Promise<Runtime>} */
async function named(backend) {
  try {
    return await (backend === "wasm" ? import("onnxruntime-web/wasm") : import("onnxruntime-web/webgpu"));
  } catch {
    // A variable, so that bundlers don't look for the file.
    const beside = `../node_modules/onnxruntime-web/dist/${BUILDS[backend]}`;
    return at(new URL(beside, import.meta.url).href);
  }
}

/** @param {string} address @returns {Promise<Runtime>} */
async function at(address) {
  try {
    return await import(/* @vite-ignore */ address);
  } catch (error) {
    const message = `onnxruntime-web is not at ${address}: npm install (${KitError.of(error).message})`;
    throw new KitError("runtime", message, { path: address });
  }
}

/**
 * Why WebGPU is not worth a try here.
 *
 * @param {boolean} software whether adapters that compute on the CPU count; they take half a minute for a picture
 * @returns {Promise<string | null>} a sentence, or null where it is
 */
export async function whyNoWebGpu(software) {
  const gpu = typeof navigator === "undefined" ? undefined : /** @type {any} */ (navigator).gpu;
  if (!gpu) return "this browser has no WebGPU";
  const adapter = await gpu.requestAdapter().catch(() => null);
  if (!adapter) return "this browser gives no WebGPU adapter";
  if (!software && (adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)) {
    return "this browser's WebGPU is software";
  }
  return null;
}
