/** The kit's own tests, for Node: npm install && npm test. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

import * as kit from "../src/index.mjs";
import { Tokenizer } from "../src/tokenizer.mjs";
import { normal, noise, philox } from "../src/noise.mjs";
import { byteOf, decibels, fromOutput, toInput, valueOf } from "../src/pictures.mjs";

const HERE = new URL("../", import.meta.url);
const golden = JSON.parse(await readFile(new URL("golden/golden.json", HERE), "utf8"));
// What a method is given depends on the model; `index.d.mts` says it exactly.
const { MODEL } = kit;
const Generator = /** @type {any} */ (kit.Generator);
const hex = (/** @type {number} */ value) => value.toString(16).padStart(8, "0");
const bits = (/** @type {Float32Array<ArrayBuffer>} */ values) => Array.from(new Uint32Array(values.buffer), hex);
const words = (/** @type {string[]} */ texts) => texts.map((text) => parseInt(text, 16));

/** @type {Promise<any> | undefined} */
let opened;
/** @returns {Promise<any>} one generator for all tests, from the first that wants it */
const open = () => (opened ??= Generator.load());
after(async () => (await opened?.catch(() => undefined))?.close());

/** @param {string} name */
const stored = async (name) => new Uint8Array(await readFile(new URL(`golden/${name}`, HERE)));

/** @param {Uint8Array} raw @param {number} channels */
function rgba(raw, channels) {
  const data = new Uint8ClampedArray((4 * raw.length) / channels).fill(255);
  for (let i = 0; i < data.length; i++) {
    if (i % 4 !== 3) data[i] = raw[Math.floor(i / 4) * channels + (channels === 3 ? i % 4 : 0)] ?? 0;
  }
  return data;
}

/** @param {any} facts @param {any} [changes] */
async function draw({ run, seed, label, prompt, text, guidance, image, mask, width, height, channels }, changes = {}) {
  const generator = await open();
  const wish = { seed: BigInt(seed), label, prompt: text ?? prompt, guidance, ...changes };
  if (!image) return generator.generate({ ...wish, run });
  const photo = { data: rgba(await stored(image), channels), width, height };
  return generator.edit({ ...wish, run, image: photo, ...(mask ? { mask: await stored(mask) } : {}), ...changes });
}

test("Philox gives Random123's words", () => {
  for (const { counter, key, result } of golden.noise.philox) {
    assert.deepEqual(philox(/** @type {any} */ (words(counter)), /** @type {any} */ (words(key))).map(hex), result);
  }
});

test("a word gives the number of every other language, also where a fused product would change it", () => {
  for (const { word, bits: expected } of golden.noise.words) {
    assert.deepEqual(bits(Float32Array.of(normal(parseInt(word, 16)))), [expected]);
  }
});

test("streams of a seed are those of every other language", () => {
  for (const { seed, stream, first, count, sha256 } of golden.noise.streams) {
    const drawn = noise(BigInt(seed), count, stream);
    assert.deepEqual(bits(drawn.slice(0, 4)), first);
    assert.equal(createHash("sha256").update(new Uint8Array(drawn.buffer)).digest("hex"), sha256);
    assert.deepEqual(noise(BigInt(seed), 7, stream), drawn.slice(0, 7));
  }
});

test("a value becomes the nearest byte, half to even, and a byte comes back", () => {
  for (let byte = 0; byte < 256; byte++) assert.equal(byteOf(valueOf(byte)), byte);
  assert.deepEqual([NaN, -Infinity, Infinity, -2, 2, 0].map(byteOf), [0, 0, 255, 0, 255, 128]);
  // 0.5 and 2.5 in bytes: the even neighbours.
  assert.deepEqual([0.5, 2.5].map((byte) => byteOf(Math.fround(byte / 127.5 - 1))), [0, 2]);
});

test("red, green and blue, rows and columns stay where they are", () => {
  const shape = [1, 3, 2, 4];
  const values = Float32Array.from({ length: 24 }, (_, i) => valueOf(10 * i));
  const drawn = fromOutput("NCHW", shape, values);
  assert.deepEqual([drawn.width, drawn.height], [4, 2]);
  assert.deepEqual([...drawn.data.slice(0, 8)], [0, 80, 160, 255, 10, 90, 170, 255]);
  assert.deepEqual([...drawn.data.slice(16, 20)], [40, 120, 200, 255]);
  assert.deepEqual(toInput(drawn, shape), values);
  const bytes = Uint8Array.from({ length: 24 }, (_, i) => i);
  assert.deepEqual([...fromOutput("NHWC", [1, 2, 4, 3], bytes).data.slice(12, 20)], [9, 10, 11, 255, 12, 13, 14, 255]);
  assert.deepEqual([...fromOutput("NCHW", [1, 1, 1, 1], Float32Array.of(-1)).data], [0, 0, 0, 255]);
});

for (const facts of golden.pictures) {
  test(`${facts.run}: the picture of seed ${facts.seed} is the stored one`, async () => {
    const drawn = await draw(facts);
    const db = decibels(drawn, await stored(facts.expected), facts.channels);
    assert.ok(db >= golden.least_db[facts.run], `${db.toFixed(1)} dB`);
    if (MODEL.precision !== "fp32") return;
    const expected = rgba(await stored(facts.expected), facts.channels);
    const off = [...expected].map((byte, i) => Math.abs(byte - drawn.data[i]));
    // In float32 rounding may tip a byte here and there, by one level: none of a model of pixels, 0.03 % of one of latents.
    assert.ok(Math.max(...off.map((o) => (o > 1 ? 1 : 0))) === 0, "a byte is off by two levels");
    assert.ok(off.filter((o) => o > 0).length <= 1e-3 * off.length, "too many bytes are off");
  });
}

