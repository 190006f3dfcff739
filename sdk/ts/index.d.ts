/** Waits for nothing by itself; tells the host what still has to happen after the answer. */
export interface Context {
  /** Keeps the invocation alive until `promise` settles. A rejection is logged. */
  waitUntil(promise: Promise<unknown>): void;
  /** Does nothing here; present because handlers written for other runtimes call it. */
  passThroughOnException(): void;
}

/**
 * The default export of a function's entry file.
 *
 * `Env` describes the function's settings; every value is a string.
 */
export interface Handler<Env extends object = Record<string, string | undefined>> {
  /** Called once for each request. What it throws is logged, and the client gets a 500. */
  fetch(request: Request, env: Env, ctx: Context): Response | Promise<Response>;
}

/** What one outbound call asks of the gate: `fetch(url, { tidegate: policy })`. */
export interface Policy {
  /** Give up after this many seconds, waiting at the gate included. */
  deadline?: number | undefined;
  /** How regions and endpoints are used: one after another, a second copy when the first is slow, or copies at once. */
  mode?: "failover" | "hedge" | "race" | undefined;
  /** Regions to prefer, best first. */
  regions?: readonly string[] | undefined;
  /** Whether the call must not leave from any region but those of `regions`. */
  regionsOnly?: boolean | undefined;
  /** Retries at most, after the first attempt. */
  retries?: number | undefined;
}

/**
 * The value of the `tidegate-policy` header for `policy`, for clients that take headers and not a `RequestInit`; an empty
 * string for an empty policy. Throws a TypeError that names the member when one is unknown or out of range.
 */
export function policyHeader(policy: Policy): string;
