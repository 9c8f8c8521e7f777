/** Pictures as graphs take and give them, and as bytes. The rules are cmexport's, to the last bit. */

import { badInput, KitError } from "./errors.mjs";

/**
 * A picture of RGBA bytes, row by row from the top left; an `ImageData` where the platform has one.
 *
 * @typedef {{ readonly data: Uint8ClampedArray<ArrayBuffer>, readonly width: number, readonly height: number }} Picture
 */

/**
 * The byte of a value in [-1, 1]: rint((x + 1) * 127.5) in float32, half to even, NaN to 0.
 *
 * In float64 32 of 4,194,304 values got another byte.
 *
 * @param {number} value a float32
 * @returns {number} 0 to 255
 */
export function byteOf(value) {
  const level = Math.fround(Math.fround(value + 1) * 127.5);
  if (!(level > 0)) return 0;
  if (level >= 255) return 255;
  const below = Math.floor(level);
  const part = level - below;
  return part > 0.5 || (part === 0.5 && below % 2 === 1) ? below + 1 : below;
}

/** @param {number} byte 0 to 255 @returns {number} in [-1, 1]: byte / 127.5 - 1 in float32 */
export const valueOf = (byte) => Math.fround(Math.fround(byte / 127.5) - 1);

/**
 * @param {Uint8ClampedArray<ArrayBuffer>} data RGBA
 * @param {number} width
 * @param {number} height
 * @returns {Picture}
 */
export function picture(data, width, height) {
  return typeof ImageData === "undefined" ? { data, width, height } : new ImageData(data, width, height);
}

/**
 * What a graph gave, as a picture; of grey ones all three colours are the same.
 *
 * @param {string} layout "NCHW" or "NHWC"
 * @param {readonly number[]} shape with the batch, which is 1
 * @param {ArrayLike<number>} values float32 in [-1, 1] (NCHW) or bytes (NHWC)
 * @returns {{ data: Uint8ClampedArray<ArrayBuffer>, width: number, height: number }}
 */
export function fromOutput(layout, shape, values) {
  const [, a, b, c] = shape;
  const [channels, height, width] = /** @type {number[]} */ (layout === "NCHW" ? [a, b, c] : [c, a, b]);
  if (!channels || !height || !width || channels * height * width !== values.length) {
    throw new KitError("runtime", `the model gave ${values.length} values, not a picture of (${shape.join(", ")})`);
  }
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  const area = width * height;
  for (let pixel = 0; pixel < area; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      const channel = channels === 3 ? colour : 0;
      const at = layout === "NCHW" ? channel * area + pixel : pixel * channels + channel;
      const value = /** @type {number} */ (values[at]);
      data[4 * pixel + colour] = layout === "NCHW" ? byteOf(value) : value;
    }
  }
  return { data, width, height };
}

/**
 * A picture as the input `image` of a graph.
 *
 * @param {Picture} source of the graph's size
 * @param {readonly number[]} shape (1, channels, height, width)
 * @returns {Float32Array<ArrayBuffer>} in [-1, 1]; where the graph takes grey pictures, their luminance (ITU-R 601, as Pillow has it)
 */
export function toInput(source, shape) {
  const [, channels = 3, height = 0, width = 0] = shape;
  mustFit("image", source, width, height);
  const area = width * height;
  const values = new Float32Array(channels * area);
  for (let pixel = 0; pixel < area; pixel++) {
    const [r = 0, g = 0, b = 0] = source.data.subarray(4 * pixel, 4 * pixel + 3);
    if (channels === 3) {
      values[pixel] = valueOf(r);
      values[area + pixel] = valueOf(g);
      values[2 * area + pixel] = valueOf(b);
    } else {
      values[pixel] = valueOf((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16);
    }
  }
  return values;
}

/**
 * A mask as the input `mask` of a graph, where 1 keeps a pixel.
 *
 * @param {Uint8Array | Uint8ClampedArray} mask one byte a pixel; 255 keeps it, 0 is painted
 * @param {readonly number[]} shape (1, 1, height, width)
 * @returns {Float32Array<ArrayBuffer>}
 */
export function toMask(mask, shape) {
  const [, , height = 0, width = 0] = shape;
  if (mask.length !== width * height) {
    throw badInput(`mask: has ${mask.length} bytes; one for each of ${width} x ${height} pixels is wanted`);
  }
  return Float32Array.from(mask, (byte) => byte / 255);
}

/** @param {string} what @param {Picture} source @param {number} width @param {number} height */
function mustFit(what, source, width, height) {
  if (source.width !== width || source.height !== height || source.data.length !== 4 * width * height) {
    throw badInput(`${what}: is ${source.width} x ${source.height}; this model takes ${width} x ${height}`);
  }
}

/**
 * How near a picture is to one of `channels` bytes a pixel.
 *
 * @param {Picture} drawn
 * @param {Uint8Array} expected RGB or grey, row by row
 * @param {number} channels 3 or 1
 * @returns {number} PSNR in dB with peak 255; infinite where no byte differs
 */
export function decibels(drawn, expected, channels) {
  const pixels = drawn.width * drawn.height;
  if (expected.length !== pixels * channels) return -Infinity;
  let sum = 0;
  for (let pixel = 0; pixel < pixels; pixel++) {
    for (let channel = 0; channel < channels; channel++) {
      const off = (drawn.data[4 * pixel + channel] ?? 0) - (expected[pixel * channels + channel] ?? 0);
      sum += off * off;
    }
  }
  return sum === 0 ? Infinity : 10 * Math.log10((255 * 255 * pixels * channels) / sum);
}
