/** Percentiles as numpy computes them by default: linear between the two nearest ranks. The record's come from the host. */

/** @param {number[]} values @param {number} q 0 to 100 @returns {number|null} null without values */
export function percentile(values, q) {
  if (values.length === 0) return null;
  const sorted = Float64Array.from(values).sort();
  const at = ((sorted.length - 1) * q) / 100;
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** Three significant digits, no exponent. @param {number|null} ms */
export function figure(ms) {
  if (ms === null || !Number.isFinite(ms)) return "n/a";
  if (ms >= 100) return ms.toFixed(0);
  return ms >= 10 ? ms.toFixed(1) : ms.toFixed(2);
}

/** @param {number} bytes */
export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/**
 * Peak signal-to-noise ratio in dB; NaN where something is not finite, Infinity where nothing differs.
 * @param {ArrayLike<number>} wanted @param {ArrayLike<number>} found of the same length @param {number} peak
 */
export function psnr(wanted, found, peak) {
  let sum = 0;
  for (let i = 0; i < wanted.length; i++) sum += (wanted[i] - found[i]) ** 2;
  return 10 * Math.log10(peak ** 2 / (sum / wanted.length));
}
