// One invocation: from the two handles the host gives to the last byte of the answer. Everything stays synchronous that can:
// a handler that returns a Response with a string never leaves this stack.
import { clearTimers, fillProcessEnv } from "./globals.js";
import { IncomingRequest, closeRequest } from "./request.js";
import { Response, hasName, takeParts, withoutConnectionFields } from "./response.js";
import { describe } from "./report.js";
import { ready, resetEngine } from "./wait.js";
import {
  CLOSED, FAILED, bodyWriter, dropOutgoingBody, dropOutput, environment, fieldsFromList, finishBody, free, lowerBytes,
  lowerString, outputPollable, startResponse, writable, writeMemory,
} from "./wasi.js";

/** The second and third arguments of a handler. */
class Context {
  constructor() {
    this.waiting = undefined;
  }

  waitUntil(promise) {
    (this.waiting ??= []).push(promise);
  }

  passThroughOnException() {}
}

/** Statuses whose answers say nothing about a length. */
const NO_LENGTH = new Set([204, 304]);

/** The answer's body could not be written: the client is gone or the host gave up on it. Nobody is there to be told. */
class Gone extends Error {}

/** Writes `length` bytes at `at`. Returns undefined when they are all written, a Promise when the host is not ready for more. */
function writeAll(stream, at, length) {
  while (length > 0) {
    const room = writable(stream);
    if (room === CLOSED || room === FAILED) throw new Gone();
    if (room === 0) {
      const [rest, from] = [length, at];
      return ready(outputPollable(stream)).then(() => writeAll(stream, from, rest));
    }
    const now = Math.min(room, length);
    if (!writeMemory(stream, at, now)) throw new Gone();
    at += now;
    length -= now;
  }
  return undefined;
}

/** Runs `start`, then `after(succeeded)`: at once, or when the Promise that `start` returned is settled. */
function always(start, after) {
  let pending;
  try {
    pending = start();
  } catch (error) {
    after(false);
    throw error;
  }
  if (pending === undefined) {
    after(true);
    return undefined;
  }
  return pending.then(
    () => after(true),
    (error) => {
      after(false);
      throw error;
    },
  );
}

/** Writes what was lowered, and frees it. */
function writeLowered(stream, [at, length, room]) {
  return always(() => writeAll(stream, at, length), () => free(at, room));
}

/** Lowers a body that is there as a whole, so that its length is known before the head: [address, bytes, room] or undefined. */
function lower(body) {
  if (typeof body === "string") return lowerString(body);
  if (body instanceof Uint8Array) return [lowerBytes(body), body.length, body.length];
  return undefined;
}

async function writeStream(stream, source) {
  const reader = source.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      if (typeof value === "string") await writeLowered(stream, lowerString(value));
      else if (value instanceof Uint8Array) {
        if (value.length > 0) await writeLowered(stream, lower(value));
      } else {
        throw new TypeError(`a response stream must give Uint8Array or string chunks, got ${Object.prototype.toString.call(value)}`);
      }
    }
  } catch (error) {
    // The source must learn that nobody listens, or it produces for ever.
    await reader.cancel(error).catch(() => {});
    throw error;
  }
}

/** Sends `response`. Returns undefined when all of it is out, else a Promise. */
function send(outparam, response) {
  const parts = takeParts(response);
  if (parts === undefined) {
    throw new TypeError(`fetch() must return a Response, got ${Object.prototype.toString.call(response)}`);
  }
  let headers = parts.headers;
  const body = parts.body;
  const lowered = lower(body);
  if (lowered !== undefined || (body === null && !NO_LENGTH.has(parts.status))) {
    if (!hasName(headers, "content-length")) headers.push("content-length", lowered === undefined ? "0" : String(lowered[1]));
  }
  let fields = fieldsFromList(headers);
  if (fields === -1) {
    headers = withoutConnectionFields(headers);
    fields = fieldsFromList(headers);
    if (fields === -1) throw new TypeError(`the host refuses a header of this response: ${JSON.stringify(headers)}`);
  }
  outparam.set = true;
  const outgoing = startResponse(outparam.handle, parts.status, fields);
  if (body === null) {
    finishBody(outgoing);
    return undefined;
  }
  const stream = bodyWriter(outgoing);
  return always(
    () => (lowered === undefined ? writeStream(stream, body) : writeLowered(stream, lowered)),
    (complete) => {
      dropOutput(stream);
      // A body that is dropped without being finished reaches the client as cut off, which is what it is.
      if (complete) finishBody(outgoing);
      else dropOutgoingBody(outgoing);
    },
  );
}

/** Tells the log, and the client if it has heard nothing yet. */
function fail(outparam, error) {
  if (error instanceof Gone) return undefined;
  console.error(`uncaught exception in fetch(): ${describe(error)}`);
  if (outparam.set) return undefined;
  return send(outparam, new Response("Internal Server Error\n", { status: 500 }));
}

/** What the author exported, as one function; throws at build time when it is not there. */
function findHandler(author) {
  const exported = author.default;
  if (typeof exported?.fetch === "function") return (request, env, ctx) => exported.fetch(request, env, ctx);
  if (typeof exported === "function") return exported;
  throw new Error(
    'the entry file must have "export default { fetch(req, env, ctx) { ... } }"; ' +
      `its exports are: ${Object.keys(author).join(", ") || "none"}`,
  );
}

/** The object the component exports as `wasi:http/incoming-handler`. */
export function createHandler(author) {
  const handler = findHandler(author);
  // An instance belongs to one version, whose settings do not change: read once, never while the snapshot is taken.
  let env;

  function begin() {
    env ??= environment();
    fillProcessEnv(env);
    resetEngine();
  }

  function finish(request) {
    closeRequest(request);
    clearTimers();
  }

  async function finishLater(request, ctx, pending, outparam) {
    try {
      await pending;
    } catch (error) {
      await fail(outparam, error);
    }
    for (let i = 0; ctx.waiting !== undefined && i < ctx.waiting.length; i++) {
      try {
        await ctx.waiting[i];
      } catch (error) {
        console.error(`a promise given to waitUntil() was rejected: ${describe(error)}`);
      }
    }
    finish(request);
  }

  function handle(requestHandle, outparamHandle) {
    begin();
    const request = new IncomingRequest(requestHandle);
    const outparam = { handle: outparamHandle, set: false };
    const ctx = new Context();
    let pending;
    try {
      const result = handler(request, { ...env }, ctx);
      pending = typeof result?.then === "function" ? result.then((response) => send(outparam, response)) : send(outparam, result);
    } catch (error) {
      pending = Promise.reject(error);
    }
    if (pending === undefined && ctx.waiting === undefined) {
      finish(request);
      return undefined;
    }
    return finishLater(request, ctx, pending, outparam);
  }

  // The engine expects a promise.
  return { handle: async (request, outparam) => handle(request, outparam) };
}
