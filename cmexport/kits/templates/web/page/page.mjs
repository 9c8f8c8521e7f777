/** The live page: every change draws at once, in the kit's worker. */

import { Between } from "./between.mjs";
import { chips, chipsOf, duration, element, input, megabytes, show, slider } from "./elements.mjs";
import { Hole, photoOf } from "./hole.mjs";
import { Latest } from "./latest.mjs";

/** @typedef {{ data: Uint8ClampedArray<ArrayBuffer>, width: number, height: number }} Picture */
/** @typedef {Picture & { ms: number }} Drawn */
/** @typedef {{ place: number | null, name: string, draw: () => Promise<Drawn> }} Wish */

const TYPING_MS = 120; // between the keys of somebody who types 100 words a minute
const MOST_CHIPS = 24;
const FEW_PIXELS = 100; // below, a picture this large looks better in squares than blurred

class Page {
  /** @param {string} root the page's address @param {any[]} kits their modules, one for each number of steps */
  constructor(root, kits) {
    this.root = root;
    this.kits = kits;
    this.kit = kits[0];
    this.model = this.kit.MODEL;
    /** @type {any} */
    this.generator = null;
    const { runs } = this.model;
    /** @param {any} run @param {string} name */
    const takes = (run, name) => run?.inputs.some((/** @type {any} */ port) => port.name === name);
    this.drawing = runs.find((/** @type {any} */ run) => !takes(run, "image"));
    this.editing = runs.find((/** @type {any} */ run) => takes(run, "image"));
    this.mode = this.drawing ? "draw" : "edit";
    this.masked = takes(this.editing, "mask");
    /** What pictures are drawn from. @type {any} */
    this.asked = { seed: 0, other: 1 };
    /** @type {Picture | null} */
    this.photo = null;
    /** @type {Drawn | null} */
    this.shown = null;
    /** @type {Latest<Wish>} */
    this.latest = new Latest((wish) => this.#meet(wish), () => this.#fill());
    this.between = new Between((place) => this.#onWay(place));
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.typing = undefined;
    const search = new URLSearchParams(location.search);
    // For measurements: ?threads=2&device=webgpu
    this.threads = Number(search.get("threads") ?? 0);
    this.device = search.get("device") ?? "wasm";
  }

  get run() {
    return this.mode === "draw" ? this.drawing : this.editing;
  }

  /** @returns {[number, number]} */
  get size() {
    const { layout, shape } = this.run.output;
    return layout === "NHWC" ? [shape[2], shape[1]] : [shape[3], shape[2]];
  }

  async start() {
    document.title = `${this.model.name}, live`;
    element("name").textContent = this.model.name;
    element("size").textContent = megabytes(
      this.model.files.reduce((/** @type {number} */ sum, /** @type {any} */ file) => sum + file.bytes, 0),
    );
    this.#words();
    this.#choices();
    this.#sliders();
    this.#steps();
    this.#devices();
    this.#buttons();
    if (this.editing) await this.#edits();
    show("between", Boolean(this.drawing) && this.mode === "draw");
    await this.#open();
  }

  async #open() {
    document.body.dataset.state = "loading";
    this.generator?.close();
    const bar = /** @type {HTMLProgressElement} */ (element("progress"));
    try {
      this.generator = await this.kit.Generator.load({
        device: this.device,
        threads: this.threads,
        runtime: new URL("node_modules/onnxruntime-web/dist/", this.root),
        onProgress: (/** @type {{ loaded: number, total: number }} */ { loaded, total }) => {
          bar.value = loaded / total;
          this.#tell(`Fetching ${megabytes(loaded)} of ${megabytes(total)}`);
        },
      });
    } catch (error) {
      this.#fail(error);
      return;
    }
    const { backend, threads, remark } = this.generator;
    const many = threads > 1 ? `${threads} threads` : "1 thread";
    element("backend").textContent = backend === "webgpu" ? "WebGPU" : `WebAssembly, ${many}`;
    element("remark").textContent = remark ? `${remark.charAt(0).toUpperCase()}${remark.slice(1)}.` : "";
    this.#tell("Drawing the first picture…");
    this.draw();
  }

  /** @param {string} text */
  #tell(text) {
    const state = element("state");
    if (state.textContent !== text) state.textContent = text;
  }

