/** The photo to edit and the hole that is painted on it, in the model's own pixels. */

import { element, input } from "./elements.mjs";

/** @typedef {{ data: Uint8ClampedArray<ArrayBuffer>, width: number, height: number }} Picture */

const STEP = 2;

/**
 * The centre square of a photo at the model's size, upright.
 *
 * @param {Blob} file
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Picture>}
 * @throws {Error} it is no picture that this browser knows
 */
export async function photoOf(file, width, height) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error("that file is no picture this browser can read");
  });
  const scale = Math.min(bitmap.width / width, bitmap.height / height);
  const [w, h] = [width * scale, height * scale];
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, (bitmap.width - w) / 2, (bitmap.height - h) / 2, w, h, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

export class Hole {
  /**
   * @param {number} width
   * @param {number} height
   * @param {() => void} onChange
   */
  constructor(width, height, onChange) {
    this.width = width;
    this.height = height;
    this.onChange = onChange;
    /** 255 keeps a pixel, 0 is painted. */
    this.mask = new Uint8Array(width * height).fill(255);
    this.at = { x: Math.floor(width / 2), y: Math.floor(height / 2) };
    this.canvas = /** @type {HTMLCanvasElement} */ (element("hole"));
    Object.assign(this.canvas, { width, height });
    this.canvas.classList.toggle("few", width < 100);
    this.canvas.setAttribute("aria-label", "the hole to paint; arrows move the brush, space paints");
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-describedby", "hole-hint");
    this.#listen();
    this.show();
  }

  /** The brush's radius in the model's pixels. */
  get radius() {
    return (Number(input("brush").value) * this.width) / 64;
  }

  clear() {
    this.mask.fill(255);
    this.show();
    this.onChange();
  }

  /** @param {Uint8Array} mask */
  set(mask) {
    this.mask.set(mask);
    this.show();
  }

  show() {
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const pixels = context.createImageData(this.width, this.height);
    for (const [i, byte] of this.mask.entries()) {
      if (byte === 0) pixels.data.set([31, 95, 191, 90], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
    context.strokeStyle = "rgb(31 95 191 / 90%)";
    context.lineWidth = this.width / 128;
    context.beginPath();
    context.arc(this.at.x + 0.5, this.at.y + 0.5, this.radius, 0, 7);
    context.stroke();
  }

  paint() {
    const { x, y } = this.at;
    const r = this.radius;
    for (let j = Math.max(0, Math.ceil(y - r)); j <= Math.min(this.height - 1, y + r); j++) {
      for (let i = Math.max(0, Math.ceil(x - r)); i <= Math.min(this.width - 1, x + r); i++) {
        if ((i - x) ** 2 + (j - y) ** 2 <= r * r) this.mask[j * this.width + i] = 0;
      }
    }
    this.show();
    this.onChange();
  }

  #listen() {
    const { canvas } = this;
    /** @param {PointerEvent} event */
    const move = (event) => {
      const box = canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * this.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * this.height);
      this.at = { x, y };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      canvas.classList.add("painting");
      move(event);
      this.paint();
    });
    canvas.addEventListener("pointermove", (event) => {
      move(event);
      if (event.buttons & 1) this.paint();
      else this.show();
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => canvas.classList.remove("painting"));
    }
    canvas.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (way !== undefined) {
        const [dx = 0, dy = 0] = way;
        const step = Math.max(1, (STEP * this.width) / 64);
        this.at.x = Math.min(this.width - 1, Math.max(0, this.at.x + dx * step));
        this.at.y = Math.min(this.height - 1, Math.max(0, this.at.y + dy * step));
        this.show();
      } else if (event.key === " ") {
        this.paint();
      } else if (event.key === "Delete") {
        this.clear();
      } else {
        return;
      }
      event.preventDefault();
    });
  }
}
