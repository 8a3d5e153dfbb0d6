const LF = 0x0a;
const BOM = "\ufeff";

/** Makes lines of text out of what a pipe gives. */
export class LineReader {
  #parts = [];
  #bytes = 0;
  #first = true;

  /** `maxBytes`: longest line to be waited for. */
  constructor(maxBytes) {
    this.maxBytes = maxBytes;
  }

  /**
   * The lines that `buffer` completes, without their LF. Only whole lines are decoded, since a read may end
   * within a character, and only LF ends one: to some readers U+2028 does, too.
   */
  push(buffer) {
    const end = buffer.lastIndexOf(LF);
    if (end < 0) {
      this.#keep(buffer);
      return [];
    }
    let whole = buffer.subarray(0, end);
    if (this.#parts.length > 0) {
      whole = Buffer.concat([...this.#parts, whole]); // once a line, however many reads it took
      this.#parts = [];
      this.#bytes = 0;
    }
    if (end + 1 < buffer.length) this.#keep(buffer.subarray(end + 1));
    const lines = whole.toString("utf8").split("\n");
    if (this.#first && lines[0].startsWith(BOM)) lines[0] = lines[0].slice(1);
    this.#first = false;
    return lines;
  }

  #keep(part) {
    this.#parts.push(part);
    this.#bytes += part.length;
    if (this.#bytes > this.maxBytes) throw new RangeError(`a line has more than ${this.maxBytes} bytes`);
  }
}
