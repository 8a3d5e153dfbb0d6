/** What a pool's workers were configured with, for those that are started later. */
export class Configurations {
  #entries = [];

  /** Notes the args of a `configure` that is about to be sent; `confirm` or `remove` tells how it went. */
  add(args) {
    const entry = { args, sure: false };
    this.#entries.push(entry);
    return entry;
  }

  remove(entry) {
    this.#entries = this.#entries.filter((other) => other !== entry);
  }

  /** A whole configuration takes the place of earlier ones of its name; one without `lm` only changes them. */
  confirm(entry) {
    entry.sure = true;
    if (!entry.args?.lm) return;
    const place = this.#entries.indexOf(entry);
    this.#entries = this.#entries.filter(
      (other, i) => i >= place || !other.sure || nameOf(other) !== nameOf(entry),
    );
  }

  /** Sends all of them in order, those included that are added until `done` is called. */
  async replay(send, done) {
    const sent = new Set();
    for (;;) {
      const entry = this.#entries.find((other) => !sent.has(other));
      if (entry === undefined) {
        done();
        return;
      }
      sent.add(entry);
      try {
        await send(entry.args);
      } catch (error) {
        if (entry.sure) throw error;
      }
    }
  }
}

function nameOf({ args }) {
  return args?.name ?? "default";
}
