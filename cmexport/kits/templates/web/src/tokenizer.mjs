/**
 * CLIP's byte-level BPE tokenizer, with the ids of transformers' `CLIPTokenizer`: NFC, white space folded, lower case,
 * words split, then byte pairs merged (Radford et al. 2021).
 *
 * Which characters are letters is what the browser's Unicode version says: those that are newer than the one the
 * vocabulary was made with may be split otherwise than in Python.
 */

import { KitError } from "./errors.mjs";

const END_OF_WORD = "</w>";
// Python's white space without 1C to 1F, as the `tokenizers` library has it. JavaScript's \s lacks 85 and has FEFF.
const SPACES = /[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;
const PIECES = /<\|((?:start|end)oftext)\|>|'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^ \p{L}\p{N}]+/gu;
const ENCODER = new TextEncoder();
const BYTES = byteAlphabet();

/** @returns {readonly string[]} a printable character for each byte, as GPT-2's `bytes_to_unicode` */
function byteAlphabet() {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCharCode(printable ? byte : next++);
  });
}

/** Letter by letter: a whole word's `toLowerCase` ends Greek ones with another sigma. @param {string} text */
const normalized = (text) => Array.from(text.normalize("NFC").replace(SPACES, " "), (c) => c.toLowerCase()).join("");

export class Tokenizer {
  /**
   * @param {{ begin: number, end: number, pad: number, unknown: number, length: number }} facts ids, and how many
   *   tokens an encoded prompt has
   * @param {Record<string, number>} vocabulary ids of pieces
   * @param {string} merges merges.txt: pairs of pieces, the first to be joined first
   * @param {Record<string, { content: string, normalized?: boolean }>} added special tokens by id
   */
  constructor(facts, vocabulary, merges, added) {
    this.facts = facts;
    this.vocabulary = new Map(Object.entries(vocabulary));
    const pairs = merges.split("\n").filter((line) => line !== "" && !line.startsWith("#version"));
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    const specials = Object.entries(added).map(([id, token]) => ({ ...token, id: Number(id) }));
    /** Found in the text as it stands. */
    this.verbatim = new Map(specials.filter((s) => !s.normalized).map((s) => [s.content, s.id]));
    /** Found in text that is normalized already. */
    this.folded = new Map(specials.filter((s) => s.normalized).map((s) => [normalized(s.content), s.id]));
    const unknown = Object.entries(vocabulary).find(([, id]) => id === facts.unknown);
    if (unknown === undefined) throw new KitError("modelDamaged", "vocab.json lacks the unknown token");
    this.unknown = unknown[0];
  }

  /**
   * @param {string} text
   * @returns {number[]} `length` ids: begin, as many words as there is room for, end, then pad
   */
  encode(text) {
    const { begin, end, pad, length } = this.facts;
    const ids = [begin];
    for (const id of this.words(text)) {
      if (ids.length === length - 1) break;
      ids.push(id);
    }
    ids.push(end);
    while (ids.length < length) ids.push(pad);
    return ids;
  }

  /** @param {string} text @returns {Generator<number>} the ids of all of a text, without begin and end */
  *words(text) {
    for (const [plain, special] of apart(text, this.verbatim)) {
      for (const [part, folded] of apart(normalized(plain), this.folded)) {
        for (const match of part.matchAll(PIECES)) {
          // Special tokens in capitals come here, and are taken to pieces.
          for (const piece of match[1] ? ["<|", match[1], "|>"] : [match[0]]) yield* this.joined(piece);
        }
        yield* folded;
      }
      yield* special;
    }
  }

  /**
   * The ids of a word's bytes, joined pair by pair: of those in merges.txt the earliest, of equal ones the leftmost.
   *
   * As `Word::merge_all` of `tokenizers` (src/models/bpe/word.rs), which keeps a pair that was changed meanwhile if it
   * would still become the same piece.
   *
   * @param {string} piece
   * @returns {number[]}
   */
  joined(piece) {
    const parts = Array.from(ENCODER.encode(piece), (byte) => BYTES[byte] ?? "");
    parts[parts.length - 1] += END_OF_WORD;
    for (const [i, part] of parts.entries()) if (!this.vocabulary.has(part)) parts[i] = this.unknown;
    const after = parts.map((_, i) => (i + 1 < parts.length ? i + 1 : -1));
    const before = parts.map((_, i) => i - 1);
    /** @type {{ rank: number, left: number, whole: string }[]} */
    const waiting = [];
    /** @param {number} at */
    const part = (at) => /** @type {string} */ (parts[at]);
    /** @param {number} left @param {number} right */
    const consider = (left, right) => {
      if (left < 0 || right < 0) return;
      const rank = this.ranks.get(`${part(left)} ${part(right)}`);
      if (rank !== undefined) waiting.push({ rank, left, whole: part(left) + part(right) });
    };
    for (const left of parts.keys()) consider(left, after[left] ?? -1);
    for (let next = first(waiting); next !== undefined; next = first(waiting)) {
      const { left, whole } = next;
      const right = after[left] ?? -1;
      if (part(left) === "" || right < 0 || part(left) + part(right) !== whole) continue;
      if (!this.ranks.has(`${part(left)} ${part(right)}`)) continue;
      parts[left] = whole;
      parts[right] = "";
      after[left] = after[right] ?? -1;
      if ((after[left] ?? -1) >= 0) before[after[left] ?? 0] = left;
      consider(before[left] ?? -1, left);
      consider(left, after[left] ?? -1);
    }
    return parts.filter((text) => text !== "").map((text) => this.vocabulary.get(text) ?? this.facts.unknown);
  }
}

/**
 * Takes out the pair to join first.
 *
 * @template {{ rank: number, left: number }} T
 * @param {T[]} waiting
 * @returns {T | undefined}
 */
function first(waiting) {
  let best = 0;
  for (const [i, { rank, left }] of waiting.entries()) {
    const other = /** @type {T} */ (waiting[best]);
    if (rank < other.rank || (rank === other.rank && left < other.left)) best = i;
  }
  const [found] = waiting.splice(best, 1);
  return found;
}

/**
 * Splits text at special tokens, the longest where several begin; each part comes with what follows it.
 *
 * @param {string} text
 * @param {ReadonlyMap<string, number>} specials
 * @returns {Generator<[string, number[]]>}
 */
function* apart(text, specials) {
  const longestFirst = [...specials.keys()].sort((a, b) => b.length - a.length);
  let rest = text;
  while (longestFirst.length > 0) {
    const found = longestFirst.map((s) => ({ s, at: rest.indexOf(s) })).filter(({ at }) => at >= 0);
    // The sort is stable: of those that begin at one place the longest stays in front.
    const [next] = found.sort((a, b) => a.at - b.at);
    if (next === undefined) break;
    yield [rest.slice(0, next.at), [/** @type {number} */ (specials.get(next.s))]];
    rest = rest.slice(next.at + next.s.length);
  }
  yield [rest, []];
}
