/** The one type of error that the kit throws, of six kinds. */

/** @typedef {"modelMissing" | "modelDamaged" | "runtime" | "badInput" | "cancelled" | "selfTestFailed"} Kind */
/** @typedef {{ path?: string | undefined, db?: number | undefined }} Facts */

export class KitError extends Error {
  /**
   * @param {Kind} kind
   * @param {string} message
   * @param {Facts} [facts] the file, or the decibels of the worst picture
   */
  constructor(kind, message, facts = {}) {
    super(message);
    this.name = "KitError";
    /** @readonly */
    this.kind = kind;
    /** @readonly @type {string | undefined} */
    this.path = facts.path;
    /** @readonly @type {number | undefined} */
    this.db = facts.db;
  }

  /**
   * Whatever was thrown, as a KitError: what onnxruntime-web says is of kind "runtime".
   *
   * @param {unknown} error
   * @returns {KitError}
   */
  static of(error) {
    if (error instanceof KitError) return error;
    return new KitError("runtime", error instanceof Error ? error.message : String(error));
  }

  /** @returns {Facts & { kind: Kind, message: string }} what `postMessage` can carry */
  toMessage() {
    return { kind: this.kind, message: this.message, path: this.path, db: this.db };
  }

  /** @param {Facts & { kind: Kind, message: string }} message @returns {KitError} */
  static fromMessage({ kind, message, path, db }) {
    return new KitError(kind, message, { path, db });
  }
}

/** @param {string} message @returns {KitError} */
export const badInput = (message) => new KitError("badInput", message);
