// A guest for the tests of the SDK and the host: one plain thing for each path. README.md lists them.
import type { Context, Handler } from "@tidegate/sdk";

const encoder = new TextEncoder();
// Guests that wait are what is tested: this is their waiting, and no test's.
const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

// Module scope survives from request to request of one instance.
let served = 0;
let ticks = 0;

type Route = (request: Request, url: URL, env: Record<string, string>, ctx: Context) => Response | Promise<Response>;

function sse(count: number, ms: number): Response {
  let sent = 0;
  const events = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (sent === count) return controller.close();
      if (sent > 0) await pause(ms);
      controller.enqueue(encoder.encode(`data: ${sent++}\n\n`));
    },
  });
  return new Response(events, { headers: { "content-type": "text/event-stream" } });
}

const routes: Record<string, Route> = {
  "/": () => new Response("probe-ts\n"),
  "/count": () => Response.json({ served, ticks }),
  "/echo": (request) => new Response(request.body, { headers: { "x-echo-method": request.method } }),
  "/text": async (request) => new Response(`${(await request.text()).length} characters\n`),
  "/json": async (request) => Response.json({ got: await request.json() }, { status: 201, headers: { "x-a": "1" } }),
  "/bytes": async (request) => new Response(await request.bytes()),
  "/tee": async (request) => {
    const copy = request.clone();
    const [first, second] = await Promise.all([request.text(), copy.text()]);
    return Response.json({ same: first === second, length: first.length });
  },
  "/headers": (request) => Response.json({ url: request.url, method: request.method, headers: [...request.headers] }),
  "/env": (_request, _url, env) => Response.json({ env, process: process.env }),
  "/spoil-env": (_request, _url, env) => {
    env["SPOILED"] = "1";
    process.env["SPOILED"] = "1";
    return new Response("spoiled\n");
  },
  "/sse": (_request, url) => sse(Number(url.searchParams.get("n") ?? 3), Number(url.searchParams.get("ms") ?? 20)),
  "/big": (_request, url) => new Response("x".repeat(Number(url.searchParams.get("bytes") ?? 1_000_000))),
  "/sleep": async (_request, url) => {
    const ms = Number(url.searchParams.get("ms") ?? 50);
    await pause(ms);
    return new Response(`slept ${ms} ms\n`);
  },
  "/fetch": async (_request, url) => {
    const answer = await fetch(url.searchParams.get("url") ?? "");
    return Response.json({ status: answer.status, isResponse: answer instanceof Response, body: await answer.text() });
  },
  "/proxy": (_request, url) => fetch(url.searchParams.get("url") ?? ""),
  "/forward": (request, url) => fetch(new Request(url.searchParams.get("url") ?? "", request)),
  "/policy": (_request, url) =>
    fetch(url.searchParams.get("url") ?? "", { tidegate: { deadline: 2.5, mode: "hedge", regions: ["iad", "lhr"], retries: 3 } }),
  "/upload": async (request, url) => {
    const answer = await fetch(url.searchParams.get("url") ?? "", { method: "POST", body: request.body, duplex: "half" });
    return new Response(answer.body, { status: answer.status });
  },
  "/many": async (_request, url) => {
    const target = url.searchParams.get("url") ?? "";
    const calls = Array.from({ length: Number(url.searchParams.get("n") ?? 100) }, async () => {
      const answer = await fetch(target);
      await answer.text();
      return String(answer.status);
    });
    const outcomes: Record<string, number> = {};
    for (const outcome of await Promise.all(calls.map((call) => call.catch((error) => String(error))))) {
      outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
    }
    return Response.json(outcomes);
  },
  "/abort": async (_request, url) => {
    const started = performance.now();
    const signal = AbortSignal.timeout(Number(url.searchParams.get("ms") ?? 50));
    const error = await fetch(url.searchParams.get("url") ?? "", { signal }).then(() => "no error", (error) => error.name);
    return Response.json({ error, ms: Math.round(performance.now() - started) });
  },
  "/stray-rejection": () => {
    void Promise.reject(new Error("nobody handles this"));
    return new Response("answered all the same\n");
  },
  "/stray-throw": async () => {
    setTimeout(() => {
      throw new Error("thrown in a timer");
    }, 1);
    await pause(20);
    return new Response("answered all the same\n");
  },
  "/wait-until": (_request, url, _env, ctx) => {
    ctx.waitUntil(pause(Number(url.searchParams.get("ms") ?? 50)).then(() => console.log("waited until the end")));
    return new Response("answered at once\n");
  },
  "/leave-interval": () => {
    setInterval(() => ticks++, 1);
    setTimeout(() => ticks++, 1);
    return new Response("left running\n");
  },
  "/redirect": () => Response.redirect("http://elsewhere.invalid/", 303),
  "/none": () => new Response(null, { status: 204 }),
  "/log": () => {
    console.log("to the log");
    console.error("to the error log");
    return new Response("logged\n");
  },
  "/throw": () => {
    throw new Error("thrown on purpose");
  },
  "/reject": () => Promise.reject(new TypeError("rejected on purpose")),
  "/cut": () =>
    new Response(
      new ReadableStream({
        start(controller) {
          controller.enqueue(encoder.encode("half of "));
        },
        pull(controller) {
          controller.error(new Error("cut on purpose"));
        },
      }),
    ),
  "/not-a-response": () => "a string" as unknown as Response,
};

export default {
  fetch(request, env, ctx) {
    served++;
    const url = new URL(request.url);
    const route = routes[url.pathname];
    return route ? route(request, url, env, ctx) : new Response("no such path\n", { status: 404 });
  },
} satisfies Handler<Record<string, string>>;
