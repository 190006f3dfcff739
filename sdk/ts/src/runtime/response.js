// The Response a handler makes. The engine's own turns every body into a stream at once and keeps host handles; this one keeps
// what it was given, and the common case (a string or bytes) goes to the host in one write. Answers of fetch() stay the
// engine's own objects; `instanceof Response` holds for both.
import { NativeResponse } from "./natives.js";

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const NULL_BODY = new Set([101, 103, 204, 205, 304]);
const REDIRECT = new Set([301, 302, 303, 307, 308]);

/** The private part of a response; `parts` reads it without a property lookup that an author could see. */
const state = Symbol("tidegate.response");

/** What `new Response(body)` makes of its first argument: something to send, and the type it implies. */
function extract(body) {
  if (typeof body === "string") return { body, type: "text/plain;charset=UTF-8" };
  if (body instanceof Uint8Array) return { body, type: null };
  if (body instanceof ReadableStream) {
    if (body.locked) throw new TypeError("Response: the stream is already locked");
    return { body, type: null };
  }
  if (body instanceof ArrayBuffer) return { body: new Uint8Array(body), type: null };
  if (ArrayBuffer.isView(body)) return { body: new Uint8Array(body.buffer, body.byteOffset, body.byteLength), type: null };
  if (body instanceof URLSearchParams) {
    return { body: String(body), type: "application/x-www-form-urlencoded;charset=UTF-8" };
  }
  if (typeof Blob === "function" && body instanceof Blob) return { body: body.stream(), type: body.type || null };
  if (typeof FormData === "function" && body instanceof FormData) {
    const native = new NativeResponse(body);
    return { body: native.body, type: native.headers.get("content-type") };
  }
  if (typeof body?.[Symbol.asyncIterator] === "function") return { body: fromIterable(body), type: null };
  return { body: String(body), type: "text/plain;charset=UTF-8" };
}

function fromIterable(iterable) {
  const iterator = iterable[Symbol.asyncIterator]();
  return new ReadableStream({
    async pull(controller) {
      const { done, value } = await iterator.next();
      if (done) controller.close();
      else controller.enqueue(typeof value === "string" ? encoder.encode(value) : value);
    },
    cancel: (reason) => iterator.return?.(reason),
  });
}

class State {
  constructor(status, statusText, headers, body, type) {
    this.status = status;
    this.statusText = statusText;
    this.init = headers;
    this.headers = undefined;
    this.body = body;
    this.type = type;
    this.stream = undefined;
    this.used = false;
  }
}

/** Header names and values of `headers` as a flat list; what a HeadersInit may be, without building a Headers. */
function flatten(headers) {
  const flat = [];
  if (headers === undefined || headers === null) return flat;
  if (typeof headers[Symbol.iterator] === "function") {
    for (const pair of headers) {
      const [name, value, ...rest] = pair;
      if (value === undefined || rest.length > 0) throw new TypeError("Response: a header must be a [name, value] pair");
      flat.push(String(name), String(value));
    }
  } else {
    for (const name of Object.keys(headers)) flat.push(name, String(headers[name]));
  }
  return flat;
}

function readStatus(init) {
  const status = init.status === undefined ? 200 : Number(init.status);
  if (!(status >= 200 && status <= 599)) {
    throw new RangeError(`Response: status must be 200 to 599, got ${String(init.status)}`);
  }
  return Math.trunc(status);
}

async function bytesOf(response) {
  const s = response[state];
  if (s.used || s.stream?.locked) throw new TypeError("the response body was already used");
  s.used = true;
  if (s.stream !== undefined) return new Uint8Array(await new NativeResponse(s.stream).arrayBuffer());
  const body = s.body;
  if (body === null) return new Uint8Array(0);
  if (typeof body === "string") return encoder.encode(body);
  if (body instanceof Uint8Array) return body.slice();
  return new Uint8Array(await new NativeResponse(body).arrayBuffer());
}

export class Response {
  constructor(body, init) {
    let status = 200;
    let statusText = "";
    let headers;
    if (init !== undefined && init !== null) {
      status = readStatus(init);
      if (init.statusText !== undefined) statusText = String(init.statusText);
      headers = init.headers;
    }
    if (body === undefined || body === null) {
      this[state] = new State(status, statusText, headers, null, null);
    } else {
      if (NULL_BODY.has(status)) throw new TypeError(`Response: a ${status} has no body`);
      if (typeof body === "string") {
        this[state] = new State(status, statusText, headers, body, "text/plain;charset=UTF-8");
      } else {
        const { body: content, type } = extract(body);
        this[state] = new State(status, statusText, headers, content, type);
      }
    }
  }

