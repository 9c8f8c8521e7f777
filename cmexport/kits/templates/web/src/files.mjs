/** The model's files: fetched once, checked by their hash, and kept in the browser's Cache API under that hash. */

import { KitError } from "./errors.mjs";

/** @typedef {{ readonly path: string, readonly sha256: string, readonly bytes: number }} ModelFile */
/** @typedef {(loaded: number, total: number) => void} OnBytes bytes so far of all, over all files */

const CACHE = "cmexport-kit";

/**
 * Reads files below `base`, one after the other.
 *
 * @param {string} base the folder's address, ending in a slash; `file:` works in Node
 * @param {readonly ModelFile[]} files
 * @param {OnBytes} onBytes
 * @returns {Promise<Map<string, Uint8Array<ArrayBuffer>>>} by path
 * @throws {KitError} modelMissing, modelDamaged
 */
export async function readFiles(base, files, onBytes) {
  const total = files.reduce((sum, file) => sum + file.bytes, 0);
  const found = new Map();
  let done = 0;
  for (const file of files) {
    found.set(file.path, await readModelFile(base, file, (bytes) => onBytes(done + bytes, total)));
    done += file.bytes;
    onBytes(done, total);
  }
  return found;
}

/**
 * @param {string} base
 * @param {ModelFile} file
 * @param {(bytes: number) => void} onBytes
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
async function readModelFile(base, file, onBytes) {
  const cache = await openCache();
  // A made-up address on this origin: the same file is kept once, wherever it was fetched from.
  const key = cache && new URL(`/cmexport-kit/${file.sha256}`, base).href;
  const kept = cache && key && (await cache.match(key));
  if (kept) {
    const bytes = new Uint8Array(await kept.arrayBuffer());
    if (await isWhole(file, bytes)) return bytes;
    await cache.delete(key);
  }
  const bytes = await download(base, file.path, file.bytes, onBytes);
  if (!(await isWhole(file, bytes))) {
    const message = `${file.path}: is not the file this kit was made with (its SHA-256 differs); copy it again`;
    throw new KitError("modelDamaged", message, { path: file.path });
  }
  // A browser that has no room keeps nothing; the picture comes all the same.
  if (cache && key) await cache.put(key, new Response(bytes)).catch(() => {});
  return bytes;
}

/** Only on https and this machine's own addresses there is a Cache API. @returns {Promise<Cache | null>} */
async function openCache() {
  return typeof caches === "undefined" ? null : caches.open(CACHE).catch(() => null);
}

/** Forgets all models that kits of this origin have kept. @returns {Promise<void>} */
export async function forget() {
  if (typeof caches !== "undefined") await caches.delete(CACHE);
}

/** @param {ModelFile} file @param {Uint8Array<ArrayBuffer>} bytes @returns {Promise<boolean>} */
async function isWhole(file, bytes) {
  if (bytes.length !== file.bytes) return false;
  if (!globalThis.crypto?.subtle) {
    throw new KitError("runtime", "this page can't check the model: serve it over https, or from this machine");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === file.sha256;
}

/**
 * @param {string} base
 * @param {string} path below `base`
 * @param {number} [expected] how many bytes there should be
 * @param {(bytes: number) => void} [onBytes] told as they arrive
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 * @throws {KitError} modelMissing
 */
export async function download(base, path, expected = 0, onBytes = () => {}) {
  const address = new URL(path, base);
  if (address.protocol === "file:") return readLocal(address, path);
  const answer = await fetch(address).catch((error) => {
    throw new KitError("modelMissing", `${path}: can't be fetched: ${error.message}`, { path });
  });
  if (!answer.ok || !answer.body) {
    throw new KitError("modelMissing", `${path}: the server answers ${answer.status}; upload it beside the page`, { path });
  }
  const parts = [];
  let length = 0;
  const reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw new KitError("modelMissing", `${path}: broke off after ${length} bytes: ${error.message}`, { path });
    });
    if (done) break;
    parts.push(value);
    length += value.length;
    onBytes(expected > 0 ? Math.min(length, expected) : length);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** @param {URL} address @param {string} path @returns {Promise<Uint8Array<ArrayBuffer>>} */
async function readLocal(address, path) {
  const { readFile } = await import("node:fs/promises");
  try {
    return new Uint8Array(await readFile(address));
  } catch (error) {
    throw new KitError("modelMissing", `${path}: can't be read: ${KitError.of(error).message}`, { path });
  }
}
