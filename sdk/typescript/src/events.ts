/** A parser of server-sent events, of which only `data` is used. */

/** What a response yields while it arrives, and its result after the end. */
export abstract class EventStream<E, T> {
  #rest: Uint8Array[] = [];
  #data: string[] = [];

  /** Parses bytes, and returns the events in them. */
  feed(content: Uint8Array): E[] {
    if (!content.includes(0x0a)) {
      // A picture arrives in many parts, which are joined once.
      this.#rest.push(content);
      return [];
    }
    const bytes = Buffer.concat([...this.#rest, content]);
    const events: E[] = [];
    let start = 0;
    for (let end = bytes.indexOf(0x0a); end >= 0; end = bytes.indexOf(0x0a, start)) {
      const line = bytes.toString('utf8', start, end).replace(/\r+$/, '');
      start = end + 1;
      if (line.startsWith('data:')) {
        this.#data.push(line.slice(line.startsWith('data: ') ? 6 : 5));
      } else if (line === '' && this.#data.length > 0) {
        const event = this.event(this.#data.join('\n'));
        this.#data = [];
        if (event !== undefined) events.push(event);
      }
    }
    this.#rest = [bytes.subarray(start)];
    return events;
  }

  /** Returns the result, after all bytes were fed. */
  abstract result(): T;

  /** Handles the data of an event. Returns what the caller gets. */
  protected abstract event(data: string): E | undefined;
}
