/** Pictures as the graphs give them, float (N, C, H, W) in [-1, 1] or bytes (N, H, W, C), on canvases. */

import { byteOf } from "./kit/pictures.mjs";

/** @returns {{count: number, width: number, height: number, at: (n: number, y: number, x: number, c: number) => number}} levels 0 to 255 */
function reader({ dtype, shape, data }) {
  if (dtype === "uint8") {
    const [count, height, width, channels] = shape;
    return { count, width, height, at: (n, y, x, c) => data[((n * height + y) * width + x) * channels + (channels === 3 ? c : 0)] };
  }
  const [count, channels, height, width] = shape;
  return {
    count,
    width,
    height,
    at: (n, y, x, c) => byteOf(data[((n * channels + (channels === 3 ? c : 0)) * height + y) * width + x]),
  };
}

function paint(width, height, color) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const pixels = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) pixels.data[(y * width + x) * 4 + c] = color(y, x, c);
      pixels.data[(y * width + x) * 4 + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

/** One canvas per picture, at most four. */
export function canvases(image) {
  const { count, width, height, at } = reader(image);
  return Array.from({ length: Math.min(count, 4) }, (_, n) => paint(width, height, (y, x, c) => at(n, y, x, c)));
}

/** Canvases of ten times the difference in bytes around grey. */
export function differences(reference, image) {
  const a = reader(reference);
  const b = reader(image);
  return Array.from({ length: Math.min(a.count, b.count, 4) }, (_, n) =>
    paint(b.width, b.height, (y, x, c) => 127 + 10 * (b.at(n, y, x, c) - a.at(n, y, x, c))),
  );
}

/** Several outputs with the batch first, as one. @param {{dtype: string, shape: number[], data: ArrayLike<number>}[]} parts */
export function joined(parts) {
  const [{ dtype, shape }] = parts;
  const data = new parts[0].data.constructor(parts.reduce((sum, p) => sum + p.data.length, 0));
  parts.reduce((at, p) => (data.set(p.data, at), at + p.data.length), 0);
  return { dtype, shape: [parts.reduce((sum, p) => sum + p.shape[0], 0), ...shape.slice(1)], data };
}