  get status() { return this[state].status; }
  get statusText() { return this[state].statusText; }
  get ok() { return this[state].status >= 200 && this[state].status <= 299; }
  get type() { return this[state].status === 0 ? "error" : "default"; }
  get url() { return ""; }
  get redirected() { return false; }

  get headers() {
    const s = this[state];
    if (s.headers === undefined) {
      s.headers = new Headers(s.init ?? undefined);
      if (s.type !== null && !s.headers.has("content-type")) s.headers.set("content-type", s.type);
    }
    return s.headers;
  }

  get body() {
    const s = this[state];
    if (s.body === null) return null;
    if (s.body instanceof ReadableStream) return s.body;
    if (s.stream === undefined) {
      const bytes = typeof s.body === "string" ? encoder.encode(s.body) : s.body;
      s.stream = new ReadableStream({
        start(controller) {
          if (bytes.length > 0) controller.enqueue(bytes);
          controller.close();
        },
      });
    }
    return s.stream;
  }

  get bodyUsed() { return this[state].used; }

  async bytes() { return bytesOf(this); }
  async arrayBuffer() { return (await bytesOf(this)).buffer; }
  async text() { return decoder.decode(await bytesOf(this)); }
  async json() { return JSON.parse(decoder.decode(await bytesOf(this))); }
  async blob() { return new Blob([await bytesOf(this)], { type: this.headers.get("content-type") ?? "" }); }

  async formData() {
    const type = this.headers.get("content-type") ?? "";
    return new NativeResponse(await bytesOf(this), { headers: { "content-type": type } }).formData();
  }

  clone() {
    const s = this[state];
    if (s.used || s.stream?.locked) throw new TypeError("the response body was already used");
    let body = s.body;
    if (body instanceof ReadableStream) [s.body, body] = body.tee();
    const copy = new Response(null, { status: s.status, statusText: s.statusText, headers: new Headers(this.headers) });
    copy[state].body = body;
    return copy;
  }

  static json(data, init) {
    const text = JSON.stringify(data);
    if (text === undefined) throw new TypeError("Response.json: the value cannot be written as JSON");
    const response = new Response(text, init);
    response[state].type = "application/json";
    return response;
  }

  static redirect(url, status = 302) {
    if (!REDIRECT.has(status)) throw new RangeError(`Response.redirect: ${status} is not a redirect status`);
    return new Response(null, { status, headers: { location: String(url) } });
  }

  static error() {
    const response = new Response(null);
    response[state].status = 0;
    return response;
  }

  static [Symbol.hasInstance](value) {
    return (typeof value === "object" && value !== null && state in value) || value instanceof NativeResponse;
  }

  get [Symbol.toStringTag]() { return "Response"; }
}

/** Fields about one connection; wasi:http refuses them, and an upstream's have no meaning for our client. */
const CONNECTION_FIELDS = new Set([
  "connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
]);

/** The flat list without fields that belong to a connection. */
export function withoutConnectionFields(flat) {
  const kept = [];
  for (let i = 0; i < flat.length; i += 2) {
    if (!CONNECTION_FIELDS.has(flat[i].toLowerCase())) kept.push(flat[i], flat[i + 1]);
  }
  return kept;
}

const hasName = (flat, wanted) => {
  for (let i = 0; i < flat.length; i += 2) {
    const name = flat[i];
    if (name.length === wanted.length && name.toLowerCase() === wanted) return true;
  }
  return false;
};

/**
 * What has to be sent for `response`: its status, header list (flat) and body (string, Uint8Array, ReadableStream or null).
 * Uses the body up.
 */
export function takeParts(response) {
  const s = response[state];
  if (s === undefined) {
    if (!(response instanceof NativeResponse)) return undefined;
    if (response.bodyUsed) throw new TypeError("the response body was already used");
    return { status: response.status, headers: withoutConnectionFields(flatten(response.headers)), body: response.body };
  }
  if (s.used) throw new TypeError("the response body was already used");
  s.used = true;
  let headers;
  if (s.headers !== undefined) {
    headers = flatten(s.headers);
  } else {
    headers = flatten(s.init);
    if (s.type !== null && !hasName(headers, "content-type")) headers.push("content-type", s.type);
  }
  return { status: s.status === 0 ? 502 : s.status, headers, body: s.stream ?? s.body };
}

export { hasName };
