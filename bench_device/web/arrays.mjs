/** Raw little-endian arrays, as the contract has them, and what onnxruntime-web wants for each dtype. */

// float16 goes in and out as its bits: only the newest browsers have Float16Array.
const TYPES = {
  float32: Float32Array,
  float16: Uint16Array,
  uint8: Uint8Array,
  int32: Int32Array,
  int64: BigInt64Array,
};

/** @param {string} dtype numpy's name @param {ArrayBuffer} buffer */
export function typedArray(dtype, buffer) {
  const type = TYPES[dtype];
  if (!type) throw new Error(`this page has no arrays of ${dtype}`);
  return new type(buffer);
}

/** @param {ArrayBufferView} view @returns {string} base64 of its bytes */
export function base64(view) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const parts = [];
  // A call takes some 100 000 arguments at most, so the text is made in pieces; each a multiple of 3 bytes.
  for (let i = 0; i < bytes.length; i += 0x6000) parts.push(btoa(String.fromCharCode(...bytes.subarray(i, i + 0x6000))));
  return parts.join("");
}

/** @param {string} text base64 @returns {ArrayBuffer} */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
}
