/**
 * A fixed piece of arithmetic that knows nothing of the model: a float32 matrix product in plain JavaScript.
 * When it slows down between the first and the last round, the clock did, not the model.
 */

const SIDE = 160; // 4.1 M multiplications: 3 to 30 ms from a desktop to an old phone, far above any timer's step.

export class Canary {
  constructor() {
    this.a = Float32Array.from({ length: SIDE * SIDE }, (_, i) => Math.sin(i));
    this.b = Float32Array.from({ length: SIDE * SIDE }, (_, i) => Math.cos(i));
    this.out = new Float32Array(SIDE * SIDE);
    // The first calls run before the optimizing compiler has taken over.
    for (let i = 0; i < 5; i++) this.once();
  }

  /** @returns {number} milliseconds */
  once() {
    const { a, b, out } = this;
    const start = performance.now();
    for (let i = 0; i < SIDE; i++) {
      for (let j = 0; j < SIDE; j++) {
        let sum = 0;
        for (let k = 0; k < SIDE; k++) sum += a[i * SIDE + k] * b[k * SIDE + j];
        out[i * SIDE + j] = sum;
      }
    }
    return performance.now() - start;
  }

  /** @param {number} times @returns {number[]} milliseconds */
  sing(times) {
    return Array.from({ length: times }, () => this.once());
  }
}
