/** The model itself: opens its graphs and draws pictures on the thread that calls it. The worker is made of this. */

import { badInput, KitError } from "./errors.mjs";
import { readFiles } from "./files.mjs";
import { between, noise } from "./noise.mjs";
import { fromOutput, toInput, toMask } from "./pictures.mjs";
import { loadRuntime } from "./runtime.mjs";
import { Tokenizer } from "./tokenizer.mjs";

/** @typedef {{ readonly name: string, readonly dtype: string, readonly shape: readonly number[] }} Port */
/** @typedef {Port & { readonly layout: string }} Output "NCHW", or "NHWC" of bytes */
/** @typedef {{ readonly name: string, readonly file: string, readonly inputs: readonly Port[], readonly output: Port }} Graph */
/**
 * @typedef {object} Run
 * @property {string} name
 * @property {string} task
 * @property {number} steps
 * @property {readonly Graph[]} graphs in their order; each takes what earlier ones gave by name
 * @property {readonly Port[]} inputs what the app has to give
 * @property {Output} output
 * @property {number} least_db
 */
/**
 * @typedef {object} Model what `index.mjs` says of it
 * @property {string} name
 * @property {readonly import("./files.mjs").ModelFile[]} files
 * @property {null | { folder: string, begin: number, end: number, pad: number, unknown: number, length: number }} tokenizer
 * @property {readonly string[] | null} labels
 * @property {readonly string[] | null} prompts
 * @property {readonly Run[]} runs
 */
/**
 * @typedef {object} Request one picture
 * @property {string} run
 * @property {readonly bigint[]} seeds one, or two to draw between
 * @property {number} [t] 0 is the first seed, 1 the second
 * @property {number} [label]
 * @property {number | string} [prompt] an index of `prompts`, or any words
 * @property {number} [guidance]
 * @property {import("./pictures.mjs").Picture} [image]
 * @property {Uint8Array<ArrayBuffer>} [mask] one byte a pixel, 255 keeps it, 0 is painted
 */
/**
 * @typedef {object} Opening
 * @property {Model} model
 * @property {string} base the kit's address, ending in a slash
 * @property {string} [runtime] the address of onnxruntime-web's files
 * @property {number} threads
 */

/** @typedef {import("onnxruntime-web/wasm").Tensor} Tensor */
/** @typedef {Float32Array<ArrayBuffer> | BigInt64Array<ArrayBuffer> | Int32Array<ArrayBuffer>} Values */

export class Engine {
  /**
   * @param {Opening} opening
   * @param {import("./runtime.mjs").Backend} backend
   * @param {import("./files.mjs").OnBytes} onBytes
   * @returns {Promise<Engine>}
   * @throws {KitError} modelMissing, modelDamaged, runtime
   */
  static async open(opening, backend, onBytes) {
    const { model, base, runtime, threads } = opening;
    // The tokenizer's test vectors are for tests.
    const used = model.files.filter(({ path }) => !path.endsWith("/vectors.json"));
    const files = await readFiles(new URL("model/", base).href, used, onBytes);
    const ort = await loadRuntime(backend, runtime, threads);
    const sessions = new Map();
    const graphs = new Set(model.runs.flatMap((run) => run.graphs.map((graph) => graph.file)));
    const tokens = model.tokenizer === null ? "" : `${model.tokenizer.folder}/`;
    const weights = [...files]
      .filter(([path]) => !graphs.has(path) && (tokens === "" || !path.startsWith(tokens)))
      .map(([path, data]) => ({ path: path.split("/").at(-1) ?? path, data }));
    for (const file of graphs) {
      const bytes = files.get(file);
      if (bytes === undefined) throw new KitError("modelMissing", `${file}: is not among the kit's files`, { path: file });
      const options = { executionProviders: [backend], externalData: weights };
      sessions.set(file, await ort.InferenceSession.create(bytes, options));
    }
    return new Engine(model, backend, ort, sessions, tokens === "" ? null : tokenizerOf(model, files));
  }

  /**
   * @param {Model} model
   * @param {import("./runtime.mjs").Backend} backend
   * @param {import("./runtime.mjs").Runtime} ort
   * @param {Map<string, import("onnxruntime-web/wasm").InferenceSession>} sessions by file
   * @param {Tokenizer | null} tokenizer
   */
  constructor(model, backend, ort, sessions, tokenizer) {
    this.model = model;
    this.backend = backend;
    this.ort = ort;
    this.sessions = sessions;
    this.tokenizer = tokenizer;
  }

  /** @returns {number} threads of WebAssembly */
  get threads() {
    return this.ort.env.wasm.numThreads ?? 1;
  }

