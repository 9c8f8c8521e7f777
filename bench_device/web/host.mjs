/** The computer that serves this page. Everything but the page itself needs the key that claiming the link gives. */

export class Refused extends Error {}

export class Host {
  /** @param {string} base address that ends in a slash @param {string} key */
  constructor(base, key) {
    this.base = base;
    this.key = key;
  }

  /** Use up the link. @param {string} base @returns {Promise<{host: Host, jobs: object[]}>} */
  static async claim(base) {
    const answer = await fetch(new URL("claim", base), { method: "POST", body: "" });
    if (!answer.ok) throw new Refused(await reason(answer));
    const { key, jobs } = await answer.json();
    return { host: new Host(base, key), jobs };
  }

  /** @param {string} path @param {RequestInit} [options] @returns {Promise<Response>} */
  async ask(path, options = {}) {
    const headers = { Authorization: `Bearer ${this.key}` };
    const answer = await fetch(new URL(path, this.base), { ...options, headers, cache: "no-store" });
    if (!answer.ok) throw new Refused(await reason(answer));
    return answer;
  }

  /** @param {string} path @param {(bytes: number) => void} tell with the bytes of each piece @returns {Promise<ArrayBuffer>} */
  async file(path, tell) {
    const answer = await this.ask(path);
    const whole = new Uint8Array(Number(answer.headers.get("Content-Length")));
    const reader = answer.body.getReader();
    let at = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      whole.set(value, at);
      at += value.length;
      tell(value.length);
    }
    if (at !== whole.length) throw new Error(`${path}: ${at} of ${whole.length} bytes arrived`);
    return whole.buffer;
  }

  /** @param {number} job @param {object[]} lines of the contract */
  async report(job, lines) {
    await this.ask(`jobs/${job}/lines`, { method: "POST", body: lines.map((l) => JSON.stringify(l) + "\n").join("") });
  }

  /** What the host makes of a finished job; waits for it. @param {number} job */
  async verdict(job) {
    return (await this.ask(`jobs/${job}/verdict`)).json();
  }

  /** The page goes away; the request outlives it. */
  leave() {
    const headers = { Authorization: `Bearer ${this.key}` };
    fetch(new URL("leave", this.base), { method: "POST", body: "", headers, keepalive: true }).catch(() => {});
  }
}

async function reason(answer) {
  const text = (await answer.text()).trim();
  return text && text.length < 400 ? text : `the host answered ${answer.status}`;
}
