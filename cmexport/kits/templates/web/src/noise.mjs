/**
 * Noise "cmx1": the same float32 bits for a seed in every language cmexport writes kits for.
 *
 * Philox4x32-10 (Salmon et al. 2011) makes 32-bit words, the inverse normal distribution (Wichura's AS 241, 1988) a
 * number of each, in float64 with + - * / and a square root only, and rounds once. JavaScript's numbers are float64 and
 * no engine fuses a multiplication with an addition, so nothing has to be switched off here.
 */

const WORD = 2 ** 32;
const [M0, M1, W0, W1] = [0xd2511f53, 0xcd9e8d57, 0x9e3779b9, 0xbb67ae85];

// PPND16's coefficients, the highest power first. Its third region begins at r = 5; the smallest word has r = 4.78.
const A = [
  2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
  1971.5909503065514427, 133.14166789178437745, 3.387132872796366608,
];
const B = [
  5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
  687.1870074920579083, 42.313330701600911252, 1,
];
const C = [
  7.7454501427834140764e-4, 2.27238449892691845833e-2, 2.4178072517745061177e-1, 1.27045825245236838258,
  3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734,
];
const D = [
  1.05075007164441684324e-9, 5.475938084995344946e-4, 1.51986665636164571966e-2, 1.4810397642748007459e-1,
  6.8976733498510000455e-1, 1.6763848301838038494, 2.05319162663775882187, 1,
];
// Of ln((1 + s) / (1 - s)): 2/23, 2/21, ..., 2/1.
const LOG = Array.from({ length: 12 }, (_, i) => 2 / (23 - 2 * i));

/** @param {readonly number[]} coefficients @param {number} x @returns {number} by Horner's rule, in the written order */
function polynomial(coefficients, x) {
  let sum = coefficients[0] ?? 0;
  for (let i = 1; i < coefficients.length; i++) sum = sum * x + (coefficients[i] ?? 0);
  return sum;
}

/** @param {number} a @param {number} b @returns {number} the upper 32 bits of the product of two 32-bit words */
function upper(a, b) {
  const [al, ah, bl, bh] = [a & 0xffff, a >>> 16, b & 0xffff, b >>> 16];
  // Each product has 32 bits and is exact as a float64; `Math.imul` would keep only the lower ones of a sum.
  const middle = ah * bl + Math.floor((al * bl) / 65536);
  const rest = (middle % 65536) + al * bh;
  return ah * bh + Math.floor(middle / 65536) + Math.floor(rest / 65536);
}

/**
 * Philox4x32-10 of a counter and a key.
 *
 * @param {readonly [number, number, number, number]} counter 32-bit words
 * @param {readonly [number, number]} key
 * @returns {[number, number, number, number]} unsigned 32-bit words
 */
export function philox(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const [h0, l0, h1, l1] = [upper(M0, c0), Math.imul(M0, c0), upper(M1, c2), Math.imul(M1, c2)];
    c0 = (h1 ^ c1 ^ k0) >>> 0;
    c1 = l1 >>> 0;
    c2 = (h0 ^ c3 ^ k1) >>> 0;
    c3 = l0 >>> 0;
    k0 = (k0 + W0) >>> 0;
    k1 = (k1 + W1) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/**
 * The standard normal number that a 32-bit word stands for; a larger word gives no smaller number.
 *
 * @param {number} word 0 to 2^32 - 1
 * @returns {number} in float64, to be rounded to float32 once
 */
export function normal(word) {
  const n = 2 * word + 1; // the probability times 2^33, never 0 or 1
  const q = n * 2 ** -33 - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * polynomial(A, r)) / polynomial(B, r);
  }
  let m = q < 0 ? n : 2 ** 33 - n;
  let exponent = -33;
  while (m >= 1) {
    m *= 0.5;
    exponent++;
  }
  if (m < 0.70710678118654752) {
    m *= 2;
    exponent--;
  }
  const s = (m - 1) / (m + 1);
  const minusLog = -(exponent * 0.6931471805599453 + s * polynomial(LOG, s * s));
  const r = Math.sqrt(minusLog) - 1.6;
  const tail = polynomial(C, r) / polynomial(D, r);
  return q < 0 ? -tail : tail;
}

/**
 * One picture's noise.
 *
 * @param {bigint} seed unsigned, 64 bits; one seed a picture
 * @param {number} count how many numbers
 * @param {number} [stream] 0 is what a picture begins with, k what is added before evaluation k + 1
 * @returns {Float32Array<ArrayBuffer>} in the C order of (channels, height, width)
 */
export function noise(seed, count, stream = 0) {
  /** @type {[number, number]} */
  const key = [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  const drawn = new Float32Array(count);
  for (let at = 0; at < count; at += 4) {
    const block = at / 4;
    const words = philox([block % WORD, Math.floor(block / WORD), stream, 0], key);
    for (let i = 0; i < 4 && at + i < count; i++) drawn[at + i] = normal(words[i] ?? 0);
  }
  return drawn;
}

/**
 * Between two noises, on the sphere (Song et al. 2023, appendix D): unlike on a straight line the length stays what
 * a drawn noise has.
 *
 * @param {Float32Array<ArrayBuffer>} from
 * @param {Float32Array<ArrayBuffer>} to of the same length
 * @param {number} t 0 is `from`, 1 is `to`
 * @returns {Float32Array<ArrayBuffer>}
 */
export function between(from, to, t) {
  let [product, a, b] = [0, 0, 0];
  for (const [i, x] of from.entries()) {
    const y = to[i] ?? 0;
    product += x * y;
    a += x * x;
    b += y * y;
  }
  const angle = Math.acos(Math.min(1, Math.max(-1, product / Math.sqrt(a * b))));
  const sine = Math.sin(angle);
  if (!(sine >= 1e-9)) return t < 0.5 ? from : to;
  const [first, second] = [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
  return from.map((x, i) => first * x + second * (to[i] ?? 0));
}