  /** @param {any} error */
  #fail(error) {
    document.body.dataset.state = "failed";
    this.#tell(`This did not work: ${error.message ?? error}`);
  }

  /** Draws what the controls say now. */
  draw() {
    clearTimeout(this.typing);
    this.between.reset();
    if (this.mode === "edit" && this.photo === null) return;
    if (this.generator) this.latest.wish(this.#wish(this.mode === "draw" && this.between.open ? this.between.place : null));
  }

  /** @param {number | null} place on the way between the seeds @returns {Wish} */
  #wish(place) {
    const { asked, generator, between, photo, mode } = this;
    const { seed, other, text, choice, guidance } = asked;
    const labels = this.model.labels ?? this.model.prompts;
    const said = text ?? (labels ? labels[choice] : "");
    const rest = { label: choice, prompt: text ?? choice, guidance, run: this.run.name };
    const name = `${said}${said ? ", " : ""}seed ${seed}`;
    if (mode === "edit") {
      const mask = this.hole && this.masked ? { mask: this.hole.mask } : {};
      return { place: null, name: `${name}, edited`, draw: () => generator.edit({ ...rest, ...mask, image: photo, seed }) };
    }
    if (place === null) return { place, name, draw: () => generator.generate({ ...rest, seed }) };
    const t = place / between.last;
    return { place, name: `${name}, ${between.spelled(place)} to seed ${other}`, draw: () => generator.interpolate(seed, other, t, rest) };
  }

  /** @param {Wish} wish */
  async #meet({ place, name, draw }) {
    const start = performance.now();
    try {
      const drawn = (place === null ? undefined : this.between.frames.get(place)) ?? (await draw());
      if (place !== null) this.between.keep(place, drawn);
      if (place === null || place === this.between.place) this.#show(drawn, name, performance.now() - start);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** @param {any} drawn @param {string} name @param {number} ms */
  #show(drawn, name, ms) {
    const canvas = /** @type {HTMLCanvasElement} */ (element("picture"));
    this.generator.draw(canvas, drawn);
    canvas.classList.toggle("few", drawn.width < FEW_PIXELS);
    canvas.setAttribute("aria-label", name);
    if (!this.between.playing) element("time").textContent = duration(ms);
    this.shown = drawn;
    document.body.dataset.state = "ready";
    canvas.dataset["shown"] = name;
    this.#tell("Ready");
  }

  /** While nothing else is asked for, the strip fills. */
  #fill() {
    const place = this.mode === "draw" && this.generator ? this.between.missing : undefined;
    if (place !== undefined) this.latest.wish(this.#wish(place));
  }

  /** @param {number} place */
  #onWay(place) {
    if (!this.generator) return;
    const kept = this.between.frames.get(place);
    if (kept) this.#show(kept, this.#wish(place).name, /** @type {Drawn} */ (kept).ms);
    else if (!this.between.playing || !this.latest.busy) this.latest.wish(this.#wish(place));
    if (kept && !this.latest.busy) this.#fill();
  }

  #words() {
    if (!this.model.tokenizer) return;
    show("words", true);
    const field = input("text");
    const [first = ""] = this.kit.SUGGESTIONS;
    field.value = this.asked.text = first;
    field.addEventListener("input", () => {
      this.asked.text = field.value;
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.draw(), TYPING_MS);
    });
    for (const text of this.kit.SUGGESTIONS) {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: text });
      button.addEventListener("click", () => {
        field.value = this.asked.text = text;
        this.draw();
      });
      element("suggestions").append(button);
    }
    element("controls").addEventListener("submit", (event) => event.preventDefault());
  }

  /** Classes, or a closed list of prompts. */
  #choices() {
    const names = this.model.labels ?? this.model.prompts;
    if (!names) return;
    const title = this.model.labels ? "What" : "Words";
    this.asked.choice = 0;
    /** @param {number} index */
    const choose = (index) => {
      this.asked.choice = index;
      this.draw();
    };
    if (names.length <= MOST_CHIPS) {
      show("choices", true);
      element("choices-title").textContent = title;
      chips(chipsOf("choices"), "choice", names, 0, choose);
      return;
    }
    show("many", true);
    element("many-title").textContent = title;
    const select = /** @type {HTMLSelectElement} */ (element("select"));
    select.append(...names.map((/** @type {string} */ name, /** @type {number} */ i) => new Option(name, String(i))));
    select.addEventListener("change", () => choose(select.selectedIndex));
  }

  #sliders() {
    const whole = String;
    slider("seed", whole, (seed) => {
      this.asked.seed = seed;
      this.draw();
    });
    slider("other", whole, (other) => {
      this.asked.other = other;
      this.draw();
    });
    slider("way", (place) => this.between.spelled(place), (place) => this.#onWay(place));
    this.between.details.addEventListener("toggle", () => {
      if (!this.between.open) this.between.play(false);
      this.draw();
    });
    const port = this.run.inputs.find((/** @type {any} */ { name }) => name === "guidance");
    if (!port) return;
    show("scale", true);
    const [low, high] = port.limits ?? [1, 10];
    Object.assign(input("guidance"), { min: String(low), max: String(high), value: String(this.model.guidance) });
    this.asked.guidance = this.model.guidance;
    slider("guidance", (value) => value.toFixed(1), (value) => {
      this.asked.guidance = value;
      this.draw();
    });
  }

  /** Offered where the model has several runs of other steps, or lies here in several kits. */
  #steps() {
    /** @param {any} kit */
    const drawings = (kit) => kit.MODEL.runs.filter((/** @type {any} */ { task }) => task === this.run.task);
    const offered = this.kits.flatMap((kit) => drawings(kit).map((/** @type {any} */ run) => ({ kit, run })));
    if (offered.length < 2) return;
    show("steps", true);
    chips(chipsOf("steps"), "steps", offered.map(({ run }) => String(run.steps)), 0, (index) => {
      const { kit, run } = offered[index] ?? { kit: this.kit, run: this.run };
      if (run.task === this.editing?.task) this.editing = run;
      else this.drawing = run;
      if (kit === this.kit) {
        this.draw();
      } else {
        this.kit = kit;
        void this.#open();
      }
    });
  }

  /** WebAssembly at first: WebGPU costs another download, and the self-test before the first picture. */
  #devices() {
    if (!("gpu" in navigator)) return;
    show("devices", true);
    const devices = ["wasm", "auto"];
    chips(chipsOf("devices"), "device", ["WebAssembly", "WebGPU"], this.device === "wasm" ? 0 : 1, (index) => {
      this.device = devices[index] ?? "wasm";
      void this.#open();
    });
  }

  #buttons() {
    element("random").addEventListener("click", () => {
      const seed = input("seed");
      seed.value = String(Math.floor(Math.random() * (Number(seed.max) + 1)));
      seed.dispatchEvent(new Event("input"));
    });
    element("save").addEventListener("click", () => {
      const canvas = /** @type {HTMLCanvasElement} */ (element("picture"));
      canvas.toBlob((blob) => {
        if (!blob) return;
        const link = document.createElement("a");
        link.href = URL.createObjectURL(blob);
        link.download = `${canvas.getAttribute("aria-label") ?? "picture"}.png`;
        link.click();
        URL.revokeObjectURL(link.href);
      });
    });
  }

  async #edits() {
    const [width, height] = this.size;
    this.hole = new Hole(width, height, () => this.draw());
    if (this.drawing) {
      show("modes", true);
      const modes = ["draw", "edit"];
      chips(chipsOf("modes"), "mode", ["Draw", "Edit"], 0, (index) => this.#switch(modes[index] ?? "draw"));
    } else {
      const golden = await (await fetch(new URL("golden/golden.json", this.root))).json();
      await this.#example(golden.pictures.find((/** @type {any} */ { image }) => image));
      this.#switch("edit");
    }
    input("photo").addEventListener("change", () => this.#drop(input("photo").files?.[0]));
    element("take").addEventListener("click", () => this.#take());
    element("clear").addEventListener("click", () => this.hole?.clear());
    const frame = element("frame");
    frame.addEventListener("dragover", (event) => {
      event.preventDefault();
      frame.classList.add("over");
    });
    frame.addEventListener("dragleave", () => frame.classList.remove("over"));
    frame.addEventListener("drop", (event) => {
      event.preventDefault();
      frame.classList.remove("over");
      this.#drop(event.dataTransfer?.files[0]);
    });
  }

  /** A model that only edits begins with the picture it was tested with. @param {any} golden */
  async #example({ image, mask, width, height, channels }) {
    /** @param {string} name */
    const bytes = async (name) =>
      new Uint8Array(await (await fetch(new URL(`golden/${name}`, this.root))).arrayBuffer());
    const raw = await bytes(image);
    const data = new Uint8ClampedArray(4 * width * height).fill(255);
    for (let i = 0; i < data.length; i++) {
      if (i % 4 !== 3) data[i] = raw[Math.floor(i / 4) * channels + (channels === 3 ? i % 4 : 0)] ?? 0;
    }
    this.photo = { data, width, height };
    if (mask) this.hole?.set(await bytes(mask));
  }

  /** @param {string} mode */
  #switch(mode) {
    this.mode = mode;
    if (mode === "edit") this.photo ??= this.shown;
    show("editing", mode === "edit");
    show("hole", mode === "edit" && this.masked);
    show("hole-hint", this.masked);
    show("brush-line", this.masked);
    show("clear", this.masked);
    show("between", mode === "draw");
    this.draw();
  }

  /** What is shown becomes the photo. */
  #take() {
    this.photo = this.shown;
    this.hole?.clear();
  }

  /** @param {File | undefined} file */
  async #drop(file) {
    if (!file) return;
    try {
      this.photo = await photoOf(file, ...this.size);
      if (this.mode === "draw") chipsOf("modes").querySelectorAll("input")[1]?.click();
      this.hole?.clear();
    } catch (error) {
      this.#tell(String(/** @type {Error} */ (error).message));
    }
  }
}

/** Opens the kits that `models.json` lists. */
export async function start() {
  const list = new URL("../models.json", import.meta.url);
  const bases = /** @type {string[]} */ (await (await fetch(list)).json());
  const kits = await Promise.all(bases.map((base) => import(new URL(`${base}src/index.mjs`, list).href)));
  await new Page(new URL("./", list).href, kits).start();
}
