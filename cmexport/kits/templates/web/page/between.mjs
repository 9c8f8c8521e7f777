/** The way from one seed to another: a strip of pictures, and their animation. */

import { element, input } from "./elements.mjs";

/** @typedef {{ data: Uint8ClampedArray<ArrayBuffer>, width: number, height: number }} Picture */

const STRIP = 7;
const FRAME_MS = 80;

export class Between {
  /**
   * @param {(t: number) => void} onWay somebody chose a place on the way
   */
  constructor(onWay) {
    this.details = /** @type {HTMLDetailsElement} */ (element("between"));
    this.range = input("way");
    this.last = Number(this.range.max);
    /** @type {Map<number, Picture>} what was drawn, by its place on the way */
    this.frames = new Map();
    this.playing = false;
    this.direction = 1;
    this.onWay = onWay;
    this.places = Array.from({ length: STRIP }, (_, i) => Math.round((i * this.last) / (STRIP - 1)));
    this.canvases = new Map(this.places.map((place) => [place, this.#button(place)]));
    element("play").addEventListener("click", () => this.play(!this.playing));
  }

  /** @returns {boolean} whether pictures on the way are wanted */
  get open() {
    return this.details.open;
  }

  /** @returns {number} 0 to `last` */
  get place() {
    return Number(this.range.value);
  }

  /** Forgets all pictures: what they were drawn from has changed. */
  reset() {
    this.frames.clear();
  }

  /** @returns {number | undefined} the next place to draw: of the strip, and while playing of all the way */
  get missing() {
    if (!this.open) return undefined;
    const all = this.playing ? Array.from({ length: this.last + 1 }, (_, place) => place) : this.places;
    return all.find((place) => !this.frames.has(place));
  }

  /** @param {number} place @param {Picture} picture */
  keep(place, picture) {
    this.frames.set(place, picture);
    const canvas = this.canvases.get(place);
    if (canvas === undefined) return;
    Object.assign(canvas, { width: picture.width, height: picture.height });
    canvas.classList.toggle("few", picture.width < 100);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.putImageData(new ImageData(picture.data, picture.width, picture.height), 0, 0);
  }

  /** @param {boolean} playing */
  play(playing) {
    this.playing = playing;
    const button = element("play");
    button.textContent = playing ? "Stop" : "Play";
    button.setAttribute("aria-pressed", String(playing));
    if (playing) this.#tick();
  }

  #tick() {
    if (!this.playing) return;
    let next = this.place + this.direction;
    if (next < 0 || next > this.last) {
      this.direction = -this.direction;
      next = this.place + this.direction;
    }
    // Until all are drawn once it goes as fast as the model does.
    const ready = this.frames.has(next);
    if (ready) this.go(next);
    else this.onWay(this.place);
    setTimeout(() => this.#tick(), ready ? FRAME_MS : 2 * FRAME_MS);
  }

  /** @param {number} place */
  go(place) {
    this.range.value = String(place);
    element("way-value").textContent = this.spelled(place);
    this.onWay(place);
  }

  /** @param {number} place @returns {string} */
  spelled(place) {
    return `${Math.round((100 * place) / this.last)} %`;
  }

  /** @param {number} place @returns {HTMLCanvasElement} */
  #button(place) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `${this.spelled(place)} of the way`);
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: 1, height: 1 });
    button.append(canvas);
    button.addEventListener("click", () => this.go(place));
    element("strip").append(button);
    return canvas;
  }
}
