// Checked by `npm run typecheck`: what authors write compiles, what is wrong does not.
import { policyHeader, type Handler } from "@tidegate/sdk";

interface Env {
  KEY?: string;
}

export default {
  async fetch(request, env, ctx) {
    const key: string | undefined = env.KEY;
    ctx.waitUntil(fetch("http://a/", { tidegate: { deadline: 2, mode: "race", regions: ["iad"] } }));
    // @ts-expect-error not a mode
    void fetch("http://a/", { tidegate: { mode: "fastest" } });
    // @ts-expect-error not a policy member
    void fetch("http://a/", { tidegate: { retry: 3 } });
    // @ts-expect-error not a setting of this function
    void env.OTHER;
    const home: string | undefined = process.env["HOME"];
    return Response.json({ key, home, header: policyHeader({ retries: 1 }), method: request.method });
  },
} satisfies Handler<Env>;

export const wrong = {
  // @ts-expect-error a handler returns a Response
  fetch: () => "text",
} satisfies Handler;
