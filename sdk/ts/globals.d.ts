// What is there globally: the web platform's names as a worker has them. Name it in tsconfig.json:
//   "lib": ["es2023"], "types": ["@tidegate/sdk/globals"]
/// <reference lib="webworker" />
/// <reference lib="webworker.iterable" />
/// <reference lib="webworker.asynciterable" />
import type { Policy } from "./index.js";

declare global {
  interface RequestInit {
    /** What this call asks of the gate; sent as the `tidegate-policy` header. */
    tidegate?: Policy;
    /** Needed when `body` is a stream. */
    duplex?: "half";
  }

  interface ResponseConstructor {
    json(data: unknown, init?: ResponseInit): Response;
  }

  /** As far as npm packages look for settings. */
  var process: {
    /** The function's settings, filled anew for each request. Empty while the module is evaluated at build time. */
    env: Record<string, string | undefined>;
  };
}

export {};
