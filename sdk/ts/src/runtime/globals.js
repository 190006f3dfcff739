// Puts our globals in place. Imported first in every bundle, so that the author's modules capture these.
import {
  NativeRequest, nativeClearInterval, nativeClearTimeout, nativeFetch, nativeSetInterval, nativeSetTimeout,
} from "./natives.js";
import { isIncoming, toNative } from "./request.js";
import { Response } from "./response.js";
import { policyHeader } from "./policy.js";
import { describe } from "./report.js";
import { engineStarted } from "./wait.js";

/** The engine's Request, which also takes the one a handler receives. */
class Request extends NativeRequest {
  constructor(input, init) {
    super(isIncoming(input) ? toNative(input, init) : input, init);
  }

  static [Symbol.hasInstance](value) {
    return value instanceof NativeRequest;
  }
}

function fetch(input, init) {
  engineStarted();
  try {
    if (isIncoming(input)) input = toNative(input, init);
    const policy = init?.tidegate;
    if (policy !== undefined) {
      const headers = new Headers(init.headers ?? (input instanceof NativeRequest ? input.headers : undefined));
      const value = policyHeader(policy);
      if (value !== "") headers.set("tidegate-policy", value);
      const { tidegate: _, ...rest } = init;
      init = { ...rest, headers };
    }
    return nativeFetch(input, init);
  } catch (error) {
    return Promise.reject(error);
  }
}

// Timers end with the invocation that set them: on a reused instance they would otherwise run in the next one.
const timeouts = new Set();
const intervals = new Set();

/** Calls back. An exception here would end the instance, and with it the request that is being answered. */
function callBack(callback, args) {
  try {
    callback(...args);
  } catch (error) {
    console.error(`uncaught exception in a timer: ${describe(error)}`);
  }
}

function requireFunction(name, callback) {
  if (typeof callback !== "function") throw new TypeError(`${name}: the callback must be a function`);
}

function setTimeout(callback, delay, ...args) {
  requireFunction("setTimeout", callback);
  engineStarted();
  const id = nativeSetTimeout(() => {
    timeouts.delete(id);
    callBack(callback, args);
  }, delay);
  timeouts.add(id);
  return id;
}

function setInterval(callback, delay, ...args) {
  requireFunction("setInterval", callback);
  engineStarted();
  const id = nativeSetInterval(() => callBack(callback, args), delay);
  intervals.add(id);
  return id;
}

function clearTimeout(id) {
  timeouts.delete(id);
  if (id !== undefined && id !== null) nativeClearTimeout(id);
}

function clearInterval(id) {
  intervals.delete(id);
  if (id !== undefined && id !== null) nativeClearInterval(id);
}

/** Clears what an invocation left running. */
export function clearTimers() {
  if (timeouts.size > 0) {
    for (const id of timeouts) nativeClearTimeout(id);
    timeouts.clear();
  }
  if (intervals.size > 0) {
    for (const id of intervals) nativeClearInterval(id);
    intervals.clear();
  }
}

/** `process` as far as npm packages look for settings: an environment, filled when a request arrives. */
const process = globalThis.process ?? {};
process.env ??= {};

/** Gives `process.env` the values of `env`, dropping what an earlier invocation may have added. */
export function fillProcessEnv(env) {
  process.env = { ...env };
}

const place = (name, value) => {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
};

place("Request", Request);
place("Response", Response);
place("fetch", fetch);
place("setTimeout", setTimeout);
place("setInterval", setInterval);
place("clearTimeout", clearTimeout);
place("clearInterval", clearInterval);
place("process", process);