  /**
   * @param {Request} request
   * @returns {Promise<{ data: Uint8ClampedArray<ArrayBuffer>, width: number, height: number }>} RGBA
   * @throws {KitError} badInput, runtime
   */
  async draw(request) {
    const run = this.model.runs.find(({ name }) => name === request.run);
    if (run === undefined) throw badInput(`this model has no ${request.run}`);
    /** @type {Map<string, Tensor>} */
    const tensors = new Map();
    for (const port of run.inputs) tensors.set(port.name, this.tensor(port, this.values(port, request)));
    for (const graph of run.graphs) {
      const feeds = Object.fromEntries(graph.inputs.map(({ name }) => [name, tensors.get(name)]));
      const session = /** @type {import("onnxruntime-web/wasm").InferenceSession} */ (this.sessions.get(graph.file));
      const given = await session.run(/** @type {Record<string, Tensor>} */ (feeds), [graph.output.name]);
      tensors.set(graph.output.name, /** @type {Tensor} */ (given[graph.output.name]));
    }
    const { name, layout, shape } = run.output;
    const drawn = fromOutput(layout, shape, /** @type {Float32Array} */ (tensors.get(name)?.data ?? []));
    for (const tensor of tensors.values()) tensor.dispose();
    if (request.image && request.mask) keep(drawn.data, request.image.data, request.mask);
    return drawn;
  }

  /** Frees what the sessions hold. @returns {Promise<void>} */
  async close() {
    for (const session of this.sessions.values()) await session.release();
  }

  /** @param {Port} port @param {Values} values @returns {Tensor} */
  tensor(port, values) {
    const dtype = /** @type {"float32"} */ (port.dtype);
    return new this.ort.Tensor(dtype, /** @type {Float32Array} */ (values), port.shape);
  }

  /**
   * @param {Port} port
   * @param {Request} request
   * @returns {Values} what the request says of one input
   */
  values({ name, dtype, shape }, request) {
    const count = shape.reduce((product, axis) => product * axis, 1);
    switch (name) {
      case "noise":
        return drawn(request, (seed) => noise(seed, count));
      case "renoise":
        return drawn(request, (seed) => renoise(seed, count, shape[0] ?? 1));
      case "label":
        return integers(dtype, [index(name, request.label, this.model.labels)]);
      case "prompt":
        return integers(dtype, [index(name, request.prompt, this.model.prompts)]);
      case "tokens":
        if (typeof request.prompt !== "string" || this.tokenizer === null) throw badInput("prompt: words are wanted");
        return integers(dtype, this.tokenizer.encode(request.prompt));
      case "guidance":
        if (!Number.isFinite(request.guidance)) throw badInput("guidance: a number is wanted");
        return Float32Array.of(/** @type {number} */ (request.guidance));
      case "image":
        if (!request.image) throw badInput("image: a picture to edit is wanted");
        return toInput(request.image, shape);
      case "mask":
        if (!request.mask) throw badInput("mask: which pixels to keep is wanted");
        return toMask(request.mask, shape);
      default:
        throw badInput(`${name}: this kit does not know what to give for it`);
    }
  }
}

/**
 * @param {Request} request
 * @param {(seed: bigint) => Float32Array<ArrayBuffer>} make
 * @returns {Float32Array<ArrayBuffer>}
 */
function drawn({ seeds, t = 0 }, make) {
  const [first, second] = seeds;
  if (first === undefined) throw badInput("seed: a whole number from 0 to 2^64 - 1 is wanted");
  return second === undefined ? make(first) : between(make(first), make(second), t);
}

/** Stream k is what is added before evaluation k + 1. @param {bigint} seed @param {number} count @param {number} parts */
function renoise(seed, count, parts) {
  const whole = new Float32Array(count);
  const each = count / parts;
  for (let k = 0; k < parts; k++) whole.set(noise(seed, each, k + 1), k * each);
  return whole;
}

/**
 * Puts pixels that the mask keeps back as they were: files in few bits round them, the float32 ones do not.
 *
 * @param {Uint8ClampedArray} drawn RGBA
 * @param {Uint8ClampedArray} image RGBA
 * @param {Uint8Array} mask
 */
function keep(drawn, image, mask) {
  for (const [pixel, byte] of mask.entries()) {
    if (byte === 255) drawn.set(image.subarray(4 * pixel, 4 * pixel + 4), 4 * pixel);
  }
}

/** @param {string} dtype @param {readonly number[]} numbers @returns {Values} */
function integers(dtype, numbers) {
  return dtype === "int32" ? Int32Array.from(numbers) : BigInt64Array.from(numbers, BigInt);
}

/** @param {string} name @param {unknown} given @param {readonly string[] | null} listed @returns {number} */
function index(name, given, listed) {
  const last = (listed?.length ?? 0) - 1;
  if (typeof given !== "number" || !Number.isInteger(given) || given < 0 || given > last) {
    throw badInput(`${name}: is ${String(given)}; a whole number from 0 to ${last} is wanted`);
  }
  return given;
}

/** @param {Model} model @param {Map<string, Uint8Array<ArrayBuffer>>} files @returns {Tokenizer | null} */
function tokenizerOf({ tokenizer }, files) {
  if (tokenizer === null) return null;
  /** @param {string} name */
  const text = (name) => new TextDecoder().decode(files.get(`${tokenizer.folder}/${name}`));
  const config = JSON.parse(text("tokenizer_config.json"));
  return new Tokenizer(tokenizer, JSON.parse(text("vocab.json")), text("merges.txt"), config.added_tokens_decoder);
}