test("pixels that the mask keeps come out to the last byte, the others do not", async (context) => {
  const facts = golden.pictures.find((/** @type {any} */ { mask }) => mask);
  if (!facts) return context.skip("this model takes no mask");
  const [image, mask] = [rgba(await stored(facts.image), facts.channels), await stored(facts.mask)];
  const drawn = await draw(facts);
  let [kept, changed] = [0, 0];
  for (const [pixel, byte] of mask.entries()) {
    const same = [0, 1, 2].every((i) => drawn.data[4 * pixel + i] === image[4 * pixel + i]);
    if (byte === 255) assert.ok(same, `pixel ${pixel} was to be kept`);
    if (byte === 255) kept++;
    else if (!same) changed++;
  }
  assert.ok(kept > 0 && changed > 0.9 * (mask.length - kept), `${kept} kept, ${changed} changed`);
});

test("the self-test passes here, and fails where a stored picture is another one", async () => {
  const { worstDb, pictures } = await (await open()).selfTest();
  assert.equal(pictures, golden.pictures.length);
  assert.ok(worstDb >= Math.min(.../** @type {number[]} */ (Object.values(golden.least_db))));
  await withCopy(async (folder) => {
    const [first] = golden.pictures;
    await writeFile(join(folder, "golden", first.expected), (await stored(first.expected)).reverse());
    const other = await Generator.load({ base: pathToFileURL(`${folder}/`) });
    await assert.rejects(other.selfTest(), ({ kind, db }) => kind === "selfTestFailed" && db < 30);
    other.close();
  });
});

test("a model with one byte changed, or without a file, is refused by name", async () => {
  await withCopy(async (folder) => {
    const file = /** @type {{ path: string }} */ (MODEL.files.find(({ path }) => path.endsWith(".onnx")));
    const path = join(folder, "model", file.path);
    const bytes = await readFile(path);
    bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 1;
    await writeFile(path, bytes);
    const base = pathToFileURL(`${folder}/`);
    const refused = (/** @type {string} */ kind) => (/** @type {any} */ e) => e.kind === kind && e.path === file.path;
    await assert.rejects(Generator.load({ base }), refused("modelDamaged"));
    await rm(path);
    await assert.rejects(Generator.load({ base }), refused("modelMissing"));
  });
});

test("a call that is aborted ends at once, and the next one draws", async () => {
  const [facts] = golden.pictures;
  const expected = await draw(facts);
  const abort = new AbortController();
  const [first, second] = [draw(facts, { signal: abort.signal }), draw(facts)];
  setTimeout(() => abort.abort(), 5);
  await assert.rejects(first, { kind: "cancelled" });
  assert.deepEqual((await second).data, expected.data);
  await assert.rejects(draw(facts, { signal: AbortSignal.abort() }), { kind: "cancelled" });
});

test("between two seeds the ends are the seeds' own pictures", async (context) => {
  const facts = golden.pictures.find((/** @type {any} */ { image }) => !image);
  if (!facts) return context.skip("this model draws nothing from noise alone");
  const generator = await open();
  const wish = { run: facts.run, label: facts.label, prompt: facts.text ?? facts.prompt, guidance: facts.guidance };
  const [start, end, middle] = [
    await generator.interpolate(0, 1n, 0, wish),
    await generator.interpolate(0, 1n, 1, wish),
    await generator.interpolate(0, 1n, 0.5, wish),
  ];
  assert.deepEqual(start.data, (await generator.generate({ ...wish, seed: 0 })).data);
  assert.deepEqual(end.data, (await generator.generate({ ...wish, seed: 1 })).data);
  assert.notDeepEqual(middle.data, start.data);
  assert.notDeepEqual(middle.data, end.data);
  await assert.rejects(generator.interpolate(0, 1, 1.5, wish), { kind: "badInput" });
});

test("what makes no sense is refused in words", async () => {
  const [facts] = golden.pictures;
  for (const seed of [-1, 0.5, 2 ** 53, 2n ** 64n, NaN, "7"]) await assert.rejects(draw(facts, { seed }), { kind: "badInput" });
  if (MODEL.labels) {
    for (const label of [-1, MODEL.labels.length, 0.5, undefined]) {
      await assert.rejects(draw(facts, { label }), { kind: "badInput" });
    }
  }
  if (facts.text) await assert.rejects(draw(facts, { prompt: undefined }), { kind: "badInput" });
  if (facts.image) {
    const image = { data: new Uint8ClampedArray(4), width: 1, height: 1 };
    await assert.rejects(draw(facts, { image }), { kind: "badInput" });
  }
  assert.deepEqual((await draw(facts)).width, facts.width);
});

test("words become the tokens that the model was trained with", async (context) => {
  const { tokenizer } = /** @type {any} */ (MODEL);
  if (!tokenizer) return context.skip("this model takes no words");
  /** @param {string} name */
  const text = (name) => readFile(new URL(`model/${tokenizer.folder}/${name}`, HERE), "utf8");
  const config = JSON.parse(await text("tokenizer_config.json"));
  const vocabulary = JSON.parse(await text("vocab.json"));
  const made = new Tokenizer(tokenizer, vocabulary, await text("merges.txt"), config.added_tokens_decoder);
  for (const { text: words, ids } of JSON.parse(await text("vectors.json")).vectors) {
    assert.deepEqual(made.encode(words), ids, JSON.stringify(words));
  }
});

/** @param {(folder: string) => Promise<void>} work with a copy of what the code reads */
async function withCopy(work) {
  const folder = await mkdtemp(join(tmpdir(), "kit-"));
  try {
    for (const name of ["model", "golden"]) {
      await cp(fileURLToPath(new URL(name, HERE)), join(folder, name), { recursive: true });
    }
    await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
