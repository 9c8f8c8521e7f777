/** What an app calls. `index.mjs` makes a `Generator` of it, with the model's own names and types. */

import { badInput, KitError } from "./errors.mjs";
import { picture } from "./pictures.mjs";
import { Thread } from "./thread.mjs";

/** @typedef {import("./pictures.mjs").Picture} Picture */
/** @typedef {Picture & { readonly ms: number }} Drawn with the milliseconds that the worker took */
/**
 * @typedef {object} LoadOptions
 * @property {string | URL} [base] the kit's address, if not beside `src/`
 * @property {string | URL} [runtime] the address of onnxruntime-web's files; left out, the installed package
 * @property {"wasm" | "auto" | "webgpu"} [device] "wasm"; "auto": WebGPU where its pictures pass the self-test, else
 *   WebAssembly; "webgpu": as "auto", and a WebGPU that computes on the CPU counts too
 * @property {number} [threads] of WebAssembly; 0: half of the cores, four at most
 * @property {(progress: import("./thread.mjs").Progress) => void} [onProgress] while files are fetched
 * @property {AbortSignal} [signal]
 */
/**
 * @typedef {object} DrawOptions
 * @property {bigint | number} [seed] a whole number from 0 to 2^64 - 1
 * @property {number} [label]
 * @property {number | string} [prompt]
 * @property {number} [guidance]
 * @property {string} [run] which of several, by its name; the first otherwise
 * @property {AbortSignal} [signal] ends the worker if this call is at hand, so that the next one opens the model again
 */
/** @typedef {DrawOptions & { image?: Picture, mask?: Uint8Array | Uint8ClampedArray }} EditOptions */

const LAST_SEED = 2n ** 64n - 1n;

export class Kit {
  /** @type {Thread} */
  #thread;

  /**
   * @param {import("./engine.mjs").Model} model
   * @param {LoadOptions} options
   * @param {string} base where the kit lies
   */
  constructor(model, options, base) {
    const { device = "wasm", threads = 0, runtime } = options;
    this.model = model;
    /** Where pictures are computed. @type {"wasm" | "webgpu"} */
    this.backend = "wasm";
    /** Why it is not faster: what speaks against WebGPU or threads here. @type {string | null} */
    this.remark = null;
    /** Threads of WebAssembly. */
    this.threads = 1;
    this.#thread = new Thread({
      model,
      base: String(new URL(options.base ?? base, base)),
      ...(runtime === undefined ? {} : { runtime: String(new URL(runtime, base)) }),
      device,
      threads,
      tested: false,
    });
  }

  /**
   * Fetches and opens the model, which the first picture would do otherwise.
   *
   * @param {LoadOptions} options
   * @returns {Promise<this>}
   */
  async open({ signal, onProgress }) {
    const { backend, remark, threads } = await this.#thread.call({ what: "open" }, { signal, onProgress });
    Object.assign(this, { backend, remark, threads });
    // A worker that follows an aborted one asks for neither again.
    const { opening } = this.#thread;
    this.#thread.opening = { ...opening, device: backend === "wasm" ? "wasm" : opening.device, tested: true };
    return this;
  }

  /** @param {string | undefined} run @returns {string} the run asked for, or the first that draws from noise alone */
  #drawing(run) {
    return run ?? this.#run((inputs) => !inputs.includes("image"), "this model edits pictures: use edit()").name;
  }

  /**
   * @param {(inputs: string[]) => boolean} fits
   * @param {string} otherwise what is wrong where none does
   */
  #run(fits, otherwise) {
    const run = this.model.runs.find(({ inputs }) => fits(inputs.map(({ name }) => name)));
    if (run === undefined) throw badInput(otherwise);
    return run;
  }

  /** @param {DrawOptions} options @returns {Promise<Drawn>} */
  async generate({ run, seed, signal, ...rest }) {
    return this.#draw({ ...rest, run: this.#drawing(run), seeds: [seedOf(seed)] }, signal);
  }

  /**
   * The picture on the way from one seed's to another's.
   *
   * @param {bigint | number} from
   * @param {bigint | number} to
   * @param {number} t 0 is the first, 1 the second
   * @param {DrawOptions} [options] without `seed`
   * @returns {Promise<Drawn>}
   */
  async interpolate(from, to, t, { run, signal, ...rest } = {}) {
    if (!(t >= 0 && t <= 1)) throw badInput(`t: is ${t}; a number from 0 to 1 is wanted`);
    return this.#draw({ ...rest, run: this.#drawing(run), seeds: [seedOf(from), seedOf(to)], t }, signal);
  }

  /**
   * Draws into a picture of the model's size. Pixels that the mask keeps come out as they went in, to the last byte.
   *
   * @param {EditOptions} options
   * @returns {Promise<Drawn>}
   */
  async edit({ run, seed, signal, mask, image, ...rest }) {
    const name = run ?? this.#run((inputs) => inputs.includes("image"), "this model draws from noise alone").name;
    if (image === undefined) throw badInput("image: a picture to edit is wanted");
    const { data, width, height } = image;
    const copy = mask && Uint8Array.from(mask);
    const request = { ...rest, run: name, seeds: [seedOf(seed ?? 0)], image: { data, width, height } };
    return this.#draw(copy ? { ...request, mask: copy } : request, signal);
  }

  /**
   * Draws the stored pictures again and compares: is what this device draws right?
   *
   * @param {{ signal?: AbortSignal }} [options]
   * @returns {Promise<import("./selftest.mjs").SelfTest>} `worstDb` is infinite where no byte differs
   * @throws {KitError} selfTestFailed
   */
  async selfTest({ signal } = {}) {
    return this.#thread.call({ what: "selfTest" }, { signal });
  }

  /**
   * Paints a picture onto a canvas, which gets its size.
   *
   * @param {HTMLCanvasElement | OffscreenCanvas} canvas
   * @param {Picture} drawn
   */
  draw(canvas, drawn) {
    if (canvas.width !== drawn.width) canvas.width = drawn.width;
    if (canvas.height !== drawn.height) canvas.height = drawn.height;
    const context = /** @type {CanvasRenderingContext2D | null} */ (canvas.getContext("2d"));
    if (context === null) throw new KitError("runtime", "this canvas has no 2d context");
    context.putImageData(new ImageData(drawn.data, drawn.width, drawn.height), 0, 0);
  }

  /** Ends the worker and frees its memory; calls that were not answered are cancelled. */
  close() {
    this.#thread.close();
  }

  /**
   * @param {import("./engine.mjs").Request} request
   * @param {AbortSignal | undefined} signal
   * @returns {Promise<Drawn>}
   */
  async #draw(request, signal) {
    const { data, width, height, ms } = await this.#thread.call({ what: "draw", request }, { signal });
    return Object.assign(picture(data, width, height), { ms });
  }
}

/** @param {bigint | number | undefined} seed @returns {bigint} */
function seedOf(seed) {
  const whole = typeof seed === "bigint" || Number.isSafeInteger(seed) ? BigInt(/** @type {bigint} */ (seed)) : -1n;
  if (whole < 0n || whole > LAST_SEED) {
    throw badInput(`seed: is ${String(seed)}; a whole number from 0 to 2^64 - 1 is wanted (a BigInt above 2^53)`);
  }
  return whole;
}
