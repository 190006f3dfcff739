// The body of the request being served. Opened when first asked for; closed with the invocation, read or not.
import {
  BLOCKED, CLOSED, FAILED, bodyStream, consumeBody, dropIncomingBody, dropInput, inputPollable, read,
} from "./wasi.js";
import { ready } from "./wait.js";

const EMPTY = new Uint8Array(0);

function join(chunks, length) {
  if (chunks.length === 1) return chunks[0];
  const all = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

export class IncomingBody {
  constructor(request) {
    this.request = request;
    this.body = -1;
    this.input = -1;
    this.closed = false;
  }

  open() {
    if (this.body !== -1 || this.closed) return;
    this.body = consumeBody(this.request);
    if (this.body !== -1) this.input = bodyStream(this.body);
  }

  /** The next chunk, or undefined at the end. A Promise only when it has to wait. */
  next() {
    this.open();
    if (this.input === -1) {
      if (this.closed) throw new TypeError("the request is over: its body can no longer be read");
      return undefined;
    }
    const result = read(this.input);
    if (result === BLOCKED) return ready(inputPollable(this.input)).then(() => this.next());
    if (result === CLOSED) {
      this.release();
      return undefined;
    }
    if (result === FAILED) {
      this.release();
      throw new TypeError("the request body was cut off: the client went away or the body passed a limit");
    }
    return result;
  }

  /** All of it. Synchronous when everything is already there. */
  all() {
    const chunks = [];
    let length = 0;
    const more = (chunk) => {
      for (; chunk !== undefined; chunk = this.next()) {
        if (chunk instanceof Promise) return chunk.then(more);
        chunks.push(chunk);
        length += chunk.length;
      }
      return length === 0 ? EMPTY : join(chunks, length);
    };
    return more(this.next());
  }

  stream() {
    // Not a byte stream: the engine cannot tee() those.
    return new ReadableStream(
      {
        pull: async (controller) => {
          const chunk = await this.next();
          if (chunk === undefined) controller.close();
          else controller.enqueue(chunk);
        },
        cancel: () => this.release(),
      },
      { highWaterMark: 0 },
    );
  }

  /** Gives the handles back; the host drains what was not read. */
  release() {
    this.closed = true;
    if (this.input !== -1) dropInput(this.input);
    if (this.body !== -1) dropIncomingBody(this.body);
    this.input = this.body = -1;
  }
}
