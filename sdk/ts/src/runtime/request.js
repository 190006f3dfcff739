// The Request a handler receives. It reads everything from the host when asked and not before: most handlers look at the URL
// and little else, and each look is a call out of the instance.
import { NativeRequest, NativeResponse } from "./natives.js";
import { IncomingBody } from "./incoming-body.js";
import { dropRequest, requestAuthority, requestHeaders, requestMethod, requestPath, requestScheme } from "./wasi.js";

const decoder = new TextDecoder();
const state = Symbol("tidegate.request");

/** What a request holds. `handle` is -1 once the invocation is over. */
class State {
  constructor(handle) {
    this.handle = handle;
    this.method = undefined;
    this.url = undefined;
    this.headers = undefined;
    this.body = undefined;
    this.stream = undefined;
    this.used = false;
    this.signal = undefined;
  }

  open(what) {
    if (this.handle === -1) throw new TypeError(`the request is over: read ${what} before the answer is complete`);
    return this.handle;
  }
}

function takeBody(request) {
  const s = request[state];
  if (s.used || s.stream?.locked) throw new TypeError("the request body was already used");
  if (s.stream !== undefined) return new NativeResponse(s.stream).arrayBuffer().then((buffer) => new Uint8Array(buffer));
  s.used = true;
  s.body ??= new IncomingBody(s.open("the body"));
  return s.body.all();
}

const hasNoBody = (s) => s.method === "GET" || s.method === "HEAD";

export class IncomingRequest {
  constructor(handle) {
    this[state] = new State(handle);
  }

  get method() {
    const s = this[state];
    return (s.method ??= requestMethod(s.open("method")));
  }

  get url() {
    const s = this[state];
    if (s.url === undefined) {
      const handle = s.open("url");
      s.url = `${requestScheme(handle)}://${requestAuthority(handle)}${requestPath(handle)}`;
    }
    return s.url;
  }

  get headers() {
    const s = this[state];
    return (s.headers ??= new Headers(requestHeaders(s.open("headers"))));
  }

  get body() {
    const s = this[state];
    void this.method;
    if (hasNoBody(s)) return null;
    if (s.stream === undefined) {
      s.body ??= new IncomingBody(s.open("the body"));
      s.stream = s.body.stream();
    }
    return s.stream;
  }

  get bodyUsed() {
    return this[state].used;
  }

  get signal() {
    return (this[state].signal ??= new AbortController().signal);
  }

  get redirect() { return "manual"; }
  get cache() { return "default"; }
  get credentials() { return "same-origin"; }
  get destination() { return ""; }
  get integrity() { return ""; }
  get keepalive() { return false; }
  get mode() { return "cors"; }
  get referrer() { return "about:client"; }
  get referrerPolicy() { return ""; }
  get duplex() { return "half"; }

  async bytes() { return takeBody(this); }

  async arrayBuffer() {
    const bytes = await takeBody(this);
    return bytes.byteLength === bytes.buffer.byteLength ? bytes.buffer : bytes.slice().buffer;
  }

  async text() { return decoder.decode(await takeBody(this)); }

  async json() { return JSON.parse(decoder.decode(await takeBody(this))); }

  async blob() {
    return new Blob([await takeBody(this)], { type: this.headers.get("content-type") ?? "" });
  }

  async formData() {
    const type = this.headers.get("content-type") ?? "";
    return new NativeResponse(await takeBody(this), { headers: { "content-type": type } }).formData();
  }

  clone() {
    const s = this[state];
    if (s.used) throw new TypeError("the request body was already used");
    const body = this.body;
    if (body === null) return new NativeRequest(this.url, { method: this.method, headers: this.headers });
    const [ours, theirs] = body.tee();
    s.stream = ours;
    return new NativeRequest(this.url, { method: this.method, headers: this.headers, body: theirs, duplex: "half" });
  }

  get [Symbol.toStringTag]() { return "Request"; }
}

Object.setPrototypeOf(IncomingRequest.prototype, NativeRequest.prototype);

export const isIncoming = (value) => typeof value === "object" && value !== null && state in value;

/** The engine's own Request with the same content, for what only the engine can take (its fetch). Uses up the body. */
export function toNative(request, init) {
  const s = request[state];
  const body = init?.body === undefined ? request.body : undefined;
  const base = { method: request.method, headers: request.headers };
  if (body) {
    s.used = true;
    Object.assign(base, { body, duplex: "half" });
  }
  return new NativeRequest(request.url, { ...base, ...init });
}

/** Ends the request with its invocation: both handles go back to the host. */
export function closeRequest(request) {
  const s = request[state];
  s.body?.release();
  dropRequest(s.handle);
  s.handle = -1;
}
