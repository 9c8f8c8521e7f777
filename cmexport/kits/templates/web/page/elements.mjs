/** Small helpers around the page's elements. */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @returns {T}
 */
export function element(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/** @param {string} id @returns {HTMLInputElement} */
export const input = (id) => element(id);

/** @param {string} id @param {boolean} shown */
export const show = (id, shown) => (element(id).hidden = !shown);

/** @param {string} id @returns {HTMLElement} where a field has its chips */
export const chipsOf = (id) => /** @type {HTMLElement} */ (element(id).querySelector(".chips"));

/**
 * A choice of one, as radio buttons in the shape of chips: arrow keys move in it without further ado.
 *
 * @param {HTMLElement} parent
 * @param {string} name of the group
 * @param {readonly string[]} names
 * @param {number} chosen
 * @param {(index: number) => void} onChoice
 */
export function chips(parent, name, names, chosen, onChoice) {
  for (const [index, text] of names.entries()) {
    const label = document.createElement("label");
    label.className = "chip";
    const radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name, value: String(index), checked: index === chosen });
    radio.addEventListener("change", () => onChoice(index));
    label.append(radio, text);
    parent.append(label);
  }
}

/**
 * A slider with its value beside it.
 *
 * @param {string} id
 * @param {(value: number) => string} spelled
 * @param {(value: number) => void} onInput
 */
export function slider(id, spelled, onInput) {
  const range = input(id);
  const tell = () => (element(`${id}-value`).textContent = spelled(Number(range.value)));
  range.addEventListener("input", () => {
    tell();
    onInput(Number(range.value));
  });
  tell();
}

/** @param {number} bytes @returns {string} */
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

/** @param {number} ms @returns {string} */
export const duration = (ms) => (ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
