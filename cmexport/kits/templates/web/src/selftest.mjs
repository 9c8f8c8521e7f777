/** The stored pictures, drawn again: does this device draw what the model's makers saw? */

import { KitError } from "./errors.mjs";
import { download } from "./files.mjs";
import { decibels } from "./pictures.mjs";

/** @typedef {{ readonly worstDb: number, readonly ms: number, readonly pictures: number }} SelfTest */

/**
 * @param {import("./engine.mjs").Engine} engine
 * @param {string} base the kit's address
 * @returns {Promise<SelfTest>}
 * @throws {KitError} selfTestFailed, with the decibels of the first picture below its gate; modelMissing
 */
export async function selfTest(engine, base) {
  const folder = new URL("golden/", base).href;
  const { pictures, least_db: least } = JSON.parse(new TextDecoder().decode(await download(folder, "golden.json")));
  const start = performance.now();
  let worstDb = Infinity;
  for (const golden of pictures) {
    const drawn = await engine.draw(await requestOf(golden, folder));
    const db = decibels(drawn, await download(folder, golden.expected), golden.channels);
    if (!(db >= least[golden.run])) {
      const message = `the picture of seed ${golden.seed} is ${db.toFixed(1)} dB from the stored one, ${least[golden.run]} are wanted`;
      throw new KitError("selfTestFailed", message, { db });
    }
    worstDb = Math.min(worstDb, db);
  }
  return { worstDb, ms: performance.now() - start, pictures: pictures.length };
}

/** @param {any} golden @param {string} folder @returns {Promise<import("./engine.mjs").Request>} */
async function requestOf(golden, folder) {
  const { run, seed, label, prompt, text, guidance, image, mask, width, height, channels } = golden;
  /** @type {import("./engine.mjs").Request} */
  const request = { run, seeds: [BigInt(seed)], label, prompt: text ?? prompt, guidance };
  if (image) request.image = { data: toRgba(await download(folder, image), channels), width, height };
  if (mask) request.mask = await download(folder, mask);
  return request;
}

/** @param {Uint8Array} bytes RGB or grey @param {number} channels @returns {Uint8ClampedArray<ArrayBuffer>} */
function toRgba(bytes, channels) {
  const data = new Uint8ClampedArray((4 * bytes.length) / channels).fill(255);
  for (let at = 0; at < data.length; at += 4) {
    for (let colour = 0; colour < 3; colour++) {
      data[at + colour] = bytes[(at / 4) * channels + (channels === 3 ? colour : 0)] ?? 0;
    }
  }
  return data;
}
