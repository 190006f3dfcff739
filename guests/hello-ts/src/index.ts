import type { Handler } from "@tidegate/sdk";

interface Env {
  GREETING?: string;
}

export default {
  fetch(_req, env) {
    return new Response(`${env.GREETING ?? "Hello from TypeScript"}\n`);
  },
} satisfies Handler<Env>;
