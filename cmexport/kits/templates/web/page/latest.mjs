/** One picture at a time, and of the wishes that come meanwhile only the last. */

/** @template T */
export class Latest {
  /** @type {{ wish: T } | null} */
  #next = null;
  #busy = false;

  /**
   * @param {(wish: T) => Promise<void>} work
   * @param {() => void} idle called when nothing is left to do
   */
  constructor(work, idle) {
    this.work = work;
    this.idle = idle;
  }

  /** @param {T} wish */
  wish(wish) {
    this.#next = { wish };
    if (!this.#busy) void this.#run();
  }

  /** Whether a wish waits or is being met. */
  get busy() {
    return this.#busy;
  }

  async #run() {
    this.#busy = true;
    while (this.#next !== null) {
      const { wish } = this.#next;
      this.#next = null;
      await this.work(wish);
    }
    this.#busy = false;
    this.idle();
  }
}
